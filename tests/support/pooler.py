"""A connection pooler in transaction mode, as hosted Postgres services run one, for machines without PgBouncer.

Many clients share a few server connections: one is lent to a client from its first message until the server is ready
for the next transaction. What a client leaves in its session, such as a prepared statement, is therefore found by
another client, or not found again. Protocol: https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import parse_qs, urlsplit

LENGTH = struct.Struct("!i")
SSL_REQUEST, CANCEL_REQUEST, VERSION_3 = 80877103, 80877102, 196608
AUTHENTICATION_OK = b"R" + struct.pack("!ii", 8, 0)
CLIENT_KEY = b"K" + struct.pack("!iii", 12, 4711, 0)  # a process id that is no server's
READY = b"Z" + LENGTH.pack(5)
IDLE = b"I"
WAITS_FOR_READY = (b"Q", b"S", b"F")  # query, sync, function call

Message: TypeAlias = tuple[bytes, bytes]  # its type, and the whole message


@dataclass(slots=True)
class Server:
    """A connection to the real server, after its greeting."""

    reader: StreamReader
    writer: StreamWriter
    parameters: bytes


async def read_message(reader: StreamReader) -> Message:
    """The type of a message, and the whole message."""
    kind = await reader.readexactly(1)
    size = await reader.readexactly(LENGTH.size)
    return kind, kind + size + await reader.readexactly(LENGTH.unpack(size)[0] - LENGTH.size)


async def read_startup(reader: StreamReader) -> tuple[int, bytes]:
    """The code of a startup message, and its parameters."""
    (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    body = await reader.readexactly(size - LENGTH.size)
    return LENGTH.unpack(body[: LENGTH.size])[0], body[LENGTH.size :]


class Pooler:
    """Lends `size` server connections to any number of clients."""

    def __init__(self, socket_path: str, size: int) -> None:
        self._socket_path = socket_path
        self._free: asyncio.LifoQueue[Server | None] = asyncio.LifoQueue()
        for _ in range(size):
            self._free.put_nowait(None)  # opened with the parameters of the first client that needs it
        self._clients: set[asyncio.Task[None]] = set()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One client, until it goes."""
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            with contextlib.suppress(EOFError, OSError):
                await self._serve(reader, writer)
        finally:
            self._clients.discard(task)
            writer.close()

    async def close(self) -> None:
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        while not self._free.empty():
            if (server := self._free.get_nowait()) is not None:
                server.writer.close()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        code, parameters = await read_startup(reader)
        while code == SSL_REQUEST:
            writer.write(b"N")
            code, parameters = await read_startup(reader)
        if code == CANCEL_REQUEST:
            return
        server = await self._lend(parameters)
        writer.write(AUTHENTICATION_OK + server.parameters + CLIENT_KEY + READY + IDLE)
        self._free.put_nowait(server)
        next_message = asyncio.create_task(read_message(reader))
        try:
            while (await next_message)[0] != b"X":
                next_message = await self._transaction(reader, writer, next_message, parameters)
        finally:
            next_message.cancel()

    async def _transaction(
        self, reader: StreamReader, writer: StreamWriter, asked: asyncio.Task[Message], parameters: bytes
    ) -> asyncio.Task[Message]:
        """One transaction, which begins with the message `asked`; returns the reading of the message after it."""
        server = await self._lend(parameters)
        replied = asyncio.create_task(read_message(server.reader))
        unanswered, healthy = 0, False
        try:
            while True:
                await asyncio.wait({asked, replied}, return_when=asyncio.FIRST_COMPLETED)
                if asked.done():
                    kind, message = asked.result()
                    server.writer.write(message)
                    unanswered += kind in WAITS_FOR_READY
                    asked = asyncio.create_task(read_message(reader))
                if replied.done():
                    kind, message = replied.result()
                    writer.write(message)
                    unanswered -= kind == b"Z"
                    if kind == b"Z" and not unanswered and message.endswith(IDLE):
                        await writer.drain()
                        healthy = True
                        return asked
                    replied = asyncio.create_task(read_message(server.reader))
        finally:
            if not healthy:
                asked.cancel()
                replied.cancel()
                server.writer.close()
            self._free.put_nowait(server if healthy else None)

    async def _lend(self, parameters: bytes) -> Server:
        server = await self._free.get()
        try:
            return server or await self._open(parameters)
        except BaseException:
            self._free.put_nowait(None)
            raise

    async def _open(self, parameters: bytes) -> Server:
        reader, writer = await asyncio.open_unix_connection(self._socket_path)
        body = LENGTH.pack(VERSION_3) + parameters
        writer.write(LENGTH.pack(len(body) + LENGTH.size) + body)
        greeting = b""
        while True:
            kind, message = await read_message(reader)
            if kind == b"E":
                raise ConnectionError(message)
            if kind == b"S":
                greeting += message
            if kind == b"Z":
                return Server(reader, writer, greeting)


@asynccontextmanager
async def pooler(url: str, *, size: int) -> AsyncIterator[str]:
    """The URL of the same database through a pooler on a free port."""
    parts = urlsplit(url)
    opened = Pooler(f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432", size)
    listener = await asyncio.start_server(opened.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
    finally:
        listener.close()
        await opened.close()
