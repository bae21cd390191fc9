"""The pages in a real browser: its rules let the style and the buttons through, on small screens and in the dark."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from flowstate_daemon.mail.policy import RecipientStatus
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeToken
from flowstate_daemon.web.pages import Pages
from flowstate_daemon.web.server import HttpServer
from flowstate_daemon.web.unsubscribe import Unsubscribe
from tests.support.chromium import PROGRAM, browsing
from tests.support.clock import FakeClock

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed")

STORE = LinkTokenCodec(["a secret of more than thirty-two characters"])
CARD = "getComputedStyle(document.querySelector('main')).backgroundColor"
WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
SMALL = "[...document.querySelectorAll('button')].some(b => b.getBoundingClientRect().height < 44)"
# The contrast of each text with the surface that it stands on, as WCAG counts it; the lowest of the page.
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


class Memory:
    """Who has left what, for as long as a test lasts."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()

    async def unsubscribe(self, address: str, kind: str) -> bool:
        self.kinds.add(kind)
        return True

    async def resubscribe(self, address: str, kind: str) -> list[str]:
        self.kinds.discard(kind)
        return [kind]

    async def facts_for(self, addresses: Sequence[str]) -> Mapping[str, RecipientStatus]:
        return dict.fromkeys(addresses, RecipientStatus(unsubscribed=frozenset(self.kinds)))


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
async def address(memory: Memory, clock: FakeClock) -> AsyncIterator[str]:
    """Where a page can be opened."""
    routes = Unsubscribe(STORE, memory, Pages("FlowState", "https://flowstate.example"), clock).routes()
    endpoint = HttpServer(routes, host="127.0.0.1", port=0)
    await endpoint.open()
    token = STORE.encode(UnsubscribeToken("ada@example.org", "task-reminder", clock.now_ms(), "fr"))
    yield f"http://127.0.0.1:{endpoint.bound_port}/unsubscribe/{token}"
    await endpoint.close()


async def test_the_pages_in_a_browser(address: str, memory: Memory, tmp_path: Path) -> None:
    """The page looks as it should in both schemes, can be read and pressed, and its buttons work without a script."""
    pictures: dict[str, bytes] = {}
    async with browsing(tmp_path / "profile") as tab:
        for scheme, width, card in (("light", 1280, "rgb(255, 255, 255)"), ("dark", 360, "rgb(31, 41, 55)")):
            await tab.look(scheme, width)
            await tab.open(address)
            assert await tab.ask("document.title") == "Unsubscribe? · FlowState"
            assert await tab.ask(CARD) == card
            assert not await tab.ask(WIDE)
            assert not await tab.ask(SMALL)
            assert await tab.ask(CONTRAST) >= 4.5
            pictures[f"ask-{scheme}"] = await tab.picture()
            assert memory.kinds == set()

            await tab.press("button")
            assert memory.kinds == {"task-reminder"}
            assert await tab.ask("document.querySelector('h1').textContent") == "You are unsubscribed"
            assert await tab.ask(CONTRAST) >= 4.5
            pictures[f"left-{scheme}"] = await tab.picture()

            await tab.press("button")
            assert memory.kinds == set()
            assert await tab.ask("document.querySelector('h1').textContent") == "You are subscribed"
        assert [text for text in tab.complaints if "favicon" not in text] == []
    for name, picture in pictures.items():
        (tmp_path / f"{name}.png").write_bytes(picture)
    assert len(set(pictures.values())) == len(pictures)
