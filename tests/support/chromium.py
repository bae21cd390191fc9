"""Debian's Chromium, driven over its DevTools socket: opens pages, clicks buttons, takes screenshots."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# In CI, which installs one, tests without a browser fail.
needs_chromium = pytest.mark.skipif(
    PROGRAM is None and os.environ.get("CI") != "true", reason="chromium is not installed"
)
SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0", "--mute-audio",
)  # fmt: skip
AXE = Path(__file__).parents[1] / "compat" / "node_modules" / "axe-core" / "axe.min.js"
# For each key: its name, its code, and the text that it types.
KEYS = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Space": (" ", 32, " "),
    "ArrowDown": ("ArrowDown", 40, ""),
}
START_S = 30.0
STEP_S = 15.0


class Tab:
    """One page. `complaints` contains what the browser reported against its rules."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.complaints: list[str] = []

    async def attach(self) -> None:
        target = await self.send_command("Target.createTarget", url="about:blank")
        found = await self.send_command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.send_command(f"{domain}.enable")
        await self.send_command("Emulation.setScrollbarsHidden", hidden=True)  # as on a phone, where they take no space

    async def send_command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        number = next(self._numbers)
        order = {"id": number, "method": method, "params": params}
        await self._socket.send_str(json.dumps(order | ({"sessionId": self._session} if self._session else {})))
        return await self._received(lambda message: message.get("id") == number)

    async def _received(self, wanted: Any) -> dict[str, Any]:
        async with asyncio.timeout(STEP_S):
            while True:
                message = json.loads((await self._socket.receive()).data)
                if message.get("method") == "Log.entryAdded":
                    self.complaints.append(message["params"]["entry"]["text"])
                if wanted(message):
                    assert "error" not in message, message
                    found: dict[str, Any] = message.get("result", {})
                    return found

    async def open(self, url: str) -> None:
        await self.send_command("Page.navigate", url=url)
        await self._loaded()

    async def click(self, selector: str) -> None:
        """Click, and wait for the page that follows."""
        await self.ask(f"document.querySelector({json.dumps(selector)}).click()")
        await self._loaded()

    async def _loaded(self) -> None:
        await self._received(lambda message: message.get("method") == "Page.loadEventFired")

    async def ask(self, script: str) -> Any:
        """What an expression is worth in the page."""
        return (await self.send_command("Runtime.evaluate", expression=script, returnByValue=True))["result"].get(
            "value"
        )

    async def press(self, key: str) -> None:
        """Press a key, as a person with a keyboard: Tab, Enter, Space, ArrowDown."""
        name, code, text = KEYS[key]
        event = {"key": name, "code": key, "windowsVirtualKeyCode": code, "nativeVirtualKeyCode": code}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        await self.send_command("Input.dispatchKeyEvent", **event, **down)
        await self.send_command("Input.dispatchKeyEvent", **event, type="keyUp")

    async def press_enter(self) -> None:
        """Press Enter on a button that submits a form, and wait for the page that follows."""
        await self.press("Enter")
        await self._loaded()

    async def type(self, text: str) -> None:
        """Type text into the field that has the focus."""
        await self.send_command("Input.insertText", text=text)

    async def disable_scripts(self) -> None:
        await self.send_command("Emulation.setScriptExecutionDisabled", value=True)

    async def set_time_zone(self, zone: str) -> None:
        await self.send_command("Emulation.setTimezoneOverride", timezoneId=zone)

    async def audit(self, *without: str) -> list[str]:
        """What axe-core finds wrong with the page, best practices included, `without` some rules: rule and place."""
        if not await self.ask("'axe' in window"):
            await self.ask(AXE.read_text(encoding="utf-8") + ";0")
        rules = json.dumps({"rules": {rule: {"enabled": False} for rule in without}})
        script = (
            f"axe.run({rules}).then(r => r.violations.flatMap(v => v.nodes.map(n => v.id + ' ' + n.target.join(' '))))"
        )
        answer = await self.send_command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        found: list[str] = answer["result"]["value"]
        return found

    async def look(self, scheme: str, width: int) -> None:
        """Wear a colour scheme and a width."""
        await self.send_command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        size = {"width": width, "height": 720, "deviceScaleFactor": 1, "mobile": False}
        await self.send_command("Emulation.setDeviceMetricsOverride", **size)

    async def picture(self) -> bytes:
        """A PNG of what can be seen."""
        return base64.b64decode((await self.send_command("Page.captureScreenshot"))["data"])

    async def long_picture(self) -> bytes:
        """A PNG of the whole page, from its top to its end."""
        size = (await self.send_command("Page.getLayoutMetrics"))["cssContentSize"]
        wanted = {"clip": {**size, "scale": 1}, "captureBeyondViewport": True, "optimizeForSpeed": True}
        return base64.b64decode((await self.send_command("Page.captureScreenshot", **wanted))["data"])


@asynccontextmanager
async def browsing(profile: Path) -> AsyncIterator[Tab]:
    """A browser with a fresh profile and one tab."""
    assert PROGRAM is not None, "chromium is not installed: apt-get install chromium"
    browser = await asyncio.create_subprocess_exec(
        PROGRAM, *SWITCHES, f"--user-data-dir={profile}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    draining = None
    try:
        assert browser.stderr is not None
        async with asyncio.timeout(START_S):
            while b"DevTools listening on" not in (line := await browser.stderr.readline()):
                assert line, "the browser ended before it listened"
        draining = asyncio.create_task(browser.stderr.read(), name="browser's words")
        url = line.decode().split()[-1]
        async with ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
            tab = Tab(socket)
            await tab.attach()
            yield tab
    finally:
        if browser.returncode is None:
            browser.kill()
        await browser.wait()
        if draining is not None:
            await draining
