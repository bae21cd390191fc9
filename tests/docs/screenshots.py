"""Screenshots of the operator's pages with sample data: `python -m tests.docs.screenshots`, or `make screenshots`.

Every page in both themes, wide and narrow, in both languages goes to `artefacts/screenshots`. `--update-docs` only
makes the two pictures of the README anew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from playwright.async_api import Browser
from redis.asyncio import Redis

from flowstate_daemon.base import logs
from flowstate_daemon.dev.environment import DevEnvironment
from tests.support.operator_browser import PROGRAM, Scheme, open_browser, open_page
from tests.support.sample_history import DOMAIN, UNSUBSCRIBED, Stores, write_history

OUTPUT = Path("artefacts/screenshots")
IMAGES = Path("docs/images")
PAGES = {
    "now": "/dashboard/",
    "now-week": "/dashboard/?span=week",
    "emails": "/dashboard/emails",
    "emails-failed": "/dashboard/emails?state=failed",
    "email": "/dashboard/jobs/f1",
    "email-code": "/dashboard/jobs/f-code",
    "recipients": "/dashboard/recipients",
    "recipient": f"/dashboard/recipients?address={quote(UNSUBSCRIBED)}",
    "recipient-suppressed": f"/dashboard/recipients?address={quote('alan.turing@' + DOMAIN)}",
    "recipient-user": "/dashboard/recipients?address=amelie@flowstate.example",
    "schedules": "/dashboard/schedules",
    "dry-run": "/dashboard/schedules/task-reminder/dry-run",
    "failures": "/dashboard/failures",
    "preview": "/dashboard/emails/preview?state=failed&action=retry",
    "actions": "/dashboard/actions",
    "provider": "/dashboard/provider",
    "system": "/dashboard/system",
    "outbox": "/dashboard/outbox",
}
DOCS: dict[str, tuple[str, Scheme, int]] = {  # with the height of the window
    "now": (PAGES["now"], "light", 1040),
    "recipient": (PAGES["recipient"], "dark", 820),
}
COLORS = 96
ENVIRONMENT = {"FLOWSTATE_QUEUE_INSTANCE_ID": "mail-1", "FLOWSTATE_LOG_COLORS": "false"}


@contextlib.asynccontextmanager
async def sample_daemon(folder: Path) -> AsyncIterator[DevEnvironment]:
    """A daemon as of `make dev`, with a week of invented history."""
    async with DevEnvironment(folder, ENVIRONMENT) as environment:
        environment.start()
        await environment.wait_until_listening()
        await environment.send_samples()
        await environment.run_schedules()
        components = environment.daemon.components
        assert components.pool is not None
        redis = Redis.from_url(environment.config.redis.url.get_secret_value(), protocol=2)
        try:
            await write_history(Stores(components.pool, redis, components.keys), components.clock.now())
        finally:
            await redis.aclose()
        yield environment


async def shoot_all(browser: Browser, environment: DevEnvironment, output: Path, width: int, language: str) -> None:
    """Every page in both themes."""
    themes: tuple[Scheme, ...] = ("light", "dark")
    for theme in themes:
        async with open_page(browser, environment.url, scheme=theme, language=language, width=width) as (page, _):
            await page.goto("/dashboard/login")
            await page.screenshot(path=output / f"login-{theme}-{language}-{width}.png", full_page=True)
            await page.goto(environment.login_url)
            for name, path in PAGES.items():
                await page.goto(path, wait_until="load")
                # Chromium paints a frame only where the window is.
                await page.set_viewport_size({"width": width, "height": 2000 if page.frames[1:] else 900})
                for frame in page.frames[1:]:
                    await frame.locator("h1").first.wait_for()
                await page.screenshot(path=output / f"{name}-{theme}-{language}-{width}.png", full_page=True)


async def shoot_for_docs(browser: Browser, environment: DevEnvironment) -> None:
    """The pictures of the README: the first screen of two pages, with few colours."""
    for name, (path, theme, height) in DOCS.items():
        async with open_page(browser, environment.url, scheme=theme, width=1100, height=height) as (page, _):
            await page.goto(environment.login_url)
            await page.goto(path, wait_until="load")
            await page.wait_for_selector("time[title]")
            picture = Image.open(io.BytesIO(await page.screenshot()))
            file = IMAGES / f"{name}.png"
            picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(file, optimize=True)
            print(f"{file}: {file.stat().st_size} bytes")


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--width", type=int, nargs="*", default=[1280, 360])
    parser.add_argument("--language", nargs="*", default=["en", "fr"])
    parser.add_argument("--update-docs", action="store_true")
    arguments = parser.parse_args()
    if PROGRAM is None:
        print("chromium is not installed: apt-get install chromium", file=sys.stderr)
        return 1
    folder_to_fill = IMAGES if arguments.update_docs else arguments.output
    folder_to_fill.mkdir(parents=True, exist_ok=True)
    logs.configure("error")
    with tempfile.TemporaryDirectory() as folder:
        async with sample_daemon(Path(folder)) as environment, open_browser() as browser:
            if arguments.update_docs:
                await shoot_for_docs(browser, environment)
                return 0
            for width in arguments.width:
                for language in arguments.language:
                    await shoot_all(browser, environment, arguments.output, width, language)
    print(f"{len(list(arguments.output.iterdir()))} screenshots in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
