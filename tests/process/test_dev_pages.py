"""`dev` opens its pages: the first line is the address, which logs in once; the outbox is readable as emails."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.process.test_terminal import TerminalProgram
from tests.support.operator_browser import PROGRAM, open_browser, open_page
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed")

START_S = 90.0


async def test_first_line_opens_the_pages_logged_in(tmp_path: Path) -> None:
    """Everything that a terminal shows begins with the address; a code can be read in the outbox, in all its forms."""
    folder = tmp_path / "dev"
    environment = {"FLOWSTATE_HTTP_PORT": "0", "TERM": "dumb"}
    async with TerminalProgram(
        "dev", "--no-open", "--folder", str(folder), environment=environment, cwd=tmp_path
    ) as dev:
        await eventually(lambda: "stop    Ctrl-C" in dev.text(), "everything is sent", within_s=START_S)
        label, url = dev.text().splitlines()[0].split()
        assert label == "pages"
        base = url.partition("/dashboard/")[0]
        async with open_browser() as browser, open_page(browser, base) as (page, watched):
            await page.goto(url)
            await expect(page.locator(".health h2")).to_contain_text("Healthy")
            await expect(page.locator(".badge")).to_have_text("outbox: nothing is sent")
            await page.get_by_role("link", name="Outbox").click()
            await page.locator("tbody tr", has_text="otp").get_by_role("link").click()
            frame = page.frame_locator("iframe.email")
            await expect(frame.get_by_text("493027")).to_be_visible()
            await expect(page.locator("pre")).to_contain_text("493027")
            await expect(page.locator("dl.facts")).to_contain_text("Auto-Submitted")
            await page.context.clear_cookies()
            answer = await page.goto(url)
            assert answer is not None
            assert answer.status == 403
            watched.complaints.clear()  # of the link that was used twice
        dev.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(START_S):
            assert await dev.process.wait() in (0, 130)
