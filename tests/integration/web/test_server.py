"""The HTTP server over a real socket: JSON errors, security headers, and clear errors when it cannot listen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from structlog.testing import capture_logs

from flowstate_daemon.base.errors import ConfigError, HttpPortError
from flowstate_daemon.web.responses import NO_SUCH_PATH
from flowstate_daemon.web.server import HttpServer
from tests.integration.web.conftest import serve


async def fail(_request: web.Request) -> web.Response:
    raise RuntimeError("a bug whose message must not be in the response")


async def redirect(_request: web.Request) -> web.Response:
    raise web.HTTPFound("/ok")


async def ok(_request: web.Request) -> web.Response:
    return web.Response(text="ok", headers={"Content-Security-Policy": "default-src 'self'"})


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    """A client of a server with three routes: one fails, one redirects, one succeeds."""
    async with serve([web.get("/fail", fail), web.get("/redirect", redirect), web.get("/ok", ok)]) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "status", "error", "detail"),
    [
        ("GET", "/nowhere", 404, "Not Found", NO_SUCH_PATH),
        ("POST", "/ok", 405, "Method Not Allowed", "this path accepts GET, HEAD"),
        ("DELETE", "/ok", 405, "Method Not Allowed", "this path accepts GET, HEAD"),
    ],
)
async def test_http_error_is_a_json_document(
    client: ClientSession, method: str, path: str, status: int, error: str, detail: str
) -> None:
    """The body of an error response is a problem document with the name of the error and what to do."""
    async with client.request(method, path) as response:
        assert response.status == status
        assert (response.content_type, await response.json()) == (
            "application/problem+json",
            {"type": "about:blank", "title": error, "status": status, "detail": detail},
        )
        assert status != 405 or response.headers["Allow"] == "GET,HEAD"


async def test_unexpected_exception_is_logged_and_hidden_from_the_client(client: ClientSession) -> None:
    """The response is a plain 500, and the log has the details."""
    with capture_logs() as events:
        async with client.get("/fail") as response:
            assert response.status == 500
            assert (await response.json())["title"] == "Internal Server Error"
    assert [(event["event"], event["path"]) for event in events] == [("request_failed", "/fail")]


async def test_redirect_is_passed_on(client: ClientSession) -> None:
    """An HTTP exception that a handler raises is sent as the response."""
    async with client.get("/redirect", allow_redirects=False) as response:
        assert response.status == 302


async def test_every_response_has_the_security_headers(client: ClientSession) -> None:
    """No software version, no content sniffing, no caching; a route may set its own content policy."""
    for path in ("/nowhere", "/fail", "/ok"):
        async with client.get(path) as response:
            assert response.headers["Server"] == "flowstate-daemon"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == "no-store"
            own_policy = path == "/ok"
            assert response.headers["Content-Security-Policy"].startswith("default-src 'self'" if own_policy else "")


async def test_head_response_has_no_body(client: ClientSession) -> None:
    """HEAD, as load balancers use it, gets the status of GET without a body."""
    async with client.head("/ok") as response:
        assert response.status == 200
        assert await response.read() == b""


async def test_port_in_use_is_an_error_with_a_remedy() -> None:
    """The error names the address, the cause and the setting, and no socket stays open."""
    first = HttpServer([], host="127.0.0.1", port=0)
    await first.open()
    second = HttpServer([], host="127.0.0.1", port=first.bound_port)
    with pytest.raises(HttpPortError, match=rf"127\.0\.0\.1:{first.bound_port}: another program") as caught:
        await second.open()
    assert "FLOWSTATE_HTTP_PORT" in caught.value.reason
    assert second.bound_port == 0
    await first.close()


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("192.0.2.1", "no such address"),
        ("no-such-host.invalid", "FLOWSTATE_HTTP_HOST"),
        ("a..b", "FLOWSTATE_HTTP_HOST"),
        ("a" * 100, "FLOWSTATE_HTTP_HOST"),
    ],
)
async def test_invalid_host_is_a_config_error_with_a_remedy(host: str, text: str) -> None:
    """The address of another machine and a name that does not resolve are configuration errors."""
    with pytest.raises(ConfigError, match=text):
        await HttpServer([], host=host, port=0).open()


async def test_close_frees_the_port_while_clients_are_connected() -> None:
    """An idle keep-alive connection does not delay the shutdown."""
    server = HttpServer([web.get("/ok", ok)], host="127.0.0.1", port=0)
    await server.open()
    port = server.bound_port
    async with ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/ok") as response:
            await response.read()
        async with asyncio.timeout(5):
            await server.close()
        await server.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
