"""Connection classes for redis-py: whatever a transport raises is a ConnectionError, and a dead peer is found early.

redis-py expects OSError from a broken transport. uvloop raises RuntimeError for a closed one, TLS layers raise their
own errors, and a second task may close the connection in between: none of these is a bug of the daemon.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from ssl import SSLContext, get_default_verify_paths
from typing import Any

import hiredis
from redis import exceptions as refused
from redis.asyncio.connection import (
    AbstractConnection,
    RedisSSLContext,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.connection import Connection as TcpConnection

# AttributeError: redis-py sets reader and writer to None when another task closes the connection.
TRANSPORT_ERRORS = (OSError, EOFError, RuntimeError, AttributeError, asyncio.InvalidStateError)

KEEPALIVE_S = 1
UNACKNOWLEDGED_MS = 1500
MAX_TLS_CONTEXTS = 4  # that of the queue, that of the Sentinels, and before a change of their files
TLS_OPTIONS = tuple(name for name in RedisSSLContext.__slots__ if name != "context")
# Linux names; other systems lack some of them and keep their defaults.
TCP_OPTIONS = {
    "TCP_KEEPIDLE": KEEPALIVE_S,
    "TCP_KEEPINTVL": KEEPALIVE_S,
    "TCP_KEEPCNT": 1,
    "TCP_USER_TIMEOUT": UNACKNOWLEDGED_MS,
}
WATCH_INTERVAL_S = 0.25
MIN_PATIENCE_S = 0.5  # between a keepalive probe and its acknowledgement, and four round trips on a slow network
# A peer behind a proxy may be gone although the proxy acknowledges: a connection that was idle for longer than this is
# checked before it is used again. A connection in regular use is never, so that an idle daemon sends no more commands.
HEALTH_CHECK_AFTER_S = 35.0
HEALTH_CHECK_TIMEOUT_S = 1.0
CLOSE_TIMEOUT_S = 0.2
# struct tcp_info of Linux: the number of unanswered probes, ms since the last acknowledgement, round trip in µs.
TCP_INFO = struct.Struct("=3xB52xI8xI")


@contextmanager
def transport_errors(peer: str) -> Iterator[None]:
    """Translate the errors of a broken transport inside the block. Raises redis-py's ConnectionError."""
    try:
        yield
    except refused.RedisError:
        raise
    except TRANSPORT_ERRORS as error:
        raise refused.ConnectionError(f"The connection to {peer} broke: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """The message of a transport error. That of uvloop shows an object and its address in memory."""
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return "it was closed"


class TransportConnection(AbstractConnection):
    """A connection whose transport errors are all redis-py's ConnectionError, and that packs commands in C.

    The packer of redis-py takes half a millisecond for a batch of 100 jobs.
    """

    _used_at = 0.0  # when the last reply arrived, in the loop's time

    def pack_command(self, *args: Any) -> list[bytes]:
        if isinstance(args[0], str) and " " in args[0]:  # redis-py passes some of its own commands as one string
            args = (*args[0].split(), *args[1:])
        return [hiredis.pack_command(args)]

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        with transport_errors(self._host_error()):
            await super().connect_check_health(check_health, retry_socket_connect)

    async def send_packed_command(
        self,
        command: bytes | str | Iterable[bytes],
        check_health: bool = True,
    ) -> None:
        with transport_errors(self._host_error()):
            await super().send_packed_command(command, check_health)

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        with transport_errors(self._host_error()):
            await super()._send_packed_command(command)

    async def can_read(self) -> bool:
        """Whether the connection is unfit for the next command: the pool then replaces it before anything is sent."""
        with transport_errors(self._host_error()):
            writer, reader = self._writer, self._reader
            if writer is None or reader is None or writer.is_closing() or reader.exception() is not None:
                raise refused.ConnectionError(f"The connection to {self._host_error()} was lost while idle")
            return bool(await super().can_read()) or not await self._is_healthy()

    async def _is_healthy(self) -> bool:
        """Whether the peer still answers; asked only after a long time without use."""
        now = asyncio.get_running_loop().time()
        if now - self._used_at < HEALTH_CHECK_AFTER_S:
            return True
        try:
            async with asyncio.timeout(HEALTH_CHECK_TIMEOUT_S):
                await self.send_command("PING", check_health=False)
                await self.read_response()
        except TimeoutError:
            return False
        return True

    async def _read_response_from_parser(self, *args: Any, **options: Any) -> Any:
        # An ETIMEDOUT of the kernel is a builtin TimeoutError, which redis-py would take for its own timeout.
        with transport_errors(self._host_error()):
            response = await super()._read_response_from_parser(*args, **options)
        self._used_at = asyncio.get_running_loop().time()
        return response

    async def disconnect(self, nowait: bool = False, *args: Any, **options: Any) -> None:
        """Close the connection; a broken transport may fail at that, and is closed all the same.

        TLS says goodbye and waits for the answer: not for long, because the next command may wait for this.
        """
        writer = self._writer
        with suppress(refused.RedisError, *TRANSPORT_ERRORS):
            if nowait or writer is None or asyncio.current_task() is None:
                await super().disconnect(nowait, *args, **options)
                return
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await super().disconnect(nowait, *args, **options)
            except TimeoutError:
                writer.transport.abort()


class WatchedConnection(TransportConnection, TcpConnection):
    """A TCP connection that breaks within 2 s when the peer no longer answers, without sending commands.

    The kernel probes an idle connection every second. It would give up after two; this class looks at the kernel's
    counters in between, because a one-time code waits meanwhile.
    """

    async def _connect(self) -> None:
        await super()._connect()  # type: ignore[no-untyped-call]
        if self._writer is not None:
            set_keepalive(socket_of(self._writer))
            self._watch(self._writer)

    def _watch(self, writer: asyncio.StreamWriter) -> None:
        """Look at the peer from time to time, until this connection has ended."""
        if writer is not self._writer or self._reader is None or writer.is_closing():
            return
        if is_peer_silent(socket_of(writer)):
            self._reader.set_exception(ConnectionAbortedError(0, "the peer no longer acknowledges keepalive probes"))
            writer.transport.abort()
            return
        asyncio.get_running_loop().call_later(WATCH_INTERVAL_S, self._watch, writer)


class WatchedTlsConnection(WatchedConnection, SSLConnection):
    """The same over TLS. Connections with the same options share one context: see `shared_context`."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        self.ssl_context.context = shared_context(self.ssl_context)
        arguments: Mapping[str, Any] = super()._connection_arguments()
        return arguments


class UnixConnection(TransportConnection, UnixDomainSocketConnection):
    """A connection through a Unix socket, whose peer cannot vanish unseen."""


def socket_of(writer: asyncio.StreamWriter) -> socket.socket | None:
    """The socket under a connection; None when it is closed already, where some transports raise."""
    try:
        found: socket.socket | None = writer.get_extra_info("socket")
    except TRANSPORT_ERRORS:
        return None
    return found


def set_keepalive(sock: socket.socket | None) -> None:
    """Let the kernel probe an idle connection, and break one whose data is not acknowledged."""
    if sock is None:
        return
    with suppress(OSError):  # the connection may be broken already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in TCP_OPTIONS.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def is_peer_silent(sock: socket.socket | None) -> bool:
    """Whether a keepalive probe was not acknowledged in time; False where the system does not report it."""
    option = getattr(socket, "TCP_INFO", None)
    if sock is None or option is None:
        return False
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, option, TCP_INFO.size)
    except (OSError, ValueError):
        return False
    if len(raw) < TCP_INFO.size:
        return False
    probes, silent_ms, round_trip_us = TCP_INFO.unpack(raw)
    patience_s = max(MIN_PATIENCE_S, 4 * round_trip_us / 1e6)
    return bool(probes > 0 and silent_ms / 1000 > KEEPALIVE_S + patience_s)


def shared_context(options: RedisSSLContext) -> SSLContext:
    """The TLS context of these options, new only after one of its files has changed.

    redis-py loads one for each connection. The CAs of the system take 30 ms, in which no other task runs, and 2 MB.
    """
    values = tuple((name, getattr(options, name)) for name in TLS_OPTIONS)
    files = (options.ca_certs or get_default_verify_paths().cafile, options.certfile, options.keyfile)
    return _load_context(values, tuple(_last_change(file) for file in files))


@lru_cache(MAX_TLS_CONTEXTS)
def _load_context(options: tuple[tuple[str, Any], ...], _last_changes: tuple[int | None, ...]) -> SSLContext:
    return RedisSSLContext(**dict(options)).get()


def _last_change(file: str | None) -> int | None:
    """When a file has changed, in ns; None if it cannot be read, which loading it reports."""
    try:
        return None if file is None else Path(file).stat().st_mtime_ns
    except OSError:
        return None


def connection_class(kind: type[AbstractConnection]) -> type[TransportConnection]:
    """The class to use for a connection class of redis-py."""
    if issubclass(kind, UnixDomainSocketConnection):
        return UnixConnection
    return WatchedTlsConnection if issubclass(kind, SSLConnection) else WatchedConnection
