"""The installed service on its host: systemctl, the systemd journal, files under /etc."""

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
TIMEOUT_S = 90.0
POLL_INTERVAL_S = 0.1


class Unit:
    """One unit of the guest, such as `flowstate-daemon@8081`, with its own port."""

    def __init__(self, guest: NspawnGuest, name: str, port: int) -> None:
        self.guest = guest
        self.name = name
        self.port = port

    async def systemctl(self, verb: str, *, within_s: float = TIMEOUT_S) -> CommandResult:
        return await self.guest.run("systemctl", verb, f"{self.name}.service", within_s=within_s)

    async def check_call(self, verb: str) -> None:
        """Run a systemctl command that must succeed; fails with the journal."""
        done = await self.systemctl(verb)
        assert done.code == 0, f"systemctl {verb}: {done.output}\n{await self.journal()}"

    async def show(self, name: str) -> str:
        """A property of the unit, from `systemctl show`."""
        return (await self.guest.check_call("systemctl", "show", f"{self.name}.service", "--value", "-p", name)).strip()

    async def listen(self) -> None:
        """Enable both units; the socket unit holds the port."""
        await self.drop_in("socket", f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{self.port}\n")
        await self.guest.check_call("systemctl", "enable", f"{self.name}.socket", f"{self.name}.service")
        await self.guest.check_call("systemctl", "start", f"{self.name}.socket")

    async def listening(self) -> bool:
        """Whether the socket unit holds the port."""
        return (await self.guest.run("systemctl", "is-active", f"{self.name}.socket")).output.strip() == "active"

    async def until(self, name: str, holds: Callable[[str], bool], *, within_s: float = TIMEOUT_S) -> None:
        """Wait until a property has a value for which `holds`; fails with its last value and the journal."""
        value = ""

        async def is_reached() -> bool:
            nonlocal value
            value = await self.show(name)
            if not holds(value):
                await asyncio.sleep(POLL_INTERVAL_S)  # each poll starts two processes
            return holds(value)

        try:
            await eventually(is_reached, name, within_s=within_s)
        except AssertionError:
            raise AssertionError(f"{name} is {value!r} after {within_s} s\n{await self.journal()}") from None

    async def journal(self) -> str:
        """The log of the unit since the boot, or since the last cleanup."""
        return await self.guest.check_call("journalctl", "-u", f"{self.name}.service", "-o", "cat", "--no-pager")

    async def events(self, name: str) -> list[dict[str, Any]]:
        """The log events with that name, with their fields."""
        lines = (line for line in (await self.journal()).splitlines() if line.startswith("{"))
        return [event for event in map(json.loads, lines) if event.get("event") == name]

    async def drop_in(self, kind: str, text: str) -> None:
        """Write a drop-in as `systemctl edit` would; `kind` is service or socket."""
        await self.guest.write(f"/etc/systemd/system/{self.name}.{kind}.d/test.conf", text, "0644")
        await self.guest.check_call("systemctl", "daemon-reload")

    async def look(self, path: str, *, within_s: float = 30.0) -> int:
        """The HTTP status of a path; 0 when the connection fails."""
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

        await eventually(is_ready, f"{self.name} ready", within_s=TIMEOUT_S)


class Host:
    """The guest with the daemon installed. Each test prepares an environment; `cleanup` resets the host."""

    def __init__(self, guest: NspawnGuest) -> None:
        self.guest = guest
        self.usual = Unit(guest, "flowstate-daemon", free_port())

    async def prepare(self, **settings: str) -> Unit:
        """Write the environment file, and return the unit that reads it."""
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        await self.guest.write(ENVIRONMENT, f"{text}FLOWSTATE_HTTP_PORT={self.usual.port}\nFLOWSTATE_LOG_FORMAT=json\n")
        return self.usual

    def numbered(self) -> Unit:
        """An instance of the template unit, named after a free port."""
        port = free_port()
        return Unit(self.guest, f"flowstate-daemon@{port}", port)

    async def cleanup(self) -> None:
        """Stop all units, and remove what tests have written."""
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


async def has_request(provider: FakeResend) -> bool:
    """Whether the provider has received a request."""
    return sum(provider.requests.values()) > 0


async def wait_until_sent(provider: FakeResend, count: int) -> None:
    """Wait until `count` emails are accepted."""
    await eventually(lambda: len(provider.accepted) >= count, f"{count} emails sent", within_s=60)
