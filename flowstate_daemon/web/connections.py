"""The connections of the HTTP server: their number is bounded, and clients that do not read are cut off.

Idle clients give way to new ones, so that a health check gets through while others hold connections open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.logs import LogThrottle
from flowstate_daemon.web.responses import UNAVAILABLE, error_response

log = structlog.get_logger()

CHECK_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """`write_timeout_s`: how long a client may read nothing of what is sent to it."""

    max_connections: int = 256
    write_timeout_s: float = 10.0


class HttpConnection(web.RequestHandler):
    """One connection. Malformed requests get an answer without their own bytes and without software versions."""

    def __init__(self, server: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._connections = connections
        self._socket: asyncio.Transport | None = None
        self._unsent = 0  # bytes in the buffer at the last check
        self._unsent_since = 0.0
        self.is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._socket = cast("asyncio.Transport", transport)
        self._connections.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._socket = None
        self._connections.closed(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002 - it repeats what the client sent, as does `message`
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """The response to what is no HTTP."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has been sent in part")
        response = error_response(status)
        response.force_close()
        return response

    def abort(self) -> None:
        """Close at once, without sending what is left."""
        if self._socket is not None:
            self._socket.abort()

    def is_stalled(self, now: float, write_timeout_s: float) -> bool:
        """Whether the client has read nothing of what is left to send for that long."""
        unsent = 0 if self._socket is None else self._socket.get_write_buffer_size()
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        return unsent > 0 and now - self._unsent_since >= write_timeout_s


class RefusedConnection(asyncio.Protocol):
    """A connection beyond the limit: it gets a short answer and is closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writable = cast("asyncio.Transport", transport)
        writable.write(UNAVAILABLE)
        writable.close()


class Connections:
    """All open connections, the oldest first."""

    def __init__(self, limits: ConnectionLimits, clock: Clock) -> None:
        self._limits = limits
        self._open: dict[HttpConnection, None] = {}
        self._check: asyncio.TimerHandle | None = None
        self._refused_log = LogThrottle(clock)
        self._stalled_log = LogThrottle(clock)

    def accept(self, server: web.Server, **options: Any) -> asyncio.Protocol:
        """The protocol of a new connection. If there are too many, the oldest idle one is closed."""
        if len(self._open) >= self._limits.max_connections:
            idle = next((connection for connection in self._open if not connection.is_busy), None)
            self._warn(is_refused=idle is None)
            if idle is None:
                return RefusedConnection()
            self.closed(idle)
            idle.abort()
        return HttpConnection(server, self, **options)

    def opened(self, connection: HttpConnection) -> None:
        self._open[connection] = None
        if self._check is None:
            self._check = asyncio.get_running_loop().call_later(CHECK_INTERVAL_S, self._abort_stalled)

    def closed(self, connection: HttpConnection) -> None:
        self._open.pop(connection, None)

    @contextmanager
    def busy(self, connection: HttpConnection) -> Iterator[None]:
        """A request is being processed inside the block."""
        connection.is_busy = True
        try:
            yield
        finally:
            connection.is_busy = False

    def abort_all(self) -> None:
        """Close what is left at the end."""
        if self._check is not None:
            self._check.cancel()
            self._check = None
        for connection in list(self._open):
            connection.abort()

    def _abort_stalled(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self._open):
            if connection.is_stalled(loop.time(), self._limits.write_timeout_s):
                connection.abort()
                suppressed = self._stalled_log.acquire()
                if suppressed is not None:
                    log.info("http_client_stalled", more_since_last=suppressed)
        self._check = loop.call_later(CHECK_INTERVAL_S, self._abort_stalled) if self._open else None

    def _warn(self, *, is_refused: bool) -> None:
        suppressed = self._refused_log.acquire()
        if suppressed is not None:
            remedy = "find the clients that hold connections open, or limit them in the proxy"
            log.warning("http_connections_full", refused=is_refused, remedy=remedy, more_since_last=suppressed)
