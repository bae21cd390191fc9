"""systemd's side of the notify protocol, for a daemon that is started as if by systemd. Needs no root, no systemd."""

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
    """One received assignment; `at` is when, in monotonic seconds."""

    name: str
    value: str
    at: float


class NotifyListener:
    """Receives the messages of the daemon; `address` is for its NOTIFY_SOCKET."""

    def __init__(self, folder: Path, *, address: str = "") -> None:
        self.address = address or str(folder / "notify")
        self.messages: list[NotifyMessage] = []
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
        """Receive the next datagram, and return its assignments."""
        async with asyncio.timeout(within_s):
            datagram = await asyncio.get_running_loop().sock_recv(self._socket, 65_536)
        at = time.monotonic()
        received = [
            NotifyMessage(name, value, at)
            for name, _, value in (row.partition("=") for row in datagram.decode().split("\n"))
        ]
        self.messages.extend(received)
        return received

    async def until(self, name: str, value: str | None = None, *, within_s: float = 20.0) -> list[NotifyMessage]:
        """Receive until a datagram has this assignment, and return it. Fails with all messages received so far."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    received = await self.receive(within_s=within_s)
                    if any(message.name == name and value in {None, message.value} for message in received):
                        return received
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s: {name}={value}; received: {self.messages}") from None

    async def receive_for(self, seconds: float) -> list[NotifyMessage]:
        """Receive for `seconds`, and return all assignments."""
        received: list[NotifyMessage] = []
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                received += await self.receive(within_s=left)
            except TimeoutError:
                break
        return received

    def values(self, name: str) -> list[str]:
        """All values of one name so far."""
        return [message.value for message in self.messages if message.name == name]
