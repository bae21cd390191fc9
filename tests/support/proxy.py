"""A TCP proxy that injects faults: the only way in which tests make a network or a peer fail.

`async with FaultProxy(host, port) as proxy`, then point the client to `proxy.port`. Knows no protocol. Faults
are switches that may be turned at any time; those that wait for bytes act on the next bytes that pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import ssl
import struct
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024
# Closing with this linger option sends a reset instead of an orderly end.
RESET = struct.pack("ii", 1, 0)
# A socket filter of Linux, one instruction long, that accepts no byte: segments are neither read nor acknowledged.
SO_ATTACH_FILTER = 26
DROP_ALL = struct.pack("HBBI", 6, 0, 0, 0)
# uvloop raises RuntimeError where the standard loop raises OSError.
BROKEN = (OSError, RuntimeError)
POLL_INTERVAL_S = 0.002
UNACKED = struct.Struct("=24xI")  # in the struct tcp_info of Linux


class FaultProxy:
    """Forwards each connection to `host:port`; `latency_s` is added to each direction of every chunk.

    A host that is a folder holds the sockets of a Postgres, as in its URLs. With `tls` the proxy speaks TLS to its
    clients and plain text to the server.
    """

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.latency_s = 0.0
        self.drop_replies = False
        self.cut_reply_after: int | None = None
        self.reset_reply_after: int | None = None
        self.reset_new_connections = False
        self.port = 0
        self.accepted = 0
        self.dropped = 0
        self._target = (host, port)
        self._tls = tls
        self._forgotten: set[asyncio.Task[None]] = set()
        self._rounds: list[set[asyncio.Task[None]]] = []
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    async def __aenter__(self) -> Self:
        await self.admit()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        links = list(self._links)
        self.cut()
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    @property
    def host(self) -> str:
        return "127.0.0.1"

    @property
    def open_connections(self) -> int:
        """Open connections."""
        return len(self._links)

    async def admit(self) -> None:
        """Listen (again), always on the same port."""
        self._server = await asyncio.start_server(self._link, self.host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections; open ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def freeze(self) -> None:
        """Forward nothing in either direction, and close nothing, like a peer that hangs."""
        self._flowing.clear()

    def unfreeze(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        """Reset all open connections, on both sides."""
        for writers in list(self._links.values()):
            for writer in writers:
                reset(writer)

    async def forget(self) -> None:
        """Drop all open connections without a sign to either side, like a network that has lost its state.

        Neither data nor keepalive probes of the clients are acknowledged; the server detects nothing. First
        waits until the clients have acknowledged all replies: what is sent again would be a sign of life.
        """
        while any(_is_unacknowledged(near) for near, *_ in self._links.values()):
            await asyncio.sleep(POLL_INTERVAL_S)
        self.swallow()
        for near, *_ in self._links.values():
            _ignore_segments(near)

    def swallow(self) -> None:
        """Acknowledge and drop all that open connections carry, like a balancer whose server is gone."""
        self._forgotten.update(self._links)

    def end_forgotten(self, *, rounds: int) -> None:
        """Let the server, too, detect what was forgotten before the last `rounds` calls."""
        self._rounds.append(set(self._forgotten))
        if len(self._rounds) > rounds:
            for link in self._rounds.pop(0) & self._forgotten:
                link.cancel()

    def redirect_to(self, host: str, port: int) -> None:
        """Forward new connections to another address, as after a DNS change."""
        self._target = (host, port)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._target
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._links[task] = [writer]
        if self.reset_new_connections:
            del self._links[task]
            reset(writer)
            return
        try:
            far_reader, far_writer = await self._dial()
            self._links[task].append(far_writer)
            await self._both_ways((reader, writer), (far_reader, far_writer))
        except BROKEN:
            reset(writer)  # no server behind the proxy
        except asyncio.CancelledError:
            reset(writer)  # the test is over; the server's own callback would report a cancelled task
        finally:
            self._forgotten.discard(task)
            for each in self._links.pop(task):
                each.close()

    async def _both_ways(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        link = asyncio.current_task()
        assert link is not None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._forward(near[0], far[1], link))
            group.create_task(self._return(far[0], near[1], link))

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: asyncio.Task[None]
    ) -> None:
        with contextlib.suppress(*BROKEN):
            while chunk := await reader.read(CHUNK):
                await self._delay()
                if link in self._forgotten:
                    self.dropped += len(chunk)
                    continue
                writer.write(chunk)
                await writer.drain()
        if link in self._forgotten:
            await asyncio.Event().wait()  # the server detects nothing; the test cancels this
        writer.close()

    async def _return(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: asyncio.Task[None]
    ) -> None:
        """Forward the replies, with the faults that concern them."""
        with contextlib.suppress(*BROKEN):
            while chunk := await reader.read(CHUNK):
                await self._delay()
                if link in self._forgotten:
                    self.dropped += len(chunk)
                    continue
                if self.reset_reply_after is not None:
                    writer.write(chunk[: self.reset_reply_after])
                    await writer.drain()
                    reset(writer)
                    break
                if self.drop_replies:
                    self.dropped += len(chunk)
                    continue
                if self.cut_reply_after is not None:
                    writer.write(chunk[: self.cut_reply_after])
                    await writer.drain()
                    break
                writer.write(chunk)
                await writer.drain()
        if link in self._forgotten:
            await asyncio.Event().wait()  # the client would see an orderly end; the test cancels this
        writer.close()

    async def _delay(self) -> None:
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        await self._flowing.wait()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset instead of an orderly end."""
    if writer.is_closing():
        return
    if raw := _open_socket(writer):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


def _is_unacknowledged(writer: asyncio.StreamWriter) -> bool:
    raw = _open_socket(writer)
    return raw is not None and bool(
        UNACKED.unpack(raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, UNACKED.size))[0]
    )


def _ignore_segments(writer: asyncio.StreamWriter) -> None:
    if raw := _open_socket(writer):
        program = ctypes.create_string_buffer(DROP_ALL, len(DROP_ALL))
        raw.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def _open_socket(writer: asyncio.StreamWriter) -> socket.socket | None:
    """None once the connection is closed; its link may last longer."""
    raw: socket.socket | None = writer.get_extra_info("socket")
    return raw if raw is not None and raw.fileno() >= 0 else None
