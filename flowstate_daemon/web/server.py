"""The HTTP server: sockets, errors, and the time that a response may take.

It serves the routes it is given, to unknown clients: they may disconnect, stop reading, or send anything.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import ClassVar, cast

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, HttpPortError
from flowstate_daemon.base.logs import LogThrottle
from flowstate_daemon.web.connections import ConnectionLimits, Connections, HttpConnection
from flowstate_daemon.web.limits import BODY_MEMORY, BodyMemory
from flowstate_daemon.web.responses import PRESERVED_HEADERS, add_security_headers, error_response

log = structlog.get_logger()

SHUTDOWN_TIMEOUT_S = 0.5  # for requests in progress; aiohttp may take twice that
LINGER_S = 0.1
UNREAD_BODY_S = 2.0  # how long the rest of a body is read and ignored, so that the client gets the response
KEEPALIVE_TIMEOUT_S = 15.0
RESPONSE_TIMEOUT_S = 30.0  # to send a whole response; a streamed one is bounded by the handler
BACKLOG = 128
# What a client can make the kernel hold, and at most one read of what it sends.
SOCKET_BUFFER_BYTES = 64 * 1024
READ_BUFFER_BYTES = 16 * 1024
ANY_IPV6 = "::"
REMEDIES = {
    errno.EADDRINUSE: "another program uses this port: stop it, or set FLOWSTATE_HTTP_PORT to a free port",
    errno.EACCES: "ports below 1024 require a privilege: set FLOWSTATE_HTTP_PORT to a higher one",
    errno.EADDRNOTAVAIL: "this machine has no such address: set FLOWSTATE_HTTP_HOST to one of its own",
    errno.EAFNOSUPPORT: "this machine has no such network: set FLOWSTATE_HTTP_HOST to one of its own addresses",
}
CONFIG_ERRNOS = {errno.EACCES, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # no restart helps
NO_ADDRESS_ERRNOS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
UNKNOWN_HOST_REMEDY = "set FLOWSTATE_HTTP_HOST to an address of this machine, such as 127.0.0.1 or 0.0.0.0"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BaseHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
ErrorPage = Callable[[web.Request, int], web.Response | None]
"""Renders an error with this status for a person; None if the client is a program."""


class HttpServer:
    """The server. `open()` binds the address; `close()` waits a short time for requests in progress."""

    name: ClassVar[str] = "web"

    def __init__(  # noqa: PLR0913 - what a server needs, each with a default
        self,
        routes: Iterable[web.AbstractRouteDef],
        *,
        host: str,
        port: int,
        sockets: Sequence[socket.socket] = (),
        error_page: ErrorPage | None = None,
        clock: Clock | None = None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        """`sockets`, already listening, replace host and port. `error_page` renders errors for people."""
        self._routes = tuple(routes)
        self._host = host
        self._port = port
        self._sockets = sockets
        self._error_page = error_page
        self._clock = clock or Clock()
        self._connections = Connections(limits or ConnectionLimits(), self._clock)
        self._body_memory = BodyMemory()
        self._left_log = LogThrottle(self._clock)
        self._failed_logs: dict[str, LogThrottle] = {}
        self._runner: web.AppRunner | None = None
        self._listeners: list[asyncio.Server] = []

    @property
    def bound_port(self) -> int:
        """The bound port, also when the system chose it for port 0; 0 while closed or on a Unix socket."""
        return next((int(address[1]) for address in self._addresses() if isinstance(address, tuple)), 0)

    def _addresses(self) -> list[object]:
        return [bound.getsockname() for listener in self._listeners for bound in listener.sockets]

    async def open(self) -> None:
        """Bind and serve.

        Raises:
            ConfigError: this machine has no such address, or the port requires a privilege.
            HttpPortError: the port cannot be opened now, as while another program uses it.
        """
        runner = web.AppRunner(self._app(), handle_signals=False, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
        await runner.setup()
        try:
            await self._listen(cast("web.Server", runner.server))
        except (OSError, UnicodeError) as error:  # an invalid host name raises UnicodeError
            await runner.cleanup()
            raise bind_error(self._host, self._port, error) from error
        self._runner = runner
        addresses = [format_address(address) for address in self._addresses()]
        log.info("http_listening", addresses=addresses, inherited_sockets=bool(self._sockets))

    async def _listen(self, server: web.Server) -> None:
        # All requests that reach the handler were made by the application.
        server.request_handler = cast("BaseHandler", self._respond_to(cast("Handler", server.request_handler)))

        def accept() -> asyncio.Protocol:
            return self._connections.accept(
                server,
                access_log=None,
                auto_decompress=False,  # no client needs compressed bodies, and they would allow decompression bombs
                keepalive_timeout=KEEPALIVE_TIMEOUT_S,
                lingering_time=UNREAD_BODY_S,
                read_bufsize=READ_BUFFER_BYTES,
            )

        loop = asyncio.get_running_loop()
        for bound in self._sockets or await bind(self._host, self._port):
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
            self._listeners.append(await loop.create_server(accept, sock=bound, backlog=BACKLOG))

    async def close(self) -> None:
        """Stop accepting connections, answer the requests already received, and close."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        # Let the loop read requests on connections accepted just before. With an inherited socket, systemd keeps later
        # connections for the next start.
        await asyncio.sleep(LINGER_S)
        await runner.cleanup()
        self._connections.abort_all()

    def _app(self) -> web.Application:
        app = web.Application()
        app[BODY_MEMORY] = self._body_memory
        app.add_routes(self._routes)
        app.on_response_prepare.append(_add_headers)
        return app

    def _respond_to(self, handle: Handler) -> Handler:
        """Handle a request and send the response, both within limits."""

        async def respond(request: web.Request) -> web.StreamResponse:
            connection = cast("HttpConnection", request.protocol)
            with self._connections.busy(connection):
                try:
                    response = await self._response(request, handle)
                    async with asyncio.timeout(RESPONSE_TIMEOUT_S):
                        await response.prepare(request)
                        await response.write_eof()
                except ConnectionError:
                    self._client_left(request)
                    raise
                except TimeoutError:
                    connection.abort()
                    raise ConnectionResetError("the client reads too slowly") from None
                finally:
                    self._body_memory.release(request)
            return response

        return respond

    async def _response(self, request: web.Request, handle: Handler) -> web.StreamResponse:
        """The response of the route. An error becomes a short JSON body; an unexpected one is logged."""
        if request.headers.get("Expect", "100-continue").lower() != "100-continue":
            return self._error(request, 417)
        try:
            return await handle(request)
        except web.HTTPError as error:
            return self._error(request, error.status, error)
        except web.HTTPException as redirect:
            return web.Response(status=redirect.status, headers=redirect.headers)
        except ConnectionError as error:
            if request.transport is None or request.transport.is_closing():
                raise
            return self._failed(request, error)
        except Exception as error:  # noqa: BLE001 - a bug in one route must not end the daemon
            return self._failed(request, error)

    def _failed(self, request: web.Request, error: Exception) -> web.StreamResponse:
        route = route_template(request)
        suppressed = self._failed_logs.setdefault(route, LogThrottle(self._clock)).acquire()
        if suppressed is not None:
            log.error("request_failed", method=request.method, path=route, more_since_last=suppressed, exc_info=error)
        return self._error(request, 500)

    def _error(self, request: web.Request, status: int, error: web.HTTPException | None = None) -> web.Response:
        """A page for people, else JSON; JSON also if the page cannot be rendered."""
        response = error_response(status, error)
        try:
            page = None if self._error_page is None else self._error_page(request, status)
        except Exception:
            log.exception("error_page_failed", status=status)
            return response
        if page is None:
            return response
        page.headers.update({name: response.headers[name] for name in PRESERVED_HEADERS if name in response.headers})
        return page

    def _client_left(self, request: web.Request) -> None:
        suppressed = self._left_log.acquire()
        if suppressed is not None:
            log.info("http_client_left", path=route_template(request), more_since_last=suppressed)


async def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets on all addresses of this name. `::` also serves IPv4. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    missing: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            bound.append(_bind_one(socket.socket(family, kind, protocol), address))
        except OSError as error:
            # `localhost` may have an address of a network that this machine does not use.
            if error.errno not in NO_ADDRESS_ERRNOS:
                for other in bound:
                    other.close()
                raise
            missing = error
    if not bound and missing is not None:
        raise missing
    return bound


def _bind_one(unbound: socket.socket, address: tuple[object, ...]) -> socket.socket:
    try:
        unbound.setblocking(False)
        unbound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if unbound.family == socket.AF_INET6:
            unbound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != ANY_IPV6)
        unbound.bind(address)
    except OSError:
        unbound.close()
        raise
    return unbound


def format_address(address: object) -> str:
    """The address of a socket, for the log."""
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


def bind_error(host: str, port: int, error: OSError | UnicodeError) -> ConfigError | HttpPortError:
    """The error for an address that cannot be bound: of the configuration, unless it may be bound later."""
    number = error.errno if isinstance(error, OSError) else None
    is_unknown = isinstance(error, socket.gaierror | UnicodeError)
    text = UNKNOWN_HOST_REMEDY if is_unknown else REMEDIES.get(number or 0, str(error))
    reason = f"HTTP on {host}:{port}: {text}"
    return ConfigError([reason]) if is_unknown or number in CONFIG_ERRNOS else HttpPortError(reason)


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    add_security_headers(response)


def route_template(request: web.Request) -> str:
    """The pattern of the route. The path itself may contain an unsubscribe token, so it is never logged."""
    try:
        resource = request.match_info.route.resource
    except AssertionError:  # no route has been looked up yet
        return "?"
    return resource.canonical if resource else "?"
