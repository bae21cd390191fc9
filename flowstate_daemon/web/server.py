"""The HTTP server: sockets, error responses, security headers, and helpers that read request bodies.

It serves the routes it is given. Error responses contain no details of the daemon.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from email import message_from_bytes
from http import HTTPStatus
from typing import ClassVar
from urllib.parse import parse_qsl

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from flowstate_daemon.base.errors import ConfigError

log = structlog.get_logger()

SHUTDOWN_TIMEOUT_S = 1.0  # for requests in progress; aiohttp may take twice that
LINGER_S = 0.1
KEEPALIVE_TIMEOUT_S = 15.0
MAX_BODY_BYTES = 65_536
READ_TIMEOUT_S = 10.0
MAX_FIELDS = 20
ErrorPage = Callable[[web.Request, int], web.Response | None]
"""Renders an error with this status for a person; None if the client is a program."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PRESERVED_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")  # of an error response whose body is replaced
REMEDIES = {
    errno.EADDRINUSE: "another program uses this port: stop it, or set FLOWSTATE_HTTP_PORT to a free port",
    errno.EACCES: "ports below 1024 require a privilege: set FLOWSTATE_HTTP_PORT to a higher one",
    errno.EADDRNOTAVAIL: "this machine has no such address: set FLOWSTATE_HTTP_HOST to one of its own",
}
UNKNOWN_HOST_REMEDY = "set FLOWSTATE_HTTP_HOST to an address of this machine, such as 127.0.0.1 or 0.0.0.0"


class HttpServer:
    """The server. `open()` binds the address; `close()` waits a short time for requests in progress."""

    name: ClassVar[str] = "web"

    def __init__(
        self,
        routes: Iterable[web.AbstractRouteDef],
        *,
        host: str,
        port: int,
        sockets: Sequence[socket.socket] = (),
        error_page: ErrorPage | None = None,
    ) -> None:
        """`sockets`, already listening, replace host and port. `error_page` renders errors for people."""
        self._routes = tuple(routes)
        self._host = host
        self._port = port
        self._sockets = sockets
        self._error_page = error_page
        self._runner: web.AppRunner | None = None

    @property
    def bound_port(self) -> int:
        """The bound port, also when the system chose it for port 0; 0 while closed or on a Unix socket."""
        addresses = self._runner.addresses if self._runner else []
        return next((int(address[1]) for address in addresses if isinstance(address, tuple)), 0)

    async def open(self) -> None:
        """Bind and serve. Raises ConfigError when the address cannot be bound."""
        runner = web.AppRunner(
            self._app(),
            handle_signals=False,
            access_log=None,
            auto_decompress=False,  # no client needs compressed bodies, and they would allow decompression bombs
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        )
        await runner.setup()
        try:
            for site in self._sites(runner):
                await site.start()
        except (OSError, UnicodeError) as error:  # an invalid host name raises UnicodeError
            await runner.cleanup()
            raise ConfigError([f"HTTP on {self._host}:{self._port}: {bind_error_remedy(error)}"]) from error
        self._runner = runner
        addresses = [format_address(address) for address in runner.addresses]
        log.info("http_listening", addresses=addresses, inherited_sockets=bool(self._sockets))

    def _sites(self, runner: web.AppRunner) -> list[web.BaseSite]:
        if self._sockets:
            return [web.SockSite(runner, listener) for listener in self._sockets]
        return [web.TCPSite(runner, self._host, self._port)]

    async def close(self) -> None:
        """Stop accepting connections, answer the requests already received, and close."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        for site in list(runner.sites):
            await site.stop()
        # Let the loop read requests on connections accepted just before. With an inherited socket, systemd keeps later
        # connections for the next start.
        await asyncio.sleep(LINGER_S)
        await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[error_middleware(self._error_page)], client_max_size=MAX_BODY_BYTES)
        app.add_routes(self._routes)
        app.on_response_prepare.append(add_security_headers)
        return app


def format_address(address: object) -> str:
    """The address of a socket, for the log."""
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


def bind_error_remedy(error: OSError | UnicodeError) -> str:
    """The remedy for an address that cannot be bound."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return UNKNOWN_HOST_REMEDY
    return REMEDIES.get(error.errno or 0, str(error))


def json_response(body: object, status: int = 200) -> web.Response:
    """A JSON response."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def error_middleware(error_page: ErrorPage | None = None) -> Middleware:
    """Turns every HTTP error into a short JSON body or a page; an unexpected exception is logged and becomes a 500."""

    @web.middleware
    async def handle_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPError as error:
            response = error_response(request, error.status, error_page)
            response.headers.update({name: error.headers[name] for name in PRESERVED_HEADERS if name in error.headers})
            return response
        except web.HTTPException:
            raise  # a redirect is not an error
        except Exception:
            log.exception("request_failed", method=request.method, path=route_template(request))
            return error_response(request, HTTPStatus.INTERNAL_SERVER_ERROR, error_page)

    return handle_errors


def error_response(request: web.Request, status: int, error_page: ErrorPage | None) -> web.Response:
    """The response for an error; JSON also if the page cannot be rendered."""
    try:
        page = None if error_page is None else error_page(request, status)
    except Exception:
        log.exception("error_page_failed", status=status)
        page = None
    return page or json_response({"error": HTTPStatus(status).phrase}, status)


def route_template(request: web.Request) -> str:
    """The pattern of the route. The path itself may contain an unsubscribe token, so it is never logged."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else "?"


async def add_security_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Add the security headers that the route has not set itself."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "flowstate-daemon"


async def read_body(request: web.Request, max_bytes: int, *, within_s: float = READ_TIMEOUT_S) -> bytes:
    """The raw body. Raises 408 after `within_s`, 413 above `max_bytes`, and 400 for an incomplete body."""
    body = bytearray()
    announced = request.content_length or 0
    try:
        async with asyncio.timeout(within_s):
            while announced <= max_bytes >= len(body) and (part := await request.content.readany()):
                body += part
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except web.RequestPayloadError:
        raise web.HTTPBadRequest from None
    if max(announced, len(body)) > max_bytes:
        raise web.HTTPRequestEntityTooLarge(max_bytes, max(announced, len(body)))
    return bytes(body)


def read_form(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a URL-encoded or multipart form; empty for any other body."""
    if content_type.lower().startswith("multipart/form-data"):
        return _read_multipart(content_type, body)
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        return {}


def _read_multipart(content_type: str, body: bytes) -> dict[str, str]:
    """Parse with the standard email parser: multipart forms use its format, and it accepts any bytes."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("utf-8", "replace")
    message = message_from_bytes(head + body)
    fields = {}
    for part in message.walk():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = content.decode("utf-8", "replace").strip()
    return fields
