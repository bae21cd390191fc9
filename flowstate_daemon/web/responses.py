"""JSON and error responses. They contain neither details of the daemon nor bytes that the client sent.

Errors are `application/problem+json` (RFC 9457).
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from aiohttp import web
from pydantic import BaseModel, Field

from flowstate_daemon.base.redaction import redact_text

SERVER = "flowstate-daemon"
PROBLEM_TYPE = "application/problem+json"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PRESERVED_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")  # of an error response whose body is replaced
NO_SUCH_PATH = "this server has no such path; GET /api/v1/openapi.json lists those of the API, if it is enabled"
# The answer without a request: too many connections.
UNAVAILABLE = (
    f"HTTP/1.1 503 Service Unavailable\r\nServer: {SERVER}\r\nRetry-After: 5\r\n"
    "Content-Length: 0\r\nConnection: close\r\n\r\n"
).encode()


class Problem(BaseModel):
    """An error, as in RFC 9457."""

    # Not docstrings: pydantic would parse this file at every start.
    type: str = Field(default="about:blank", description="Always `about:blank`: the status is the type.")
    title: str = Field(description="The phrase of the status.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(default="", description="What happened and what to do.")


def problem(status: int, detail: str = "", headers: Mapping[str, str] | None = None) -> web.Response:
    """An error. The detail is redacted once more, although our errors carry no secrets."""
    document = Problem(title=HTTPStatus(status).phrase, status=status, detail=redact_text(detail))
    content = document.model_dump_json().encode()
    return web.Response(body=content, status=status, content_type=PROBLEM_TYPE, headers=headers)


def json_response(body: object, status: int = 200) -> web.Response:
    """A JSON response."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def error_response(status: int, error: web.HTTPException | None = None) -> web.Response:
    """A problem document for an error of the server itself; `error` keeps the headers that belong to it."""
    response = problem(status, describe_error(error))
    add_security_headers(response)
    if error is not None:
        response.headers.update({name: error.headers[name] for name in PRESERVED_HEADERS if name in error.headers})
    return response


def describe_error(error: web.HTTPException | None) -> str:
    """What a client can do about an error of the server itself; "" where the status says it all."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"this path accepts {', '.join(sorted(error.allowed_methods))}"
    return NO_SUCH_PATH if isinstance(error, web.HTTPNotFound) else ""


def add_security_headers(response: web.StreamResponse) -> None:
    """Add the security headers that the route has not set itself."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = SERVER
