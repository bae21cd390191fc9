"""The installed service as an operator on its host sees it: systemctl, the journal, files under /etc."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from flowstate_daemon.dev.embedded import free_port
from tests.deploy.guest import CommandResult, NspawnGuest
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
SOURCE = "/src"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
MAKE = ("env", f"PIP_CERT={CERTIFICATES}", "make", "-C", SOURCE)
INSTALL_S = 900.0
ENVIRONMENT = "/etc/flowstate-daemon/environment"
SETTINGS = "/etc/flowstate-daemon/flowstate-daemon.toml"
APP = "/opt/flowstate-daemon"
PATIENCE_S = 90.0
LOOK_S = 0.1


class Unit:
    """One unit of the guest, such as `flowstate-daemon@8081`, on a port of its own."""

    def __init__(self, guest: NspawnGuest, name: str, port: int) -> None:
        self.guest = guest
        self.name = name
        self.port = port

    async def ctl(self, word: str, *, within_s: float = PATIENCE_S) -> CommandResult:
        return await self.guest.run("systemctl", word, f"{self.name}.service", within_s=within_s)

    async def sure(self, word: str) -> None:
        """A word to systemctl that must be obeyed; with the journal when it is not."""
        done = await self.ctl(word)
        assert done.code == 0, f"systemctl {word}: {done.output}\n{await self.journal()}"

    async def show(self, name: str) -> str:
        """A property of the unit, as `systemctl show` tells it."""
        return (await self.guest.sure("systemctl", "show", f"{self.name}.service", "--value", "-p", name)).strip()

    async def listen(self) -> None:
        """Enable both units; the socket unit holds the port."""
        await self.drop_in("socket", f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{self.port}\n")
        await self.guest.sure("systemctl", "enable", f"{self.name}.socket", f"{self.name}.service")
        await self.guest.sure("systemctl", "start", f"{self.name}.socket")

    async def listening(self) -> bool:
        """Whether the socket unit holds the port."""
        return (await self.guest.run("systemctl", "is-active", f"{self.name}.socket")).output.strip() == "active"

    async def until(self, name: str, holds: Callable[[str], bool], *, within_s: float = PATIENCE_S) -> None:
        """Wait until a property is as wanted; fails with what it was instead, and the journal."""
        seen = ""

        async def so() -> bool:
            nonlocal seen
            seen = await self.show(name)
            if not holds(seen):
                await asyncio.sleep(LOOK_S)  # each look is two processes
            return holds(seen)

        try:
            await eventually(so, name, within_s=within_s)
        except AssertionError:
            raise AssertionError(f"{name} is {seen!r} after {within_s} s\n{await self.journal()}") from None

    async def journal(self) -> str:
        """What the unit and systemd wrote about it since the boot, or since it was forgotten."""
        return await self.guest.sure("journalctl", "-u", f"{self.name}.service", "-o", "cat", "--no-pager")

    async def events(self, name: str) -> list[dict[str, Any]]:
        """The log's events of that name, with their fields."""
        lines = (line for line in (await self.journal()).splitlines() if line.startswith("{"))
        return [event for event in map(json.loads, lines) if event.get("event") == name]

    async def drop_in(self, kind: str, text: str) -> None:
        """What `systemctl edit` would write; `kind` is service or socket."""
        await self.guest.write(f"/etc/systemd/system/{self.name}.{kind}.d/test.conf", text, "0644")
        await self.guest.sure("systemctl", "daemon-reload")

    async def look(self, path: str, *, within_s: float = 30.0) -> int:
        """The status of a page; 0 when nobody listens."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within_s)) as session,
                session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
            ):
                return answer.status
        except (aiohttp.ClientError, OSError):
            return 0

    async def ready(self) -> None:
        async def is_ready() -> bool:
            return await self.look("/health/ready") == 200

        await eventually(is_ready, f"{self.name} ready", within_s=PATIENCE_S)


class Host:
    """The guest with the daemon installed. Each test gives it an environment; `forget` leaves the next a clean host."""

    def __init__(self, guest: NspawnGuest) -> None:
        self.guest = guest
        self.usual = Unit(guest, "flowstate-daemon", free_port())

    async def prepare(self, **settings: str) -> Unit:
        """Write the environment file; the unit that it is for."""
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        await self.guest.write(ENVIRONMENT, f"{text}FLOWSTATE_HTTP_PORT={self.usual.port}\nFLOWSTATE_LOG_FORMAT=json\n")
        return self.usual

    def numbered(self) -> Unit:
        """An instance of the template, named after a free port."""
        port = free_port()
        return Unit(self.guest, f"flowstate-daemon@{port}", port)

    async def cleanup(self) -> None:
        """Stop everything, and take away what tests have written."""
        script = """
        systemctl stop 'flowstate-daemon*'
        systemctl reset-failed
        cd /etc/systemd/system
        rm -rf flowstate-daemon* *.wants/flowstate-daemon* /etc/credstore* /var/lib/flowstate-daemon/*
        cp /opt/flowstate-daemon/share/config/flowstate-daemon.toml /etc/flowstate-daemon/
        systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/flowstate-daemon.conf
        systemctl daemon-reload
        journalctl --rotate --vacuum-time=1us
        """
        done = await self.guest.run("sh", "-c", script)
        assert done.code == 0, done.output


async def asked(provider: FakeResend) -> bool:
    """Whether a request is under way or done."""
    return sum(provider.requests.values()) > 0


async def sent(provider: FakeResend, count: int) -> None:
    """Wait until so many mails are accepted."""

    async def so() -> bool:
        return len(provider.accepted) >= count

    await eventually(so, f"{count} mails sent", within_s=60)
