"""The HTTP endpoint over a real socket: plain refusals, safe headers, clear words when it cannot listen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from structlog.testing import capture_logs

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.web.server import HttpServer


async def fall(_request: web.Request) -> web.Response:
    raise RuntimeError("a bug that nobody outside must read about")


async def move(_request: web.Request) -> web.Response:
    raise web.HTTPFound("/ok")


async def ok(_request: web.Request) -> web.Response:
    return web.Response(text="ok", headers={"Content-Security-Policy": "default-src 'self'"})


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    """A client of a running endpoint with three routes: one falls, one moves, one is fine."""
    endpoint = HttpServer(
        [web.get("/fall", fall), web.get("/move", move), web.get("/ok", ok)], host="127.0.0.1", port=0
    )
    await endpoint.open()
    async with ClientSession(f"http://127.0.0.1:{endpoint.bound_port}") as session:
        yield session
    await endpoint.close()


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/nowhere", 404, "Not Found"),
        ("POST", "/ok", 405, "Method Not Allowed"),
        ("DELETE", "/ok", 405, "Method Not Allowed"),
    ],
)
async def test_refusals_are_plain(client: ClientSession, method: str, path: str, status: int, error: str) -> None:
    """A refusal says its name in JSON and nothing else."""
    async with client.request(method, path) as response:
        assert response.status == status
        assert await response.json() == {"error": error}
        assert status != 405 or response.headers["Allow"] == "GET,HEAD"


async def test_a_bug_is_logged_here_and_told_to_nobody(client: ClientSession) -> None:
    """The stranger reads that something went wrong; the operator reads what."""
    with capture_logs() as events:
        async with client.get("/fall") as response:
            assert response.status == 500
            assert await response.json() == {"error": "Internal Server Error"}
    assert [(event["event"], event["path"]) for event in events] == [("request_failed", "/fall")]


async def test_a_redirect_passes(client: ClientSession) -> None:
    """What aiohttp raises for an answer is an answer."""
    async with client.get("/move", allow_redirects=False) as response:
        assert response.status == 302


async def test_every_answer_wears_the_safe_headers(client: ClientSession) -> None:
    """No software versions, no sniffing, no caching; a route may widen what it needs."""
    for path in ("/nowhere", "/fall", "/ok"):
        async with client.get(path) as response:
            assert response.headers["Server"] == "flowstate-daemon"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == "no-store"
            wider = path == "/ok"
            assert response.headers["Content-Security-Policy"].startswith("default-src 'self'" if wider else "")


async def test_head_answers_without_a_body(client: ClientSession) -> None:
    """Load balancers ask with HEAD."""
    async with client.head("/ok") as response:
        assert response.status == 200
        assert await response.read() == b""


async def test_a_port_in_use_is_told_with_its_remedy() -> None:
    """The operator reads which address, why, and what to set; no socket is left behind."""
    first = HttpServer([], host="127.0.0.1", port=0)
    await first.open()
    second = HttpServer([], host="127.0.0.1", port=first.bound_port)
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{first.bound_port}: another program") as caught:
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
async def test_a_wrong_host_is_told_with_its_remedy(host: str, text: str) -> None:
    """An address of another machine and a name that nobody knows are mistakes of configuration."""
    with pytest.raises(ConfigError, match=text):
        await HttpServer([], host=host, port=0).open()


async def test_closing_frees_the_port_at_once_although_clients_stay_connected() -> None:
    """An idle keep-alive connection does not hold the end of the daemon."""
    endpoint = HttpServer([web.get("/ok", ok)], host="127.0.0.1", port=0)
    await endpoint.open()
    port = endpoint.bound_port
    async with ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/ok") as response:
            await response.read()
        async with asyncio.timeout(5):
            await endpoint.close()
        await endpoint.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
