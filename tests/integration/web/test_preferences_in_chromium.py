"""The preference page in a real browser: each switch, both languages, keyboard only, no script, narrow and dark."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from flowstate_daemon.database.preferences import PreferenceStore, RecipientSettings
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.preferences import Preferences
from flowstate_daemon.mail.unsubscribe_links import UnsubscribeToken
from tests.compat import packages
from tests.integration.web.conftest import serve
from tests.integration.web.test_pages_in_chromium import CONTRAST, WIDE
from tests.integration.web.test_preferences import CODEC, LEAVABLE, TO, routes
from tests.support.chromium import Tab, browsing, needs_chromium
from tests.support.clock import FakeClock

pytestmark = needs_chromium

LOOKS = (("light", 1280), ("light", 360), ("dark", 360))
# Each control with the area that reacts to a click or a touch: that of its label, where it has one around it.
SMALL = """[...document.querySelectorAll('a, button, select, input:not([type=hidden])')].filter(e => {
  const box = (e.closest('label') || e).getBoundingClientRect(); return box.height < 24 || box.width < 24;
}).map(e => e.outerHTML)"""
FOCUS = "document.activeElement.name || document.activeElement.textContent.trim()"
OUTLINE = "getComputedStyle(document.activeElement).outlineStyle"
FIRST = "button.first"
ON_THE_PAGE = ("task-reminder", "overdue-summary", "goal-milestone", "streak-milestone", "focus-report")


@pytest.fixture
def store(pool: asyncpg.Pool, clock: FakeClock) -> PreferenceStore:
    return PreferenceStore(pool, clock)


@pytest.fixture
async def page_url(pool: asyncpg.Pool, clock: FakeClock) -> AsyncIterator[str]:
    """The URL of the page of one recipient."""
    token = CODEC.encode(UnsubscribeToken(TO, "overdue-summary", clock.now_ms(), "en"))
    async with serve(routes(pool, clock)) as client:
        yield f"{str(client._base_url).rstrip('/')}/preferences/{token}"


@pytest.fixture
def pictures() -> Path:
    """Where the pictures of the pages go."""
    folder = Path(__file__).parents[3] / "artefacts" / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def box(kind: str) -> str:
    return f"input[name='on.{kind}']"


async def assert_usable(tab: Tab, pictures: Path, name: str) -> None:
    """Readable and usable in each look, by our own measures and by those of axe-core."""
    for scheme, width in LOOKS:
        await tab.look(scheme, width)
        assert not await tab.ask(WIDE), (name, width)
        assert await tab.ask(SMALL) == []
        assert await tab.ask(CONTRAST) >= 4.5, (name, scheme)
        assert await tab.audit() == [], (name, scheme, width)
        (pictures / f"preferences-{name}-{scheme}-{width}.png").write_bytes(await tab.long_picture())


@pytest.mark.node
@pytest.mark.parametrize("locale", ["en", "fr"])
async def test_every_state_of_the_page_is_usable(
    page_url: str,
    pool: asyncpg.Pool,
    clock: FakeClock,
    store: PreferenceStore,
    tmp_path: Path,
    pictures: Path,
    locale: str,
) -> None:
    """As it opens, saved, paused, with an unknown zone, suppressed, all off, and the pages around it."""
    packages.install()
    async with browsing(tmp_path / "profile") as tab:
        await tab.open("data:text/html,<img src=x>")
        assert await tab.audit() != []  # the audit finds what is wrong
        await tab.open(f"{page_url}?language={locale}")
        assert await tab.ask("document.documentElement.lang") == locale
        await assert_usable(tab, pictures, f"{locale}-open")
        await tab.ask("document.querySelector('[name=pause]').value = '2'")
        await tab.click(FIRST)
        assert await tab.ask("document.documentElement.lang") == locale
        await assert_usable(tab, pictures, f"{locale}-paused")
        await tab.ask("document.querySelector('[name=time_zone]').value = 'Mars/Olympus'")
        await tab.click(FIRST)
        await assert_usable(tab, pictures, f"{locale}-unknown-zone")
        await tab.send_command("Network.enable")
        await tab.send_command("Network.setExtraHTTPHeaders", headers={"Accept-Language": locale})
        leaving = page_url.replace("/preferences/", "/unsubscribe/")
        await tab.open(leaving)
        for name in ("confirm", "unsubscribed", "resubscribed"):
            assert await tab.ask("document.documentElement.lang") == locale
            await assert_usable(tab, pictures, f"{locale}-{name}")
            await tab.click("form button")
        await Suppressions(pool, clock).resubscribe(TO, "overdue-summary")
        await Suppressions(pool, clock).add(TO, "bounced")
        await tab.open(f"{page_url}?language={locale}")
        await tab.click("form:last-of-type button")
        assert "*" in (await store.load(TO)).unsubscribed
        await assert_usable(tab, pictures, f"{locale}-all-off")
        for name, url in (("unsubscribed-all", leaving), ("invalid", f"{page_url[:-3]}"), ("expired", page_url)):
            clock.advance(401 * 86_400 if name == "expired" else 0)
            await tab.open(f"{url}?language={locale}")
            await assert_usable(tab, pictures, f"{locale}-{name}")
        assert [text for text in tab.complaints if "favicon" not in text and "status of 4" not in text] == []


@pytest.mark.parametrize("locale", ["en", "fr"])
async def test_each_switch_works(page_url: str, store: PreferenceStore, tmp_path: Path, locale: str) -> None:
    """A click on the label switches, Save stores it, the next page shows it; one kind after the other, off and on."""
    async with browsing(tmp_path / "profile") as tab:
        await tab.set_time_zone("Europe/Paris")
        await tab.open(f"{page_url}?language={locale}")
        for on in (False, True):
            for number, kind in enumerate(LEAVABLE, 1):
                await tab.ask(f"document.querySelector({json.dumps(box(kind))}).closest('label').click()")
                await tab.click(FIRST)
                off = set(LEAVABLE[number:]) if on else set(LEAVABLE[:number])
                assert (await store.load(TO)).unsubscribed == off
                for other in LEAVABLE:
                    checked = await tab.ask(f"document.querySelector({json.dumps(box(other))}).checked")
                    assert checked is (other not in off)
        assert tab.complaints == []


@pytest.mark.parametrize(("locale", "scheme", "width"), [("en", "light", 1280), ("fr", "dark", 360)])
async def test_everything_works_by_keyboard(
    page_url: str, store: PreferenceStore, tmp_path: Path, locale: str, scheme: str, width: int
) -> None:
    """Tab reaches every control in the order of the page with a visible focus; Space, arrows, letters and Enter do."""
    await store.save(TO, RecipientSettings(Preferences(language=locale)))
    async with browsing(tmp_path / "profile") as tab:
        await tab.look(scheme, width)
        await tab.set_time_zone("Europe/Paris")
        await tab.open(f"{page_url}?language={locale}")
        seen = []
        for _ in range(12):
            await tab.press("Tab")
            seen.append(await tab.ask(FOCUS))
            assert await tab.ask(OUTLINE) != "none", seen
            if seen[-1] == "on.task-reminder":
                await tab.press("Space")
            elif seen[-1] in {"hour", "overdue", "pause"} or (seen[-1] == "language" and locale == "en"):
                await tab.press("ArrowDown")
            elif seen[-1] == "time_zone":
                await tab.ask("document.activeElement.select()")
                await tab.type("Tokyo")
        choices = ["hour", "overdue", "language", "pause", "time_zone"]
        language, save = ("Français", "Save") if locale == "en" else ("English", "Enregistrer")
        assert seen == [language, *(f"on.{kind}" for kind in ON_THE_PAGE), *choices, save]
        await tab.press_enter()
    stored = await store.load(TO)
    assert stored.unsubscribed == {"task-reminder"}
    chosen = stored.preferences
    assert (chosen.morning_hour, chosen.overdue_summary, chosen.language) == (5, "daily", "fr")
    assert (chosen.time_zone, chosen.paused_until is not None) == ("Asia/Tokyo", True)


@pytest.mark.parametrize("locale", ["en", "fr"])
async def test_page_works_without_a_script(page_url: str, store: PreferenceStore, tmp_path: Path, locale: str) -> None:
    """With scripts switched off, every choice can be made; the time zone is that of the server."""
    async with browsing(tmp_path / "profile") as tab:
        await tab.set_time_zone("Asia/Tokyo")
        await tab.disable_scripts()
        await tab.open(f"{page_url}?language={locale}")
        assert await tab.ask("document.documentElement.lang") == locale
        assert await tab.ask("document.querySelector('[name=time_zone]').value") == "Europe/Paris"
        await tab.ask(f"document.querySelector({json.dumps(box('focus-report'))}).click()")
        await tab.ask("document.querySelector('[name=hour]').value = '7'")
        await tab.click(FIRST)
        assert await tab.ask("document.querySelector('.notice.good') !== null")
    assert await store.load(TO) == RecipientSettings(Preferences(morning_hour=7), frozenset({"focus-report"}))


async def test_time_zone_of_the_browser_is_suggested_until_one_is_chosen(
    page_url: str, store: PreferenceStore, tmp_path: Path
) -> None:
    """The script fills in the browser's zone under the page's own policy; a stored choice stays."""
    async with browsing(tmp_path / "profile") as tab:
        await tab.set_time_zone("Asia/Tokyo")
        await tab.open(page_url)
        assert await tab.ask("document.querySelector('[name=time_zone]').value") == "Asia/Tokyo"
        assert await store.load(TO) == RecipientSettings()
        await tab.click(FIRST)
        assert (await store.load(TO)).preferences.time_zone == "Asia/Tokyo"
        await tab.set_time_zone("America/New_York")
        await tab.open(page_url)
        assert await tab.ask("document.querySelector('[name=time_zone]').value") == "Asia/Tokyo"
        assert tab.complaints == []
