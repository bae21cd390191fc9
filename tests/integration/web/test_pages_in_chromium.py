"""The pages in a real browser: styles and buttons work under the page's own security policy, narrow and dark too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeToken
from flowstate_daemon.web.pages import Pages
from flowstate_daemon.web.unsubscribe import Unsubscribe
from tests.integration.web.conftest import serve
from tests.support.chromium import browsing, needs_chromium
from tests.support.clock import FakeClock

pytestmark = needs_chromium

ADDRESS, KIND = "ada@example.org", "task-reminder"
CODEC = LinkTokenCodec(["a secret of more than thirty-two characters"])
CARD = "getComputedStyle(document.querySelector('main')).backgroundColor"
WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
SMALL = "[...document.querySelectorAll('button')].some(b => b.getBoundingClientRect().height < 44)"
# The contrast of each text with its background, as WCAG defines it; the lowest of the page.
CONTRAST = """(() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number)
    .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const under = e => { const c = getComputedStyle(e).backgroundColor;
    return c === 'rgba(0, 0, 0, 0)' ? under(e.parentElement) : c; };
  return Math.min(...[...document.querySelectorAll('h1, p, a, button')].map(e => {
    const [a, b] = [light(getComputedStyle(e).color), light(under(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05); }));
})()"""


@pytest.fixture
def suppressions(pool: asyncpg.Pool, clock: FakeClock) -> Suppressions:
    return Suppressions(pool, clock)


@pytest.fixture
async def page_url(suppressions: Suppressions, clock: FakeClock) -> AsyncIterator[str]:
    """The URL of the page for one address and kind."""
    unsubscribe = Unsubscribe(CODEC, suppressions, Pages("FlowState", "https://flowstate.example"), clock)
    token = CODEC.encode(UnsubscribeToken(ADDRESS, KIND, clock.now_ms(), "fr"))
    async with serve(unsubscribe.routes()) as client:
        yield f"{str(client._base_url).rstrip('/')}/unsubscribe/{token}"


async def unsubscribed_kinds(suppressions: Suppressions) -> set[str]:
    return set((await suppressions.status_for([ADDRESS]))[ADDRESS].unsubscribed)


async def test_unsubscribe_page_works_in_a_browser(page_url: str, suppressions: Suppressions, tmp_path: Path) -> None:
    """In both color schemes the page is styled and readable, and its buttons work without a script."""
    pictures: dict[str, bytes] = {}
    async with browsing(tmp_path / "profile") as tab:
        for scheme, width, card in (("light", 1280, "rgb(255, 255, 255)"), ("dark", 360, "rgb(31, 41, 55)")):
            await tab.look(scheme, width)
            await tab.open(page_url)
            assert await tab.ask("document.title") == "Unsubscribe from task reminders? · FlowState"
            assert await tab.ask(CARD) == card
            assert not await tab.ask(WIDE)
            assert not await tab.ask(SMALL)
            assert await tab.ask(CONTRAST) >= 4.5
            pictures[f"ask-{scheme}"] = await tab.picture()
            assert await unsubscribed_kinds(suppressions) == set()

            await tab.click("button")
            assert await unsubscribed_kinds(suppressions) == {KIND}
            assert await tab.ask("document.querySelector('h1').textContent") == "You\u2019re unsubscribed"
            assert await tab.ask(CONTRAST) >= 4.5
            pictures[f"unsubscribed-{scheme}"] = await tab.picture()

            await tab.click("button")
            assert await unsubscribed_kinds(suppressions) == set()
            assert await tab.ask("document.querySelector('h1').textContent") == "You\u2019re subscribed again"
        assert [text for text in tab.complaints if "favicon" not in text] == []
    for name, picture in pictures.items():
        (tmp_path / f"{name}.png").write_bytes(picture)
    assert len(set(pictures.values())) == len(pictures)
