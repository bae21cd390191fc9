"""systemd's side of the notify protocol, for a daemon that believes it runs under it. No root, no systemd."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class NotifyMessage:
    """One assignment that was received, and when, in monotonic seconds."""

    name: str
    value: str
    at: float


class NotifyListener:
    """Receives what the daemon tells; `address` is for its NOTIFY_SOCKET."""

    def __init__(self, folder: Path, *, address: str = "") -> None:
        self.address = address or str(folder / "notify")
        self.scheduled_mails: list[NotifyMessage] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self) -> Self:
        self._socket.bind("\0" + self.address[1:] if self.address.startswith("@") else self.address)
        self._socket.setblocking(False)
        return self

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    async def receive(self, *, within_s: float) -> list[NotifyMessage]:
        """The assignments of the next message."""
        async with asyncio.timeout(within_s):
            message = await asyncio.get_running_loop().sock_recv(self._socket, 65_536)
        at = time.monotonic()
        fresh = [
            NotifyMessage(name, value, at)
            for name, _, value in (row.partition("=") for row in message.decode().split("\n"))
        ]
        self.scheduled_mails.extend(fresh)
        return fresh

    async def until(self, name: str, value: str | None = None, *, within_s: float = 20.0) -> list[NotifyMessage]:
        """Receive until a message has this assignment; that message. Fails with all that came when it does not come."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    message = await self.receive(within_s=within_s)
                    if any(
                        scheduled_mail.name == name and value in {None, scheduled_mail.value}
                        for scheduled_mail in message
                    ):
                        return message
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s: {name}={value}; came: {self.scheduled_mails}") from None

    async def for_s(self, seconds: float) -> list[NotifyMessage]:
        """All assignments of the next `seconds`."""
        fresh: list[NotifyMessage] = []
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                fresh += await self.receive(within_s=left)
            except TimeoutError:
                break
        return fresh

    def said(self, name: str) -> list[str]:
        """All values of one name so far."""
        return [scheduled_mail.value for scheduled_mail in self.scheduled_mails if scheduled_mail.name == name]
