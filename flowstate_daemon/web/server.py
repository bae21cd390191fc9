"""The HTTP endpoint: one listening socket, plain answers, nothing told to strangers that they need not know.

Built by `daemon` from the routes of the other modules of this room. Knows nothing of what they show.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterable, Sequence
from email import message_from_bytes
from http import HTTPStatus
from typing import ClassVar
from urllib.parse import parse_qsl

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from flowstate_daemon.base.errors import ConfigError

log = structlog.get_logger()

SHUTDOWN_TIMEOUT_S = 1.0  # what requests under way get at the end; aiohttp may take twice that
LINGER_S = 0.1
KEEPALIVE_TIMEOUT_S = 15.0
MAX_BODY_BYTES = 65_536
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PRESERVED_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")  # of a refusal whose body is replaced
REMEDIES = {
    errno.EADDRINUSE: "another program listens there: stop it, or set FLOWSTATE_HTTP_PORT to a free port",
    errno.EACCES: "ports below 1024 need a privilege: set FLOWSTATE_HTTP_PORT to a higher one",
    errno.EADDRNOTAVAIL: "this machine has no such address: set FLOWSTATE_HTTP_HOST to one of its own",
}
UNKNOWN_HOST_REMEDY = "set FLOWSTATE_HTTP_HOST to an address of this machine, such as 127.0.0.1 or 0.0.0.0"


class HttpServer:
    """The open windows. `open()` binds, `close()` lets requests under way finish, shortly."""

    name: ClassVar[str] = "web"

    def __init__(
        self,
        routes: Iterable[web.AbstractRouteDef],
        *,
        host: str,
        port: int,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        """`sockets` that listen already are used instead of host and port."""
        self._routes = tuple(routes)
        self._host = host
        self._port = port
        self._sockets = sockets
        self._runner: web.AppRunner | None = None

    @property
    def bound_port(self) -> int:
        """The port that was bound: the system's choice when port 0 was asked for; 0 while closed, or without one."""
        addresses = self._runner.addresses if self._runner else []
        return next((int(address[1]) for address in addresses if isinstance(address, tuple)), 0)

    async def open(self) -> None:
        """Bind and answer from now on. Raises ConfigError when the address cannot be bound."""
        runner = web.AppRunner(
            self._app(),
            handle_signals=False,
            access_log=None,
            auto_decompress=False,  # nobody has to send us a packed body, and a bomb would be one
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        )
        await runner.setup()
        try:
            for site in self._sites(runner):
                await site.start()
        except (OSError, UnicodeError) as error:  # no name of a host at all is a UnicodeError
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
        """Accept no more, answer what has been asked, and leave."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        for site in list(runner.sites):
            await site.stop()
        # Whoever was accepted just before has not been heard yet; with a handed-over socket all others are kept for us.
        await asyncio.sleep(LINGER_S)
        await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[error_middleware], client_max_size=MAX_BODY_BYTES)
        app.add_routes(self._routes)
        app.on_response_prepare.append(add_security_headers)
        return app


def format_address(address: object) -> str:
    """Where a socket listens, for the log."""
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


def bind_error_remedy(error: OSError | UnicodeError) -> str:
    """What to do about an address that cannot be bound."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return UNKNOWN_HOST_REMEDY
    return REMEDIES.get(error.errno or 0, str(error))


def json_response(body: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal in the same few words of JSON; a bug of ours is logged here and told to nobody else."""
    try:
        return await handler(request)
    except web.HTTPError as refused:
        refusal = json_response({"error": HTTPStatus(refused.status).phrase}, refused.status)
        refusal.headers.update({name: refused.headers[name] for name in PRESERVED_HEADERS if name in refused.headers})
        return refusal
    except web.HTTPException:
        raise  # a redirect is an answer like any other
    except Exception:
        log.exception("request_failed", method=request.method, path=route_template(request))
        return json_response({"error": HTTPStatus.INTERNAL_SERVER_ERROR.phrase}, 500)


def route_template(request: web.Request) -> str:
    """The route as it was written down: the path itself may hold somebody's token."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else "?"


async def add_security_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Put the safe headers on; a route that needs a wider rule has set its own already."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "flowstate-daemon"


READ_TIMEOUT_S = 10.0
MAX_FIELDS = 20


async def read_body(request: web.Request, most: int, *, within_s: float = READ_TIMEOUT_S) -> bytes:
    """The raw body; never more than `most` bytes are kept. Refuses with 408, 413, or 400 for a body cut off."""
    body = bytearray()
    announced = request.content_length or 0
    try:
        async with asyncio.timeout(within_s):
            while announced <= most >= len(body) and (part := await request.content.readany()):
                body += part
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except web.RequestPayloadError:
        raise web.HTTPBadRequest from None
    if max(announced, len(body)) > most:
        raise web.HTTPRequestEntityTooLarge(most, max(announced, len(body)))
    return bytes(body)


def read_form(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a form of either type; empty for anything that is none."""
    if content_type.lower().startswith("multipart/form-data"):
        return _parts(content_type, body)
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        return {}


def _parts(content_type: str, body: bytes) -> dict[str, str]:
    """The mail library reads what web forms borrowed from mail, and takes any bytes whatever."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("utf-8", "replace")
    message = message_from_bytes(head + body)
    fields = {}
    for part in message.walk():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = content.decode("utf-8", "replace").strip()
    return fields
