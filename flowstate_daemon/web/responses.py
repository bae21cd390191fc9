"""JSON and error responses. They contain neither details of the daemon nor bytes that the client sent."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from aiohttp import web

SERVER = "flowstate-daemon"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PRESERVED_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")  # of an error response whose body is replaced
# The answer without a request: too many connections.
UNAVAILABLE = (
    f"HTTP/1.1 503 Service Unavailable\r\nServer: {SERVER}\r\nRetry-After: 5\r\n"
    "Content-Length: 0\r\nConnection: close\r\n\r\n"
).encode()


def json_response(body: object, status: int = 200) -> web.Response:
    """A JSON response."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def error_response(status: int, error: web.HTTPException | None = None) -> web.Response:
    """A response whose body names the status and nothing else; `error` keeps the headers that belong to it."""
    response = json_response({"error": HTTPStatus(status).phrase}, status)
    add_security_headers(response)
    if error is not None:
        response.headers.update({name: error.headers[name] for name in PRESERVED_HEADERS if name in error.headers})
    return response


def add_security_headers(response: web.StreamResponse) -> None:
    """Add the security headers that the route has not set itself."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = SERVER
