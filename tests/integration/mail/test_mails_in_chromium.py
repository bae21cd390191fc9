"""Every email in a real browser: phone and desktop, light and dark, Outlook, axe-core; pictures in artefacts/emails.

`make pictures` runs these tests and those of the preference page, for a look at the pictures.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path

import pytest

from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.samples import Sample, all_samples
from tests.compat import packages
from tests.support.chromium import Tab, browsing, needs_chromium
from tests.support.mail_samples import HOSTILE, crowded, hostile, rendered, smallest
from tests.support.outlook import as_outlook_shows

pytestmark = needs_chromium

ARTEFACTS = Path(__file__).parents[3] / "artefacts" / "emails"
NARROW, WIDE = 360, 600
OUTLOOK_WIDTH = 640  # Word gives an email the 600 pixels of its table, and the window a margin
CARDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(31, 41, 55)"}
# Rules about whole pages: an email is an article in the page of a mail program, which has the landmarks.
ABOUT_PAGES = ("landmark-one-main", "region")
SHOWN = [*all_samples(), *crowded()]
SAID_DIFFERENTLY = {"expiresIn", "averageMood", "settingsUrl"}  # not as they were typed
# Cells whose text touches their edge although it has a border or a background.
OUTLOOK = """(() => {
  const cells = [...document.querySelectorAll("td.box, td.rule, th")];
  const inset = (cell, side) => parseFloat(getComputedStyle(cell)["padding" + side]);
  return {
    wide: document.documentElement.scrollWidth,
    boxes: document.querySelectorAll("td.box").length,
    rows: document.querySelectorAll("td.rule").length,
    facts: document.querySelectorAll("th").length,
    narrowBoxes: cells.filter((cell) => inset(cell, "Top") < 4 || inset(cell, "Bottom") < 4
      || (cell.className === "box" && inset(cell, "Left") < 10)).map((cell) => cell.textContent.slice(0, 40)),
    crowdedButtons: [...document.querySelectorAll(".go a")].filter((button) => {
      const top = button.closest("table").getBoundingClientRect().top;
      const ends = [...document.querySelectorAll("th, td.box, td.rule, p, li")]
        .filter((e) => e.textContent.trim()).map((e) => e.getBoundingClientRect().bottom);
      return top - Math.max(...ends.filter((end) => end <= top)) < 12;
    }).map((button) => button.textContent),
    crowdedBars: [...document.querySelectorAll("table[aria-hidden] td[height='10']")].filter((bar) => {
      const bottom = bar.getBoundingClientRect().bottom;
      const starts = [...document.querySelectorAll("th, h2")].map((e) => e.getBoundingClientRect().top);
      return Math.min(...starts.filter((start) => start >= bottom)) - bottom < 12;
    }).length,
  };
})()"""
LOOK = Path(__file__).with_name("look.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
async def tab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tab]:
    """One browser for all emails."""
    async with browsing(tmp_path_factory.mktemp("profile")) as tab:
        await tab.send_command("Network.enable")
        await tab.send_command("Network.setBlockedURLs", urls=["https://*"])
        yield tab


async def shown(tab: Tab, folder: Path, sample: Sample, locale: str) -> None:
    """Open an email as a file, without its logo, as most mail clients do at first."""
    file = folder / "mail.html"
    file.write_text(rendered(sample, locale).html, encoding="utf-8")
    await tab.open(file.as_uri())


async def test_every_email_is_readable(tab: Tab, tmp_path: Path) -> None:
    """In both schemes and widths: dark in dark mode, sufficient contrast, nothing wider than the screen."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    for sample, locale in product(SHOWN, LOCALES):
        await shown(tab, tmp_path, sample, locale)
        for scheme, width in product(CARDS, (NARROW, WIDE)):
            name = f"{sample.name}.{locale}.{scheme}.{width}"
            await tab.look(scheme, width)
            look = await tab.ask(LOOK)
            assert look["pale"] == [], name
            assert look["texts"] > 5, name
            assert not look["tooWide"], name
            assert look["card"] == CARDS[scheme] != look["pageColour"], name
            assert look["small"] == [], name
            assert look["preview"], name
            assert look["preview"] not in look["text"], name
            assert (look["flatButtons"], look["smallButtons"], look["scripts"]) == (0, 0, 0), name
            (ARTEFACTS / f"{name}.png").write_bytes(await tab.long_picture())


@pytest.mark.node
async def test_axe_finds_nothing(tab: Tab, tmp_path: Path) -> None:
    """In both languages, light and dark: the rules of WCAG and the best practices, for each email and for odd data."""
    packages.install()
    await tab.open("data:text/html,<img src=x>")
    assert await tab.audit() != []  # the audit finds what is wrong
    looks = (("light", WIDE), ("dark", NARROW))
    usual = [(sample, locale, looks) for sample, locale in product(all_samples(), LOCALES)]
    odd = [(sample, "fr", looks[1:]) for sample in (*crowded(), *smallest(), *hostile())]
    for sample, locale, wanted in (*usual, *odd):
        await shown(tab, tmp_path, sample, locale)
        for scheme, width in wanted:
            await tab.look(scheme, width)
            assert await tab.audit(*ABOUT_PAGES) == [], (sample.name, locale, scheme)


async def test_email_when_text_is_hostile(tab: Tab, tmp_path: Path) -> None:
    """Markup in user text is shown as text, is not executed, and widens nothing beyond a phone's screen."""
    await tab.look("dark", NARROW)
    for sample in hostile():
        await shown(tab, tmp_path, sample, "fr")
        look = await tab.ask(LOOK)
        typed = {name for name, value in sample.context.items() if value == HOSTILE} - SAID_DIFFERENTLY
        assert ("<script>evil()</script>" in look["text"]) == bool(typed), sample.name
        assert (look["scripts"], look["tooWide"], look["pale"]) == (0, False, []), sample.name


async def test_every_email_in_outlook(tab: Tab, tmp_path: Path) -> None:
    """Without what Word ignores: boxes, bars and rows keep their distance, and nothing is wider than the window."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    await tab.look("light", OUTLOOK_WIDTH)
    for sample, locale in product(all_samples(), LOCALES):  # Word does not break long words: others may be wider
        file = tmp_path / "outlook.html"
        file.write_text(as_outlook_shows(rendered(sample, locale).html), encoding="utf-8")
        await tab.open(file.as_uri())
        look = await tab.ask(OUTLOOK)
        assert look["wide"] <= OUTLOOK_WIDTH, sample.name
        assert look["narrowBoxes"] == [], sample.name
        assert (look["crowdedButtons"], look["crowdedBars"]) == ([], 0), sample.name
        assert look["boxes"] + look["rows"] + look["facts"] > 0 or sample.kind == "welcome", sample.name
        (ARTEFACTS / f"{sample.name}.{locale}.outlook.{OUTLOOK_WIDTH}.png").write_bytes(await tab.long_picture())
