"""Every email in a real browser, at phone and desktop width, light and dark; screenshots in artefacts/emails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path

import pytest

from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.samples import Sample, all_samples
from tests.support.chromium import PROGRAM, Tab, browsing
from tests.support.mail_samples import HOSTILE, crowded, hostile, rendered

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed")

ARTEFACTS = Path(__file__).parents[3] / "artefacts" / "emails"
NARROW, WIDE = 360, 640
CARDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(31, 41, 55)"}
SHOWN = [*all_samples(), *crowded()]
SAID_DIFFERENTLY = {"expiresIn", "averageMood", "settingsUrl"}  # not as they were typed
LOOK = Path(__file__).with_name("look.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
async def tab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tab]:
    """One browser for all emails."""
    async with browsing(tmp_path_factory.mktemp("profile")) as tab:
        await tab.send_command("Emulation.setScrollbarsHidden", hidden=True)  # as on a phone, where they take no space
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
            if locale == LOCALES[0]:
                (ARTEFACTS / f"{name}.png").write_bytes(await tab.long_picture())


async def test_email_when_text_is_hostile(tab: Tab, tmp_path: Path) -> None:
    """Markup in user text is shown as text, is not executed, and widens nothing beyond a phone's screen."""
    await tab.look("dark", NARROW)
    for sample in hostile():
        await shown(tab, tmp_path, sample, "fr")
        look = await tab.ask(LOOK)
        typed = {name for name, value in sample.context.items() if value == HOSTILE} - SAID_DIFFERENTLY
        assert ("<script>evil()</script>" in look["text"]) == bool(typed), sample.name
        assert (look["scripts"], look["tooWide"], look["pale"]) == (0, False, []), sample.name
