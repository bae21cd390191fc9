"""Debian's Chromium, driven by Playwright, for the operator's pages: what it complains about and where it connects."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.support.chromium import AXE

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
SWITCHES = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--mute-audio"),
)
STEP_MS = 15_000
SERIOUS = {"serious", "critical"}
WIDTH_OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
Scheme = Literal["light", "dark"]


@dataclass(slots=True)
class Watched:
    """What a browser context did that it must not: requests to other hosts, uncaught errors, errors in the console.

    The console also has the violations of the security policy.
    """

    host: str
    complaints: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def attach(self, context: BrowserContext) -> None:
        context.on("console", lambda message: self._console(message.type, message.text))
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("request", lambda request: self._request(request.url))

    def _console(self, level: str, text: str) -> None:
        if level in ("error", "warning"):
            self.complaints.append(text)

    def _request(self, url: str) -> None:
        if urlsplit(url).netloc != self.host and not url.startswith(("data:", "about:")):
            self.outside.append(url)

    def assert_clean(self) -> None:
        assert self.complaints == []
        assert self.outside == []


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """A headless browser."""
    assert PROGRAM is not None
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=PROGRAM, headless=True, args=list(SWITCHES))
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def open_page(
    browser: Browser, base: str, *, scheme: Scheme = "light", language: str = "en", width: int = 1280, height: int = 900
) -> AsyncIterator[tuple[Page, Watched]]:
    """A page without a session, and what it complains about; the block ends by checking that it did not."""
    context = await browser.new_context(
        base_url=base,
        color_scheme=scheme,
        locale=language,
        viewport={"width": width, "height": height},
        timezone_id="Europe/Paris",
    )
    context.set_default_timeout(STEP_MS)
    watched = Watched(urlsplit(base).netloc)
    watched.attach(context)
    try:
        yield await context.new_page(), watched
        watched.assert_clean()
    finally:
        await context.close()


async def log_in(page: Page, token: str) -> None:
    """Log in with a token, from the first page."""
    await page.goto("/")
    await page.locator("#token").fill(token)
    await page.locator("#token").press("Enter")
    await page.wait_for_url("**/dashboard/")


async def find_barriers(page: Page) -> list[str]:
    """What axe-core finds serious or critical: rule and element."""
    # Through the debugger, which the page's own policy does not concern.
    await page.evaluate(AXE.read_text(encoding="utf-8"))
    report: Any = await page.evaluate("axe.run(document, {iframes: false})")
    return [
        f"{violation['id']}: {' '.join(map(str, node['target']))}"
        for violation in report["violations"]
        if violation["impact"] in SERIOUS
        for node in violation["nodes"]
    ]
