"""Clients that leave, stop reading, send half a body, hold connections open, or do not speak HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, web
from structlog.testing import capture_logs

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.delivery.webhooks import WebhookVerifier
from flowstate_daemon.dev.embedded import free_port
from flowstate_daemon.web.bodies import read_body
from flowstate_daemon.web.connections import ConnectionLimits
from flowstate_daemon.web.limits import MAX_BODIES_BYTES
from flowstate_daemon.web.responses import json_response
from flowstate_daemon.web.server import HttpServer
from flowstate_daemon.web.webhooks import Webhooks
from tests.support.svix import report, signed
from tests.support.waiting import eventually

RESET = struct.pack("ii", 1, 0)
MAX_BODY = 256 * 1024
LARGE = 512 * 1024
HEADER_VALUES = [
    "é",
    "\xff\xfe",
    "x" * 4000,
    "%",
    "\t",
    "=?utf-8?q?=C3=A9?=",
    "charset=é",
    "🙂",
    "-1",
    "v1,é",
    "Bearer é",
]
HEADERS = [
    "Expect", "Accept", "Accept-Language", "Accept-Encoding", "Authorization", "Content-Type", "Content-Encoding",
    "Cookie", "Connection", "Upgrade", "Host", "If-None-Match", "If-Modified-Since", "Origin", "Range", "Referer",
    "TE", "Trailer", "User-Agent", "X-Forwarded-For", "svix-id", "svix-timestamp", "svix-signature",
]  # fmt: skip
MARKER = b"echoed-marker"
MALFORMED = [
    MARKER + b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /" + MARKER + b" HTTP/9.9\r\n\r\n",
    b"GET /ok HTTP/1.1\r\n" + MARKER + b"\r\n\r\n",
    b"GET /ok HTTP/1.1\r\nX: " + MARKER + b"\x00\r\n\r\n",
    b"GET /ok HTTP/1.1\r\nHost: a\r\nContent-Length: " + MARKER + b"\r\n\r\n",
    b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n" + MARKER,
    b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + MARKER + b"\r\n",
    b"GET /ok HTTP/1.1\r\nHost: a\r\nX-Long: " + MARKER * 2_000 + b"\r\n\r\n",
    b"GET /" + MARKER * 2_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /ok HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(500)) + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + MARKER,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


async def read(request: web.Request) -> web.Response:
    return json_response({"bytes": len(await read_body(request, MAX_BODY))})


async def large(_request: web.Request) -> web.Response:
    return web.Response(body=b"x" * LARGE)


async def stream(request: web.Request) -> web.StreamResponse:
    """A response without an end."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65_536)


async def ok(_request: web.Request) -> web.Response:
    return web.Response(text="ok")


ROUTES = [web.post("/body", read), web.get("/large", large), web.get("/stream", stream), web.get("/ok", ok)]


@asynccontextmanager
async def serve(
    limits: ConnectionLimits | None = None, routes: list[web.RouteDef] = ROUTES
) -> AsyncIterator[HttpServer]:
    server = HttpServer(routes, host="127.0.0.1", port=0, limits=limits)
    await server.open()
    try:
        yield server
    finally:
        async with asyncio.timeout(15):
            await server.close()


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    async with serve() as server:
        yield server


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, server: HttpServer, sent: bytes = b"", *, limit: int = 2**16) -> Client:
        client = cls(*await asyncio.open_connection("127.0.0.1", server.bound_port, limit=limit))
        client.writer.write(sent)
        await client.writer.drain()
        return client

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.writer.transport.abort()

    def leave(self) -> None:
        self.writer.close()

    async def response(self, within_s: float = 20) -> bytes:
        """Everything until the server closes the connection, or `b""` after a reset."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(within_s):
                return await self.reader.read()
        return b""


def open_connections(server: HttpServer) -> int:
    return len(server._connections._open)


async def get_ok(server: HttpServer) -> int:
    async with ClientSession() as session, session.get(f"http://127.0.0.1:{server.bound_port}/ok") as response:
        return response.status


HALF_SENT = {
    "nothing": b"",
    "half a request line": b"GET /o",
    "half a header": b"GET /ok HTTP/1.1\r\nHost: a",
    "announced body": b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n",
    "half a body": b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500,
    "half a chunk": b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nxx",
    "no reading": b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n",
    "no reading of a stream": b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
    "pipelined": b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 20,
}


@pytest.mark.parametrize("leave", [Client.reset, Client.leave], ids=["reset", "close"])
@pytest.mark.parametrize("sent", HALF_SENT.values(), ids=HALF_SENT.keys())
@pytest.mark.both_loops
async def test_client_that_leaves_is_no_error(server: HttpServer, sent: bytes, leave: Callable[[Client], None]) -> None:
    """Whatever it had sent: a hundred such clients write at most one line of information, and leave nothing behind."""
    with capture_logs() as events:
        for _ in range(5):
            clients = [await Client.connect(server, sent) for _ in range(20)]
            await eventually(lambda: open_connections(server) >= 20, "connections")
            for client in clients:
                leave(client)
            await eventually(lambda: open_connections(server) == 0, "all are closed", within_s=40)
        assert await get_ok(server) == 200
    assert [event["event"] for event in events] in ([], ["http_client_left"])
    assert all(event["log_level"] == "info" for event in events)
    assert server._body_memory.free == MAX_BODIES_BYTES


@pytest.mark.parametrize("path", ["large", "stream"])
@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_client_that_does_not_read_is_cut_off(path: str, connection: str) -> None:
    """Nothing is held for it: one page, many pipelined pages, a stream, and the rest after `Connection: close`."""
    request = f"GET /{path} HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n\r\n".encode()
    async with serve(ConnectionLimits(write_timeout_s=1.0)) as server:
        clients = []
        for count in (1, 1, 30):
            client = await Client.connect(server, request * count, limit=1)
            client.writer.transport.pause_reading()
            clients.append(client)
        await eventually(lambda: open_connections(server) == 0, "all are cut off", within_s=40)
        assert await get_ok(server) == 200
        for client in clients:
            client.reset()


async def test_client_that_reads_is_not_cut_off() -> None:
    """A long response to a client that reads it in small pieces arrives whole."""
    async with serve(ConnectionLimits(write_timeout_s=1.0)) as server:
        client = await Client.connect(
            server, b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", limit=8_192
        )
        received = 0
        while part := await client.reader.read(16_384):
            received += len(part)
            await asyncio.sleep(0.05)  # the client's speed
        assert received > LARGE
        client.leave()


async def test_bodies_share_a_bounded_memory(server: HttpServer) -> None:
    """Half-sent bodies beyond the bound get 503 at once; memory is free again when the clients have gone."""
    head = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % MAX_BODY
    part = b"x" * (MAX_BODY - 1)
    fitting = MAX_BODIES_BYTES // len(part)
    clients = [await Client.connect(server, head + part) for _ in range(fitting)]
    await eventually(lambda: server._body_memory.free < len(part), "the memory is used")
    refused = await Client.connect(server, head + part)
    answer = await refused.response()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"Retry-After" in answer
    assert await get_ok(server) == 200
    for client in clients:
        client.writer.write(b"x")
    for client in clients:
        assert (await client.reader.readline()).startswith(b"HTTP/1.1 200")
    await eventually(lambda: server._body_memory.free == MAX_BODIES_BYTES, "the memory is free")
    for client in [*clients, refused]:
        client.leave()


async def test_announced_body_uses_no_memory(server: HttpServer) -> None:
    """Many clients that announce a body and send nothing cannot keep others from sending theirs."""
    head = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % MAX_BODY
    clients = [await Client.connect(server, head) for _ in range(100)]
    await eventually(lambda: open_connections(server) == 100, "connections")
    async with ClientSession() as session:
        url = f"http://127.0.0.1:{server.bound_port}/body"
        async with session.post(url, data=b"x" * MAX_BODY) as response:
            assert response.status == 200
    for client in clients:
        client.reset()


async def test_idle_connections_give_way_to_new_ones() -> None:
    """However many clients hold connections open, a new one is served, and the log has one line."""
    async with serve(ConnectionLimits(max_connections=10)) as server:
        with capture_logs() as events:
            clients = [await Client.connect(server, sent) for sent in [*HALF_SENT.values()][:3] * 20]
            assert await get_ok(server) == 200
        assert open_connections(server) <= 10
        assert [event["event"] for event in events] == ["http_connections_full"]
        for client in clients:
            client.reset()


async def test_connections_beyond_the_limit_are_refused_while_all_are_busy() -> None:
    """The client gets 503, not silence; it is served once another has finished."""
    async with serve(ConnectionLimits(max_connections=5)) as server:
        head = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
        clients = [await Client.connect(server, head) for _ in range(5)]
        await eventually(lambda: sum(one.is_busy for one in server._connections._open) == 5, "all are busy")
        refused = await Client.connect(server)
        answer = await refused.response()
        refused.leave()
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"flowstate-daemon" in answer
        clients[0].reset()
        await eventually(lambda: open_connections(server) == 4, "one has left")
        assert await get_ok(server) == 200
        for client in clients[1:]:
            client.reset()


@pytest.mark.parametrize("sent", MALFORMED, ids=range(len(MALFORMED)))
async def test_malformed_request_is_answered_without_versions_and_echo(server: HttpServer, sent: bytes) -> None:
    """The answer is a short JSON document with the headers of every other answer; the log stays empty."""
    with capture_logs() as events:
        client = await Client.connect(server, sent)
        if client.writer.can_write_eof():
            client.writer.write_eof()
        answer = await client.response()
        client.leave()
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert MARKER not in answer
    for revealing in (b"aiohttp", b"Python", b"Error:", b"Traceback"):
        assert revealing not in answer
    if answer:
        assert b"Server: flowstate-daemon" in answer
        assert b'{"type":"about:blank"' in answer
        assert b"X-Content-Type-Options: nosniff" in answer
    assert all(event["log_level"] == "info" for event in events)


@pytest.fixture
async def all_routes() -> AsyncIterator[HttpServer]:
    """The routes above, and the provider's webhook without its database."""
    async with open_pool(clean_dsn(f"postgresql://nobody@127.0.0.1:{free_port()}/x")) as pool:
        verifier = WebhookVerifier(["whsec_dHdlbnR5LWZvdXIgYnl0ZXMgb2Yga2V5"], Clock())
        async with serve(routes=[*ROUTES, *Webhooks(verifier, Ledger(pool, Clock()), Clock()).routes()]) as server:
            yield server


@pytest.mark.parametrize("name", HEADERS)
async def test_no_header_causes_a_server_error(all_routes: HttpServer, name: str) -> None:
    """Any bytes in any header: the answer is that of the route or a 4xx, and nothing of it is an error in the log."""
    with capture_logs() as events:
        for value in HEADER_VALUES:
            for start in ("GET /ok", "POST /body", "GET /nowhere", "PUT /ok", "POST /webhooks/resend"):
                sent = f"{start} HTTP/1.1\r\n{name}: ".encode() + value.encode() + b"\r\nContent-Length: 0\r\n\r\n"
                client = await Client.connect(all_routes, sent)
                status = int((await client.reader.readline()).split()[1])
                client.reset()
                assert status < 500, (start, name, value)
                if name == "Expect":
                    assert status in (400, 417)
    assert not [event for event in events if event["log_level"] == "error"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"svix-id": "msg_1"},
        {"svix-id": "", "svix-timestamp": "0", "svix-signature": "v1,x"},
        {**signed(b""), "svix-signature": "v1,é"},
        {**signed(b""), "svix-signature": "v2,abc"},
        {**signed(b""), "svix-timestamp": "é"},
        signed(b"", sent_s=1_000),
        {**signed(b""), "svix-id": ""},
    ],
)
async def test_webhook_without_valid_headers_is_rejected_before_its_body(
    all_routes: HttpServer, headers: dict[str, str]
) -> None:
    """The answer comes although no byte of the announced body has been sent."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /webhooks/resend HTTP/1.1\r\nHost: a\r\n{lines}Content-Length: 200000\r\n\r\n".encode()
    client = await Client.connect(all_routes, head)
    async with asyncio.timeout(5):
        assert (await client.reader.readline()).split()[1] == b"401"
    client.reset()


async def test_webhook_with_several_signatures_is_read(all_routes: HttpServer) -> None:
    """While the secret is rotated the provider sends more than one signature; the body is read and verified."""
    body = report("domain.updated")
    headers = signed(body)
    headers["svix-signature"] = f"v1,{'A' * 43}= v1a,xyz {headers['svix-signature']}"
    url = f"http://127.0.0.1:{all_routes.bound_port}/webhooks/resend"
    async with ClientSession() as session, session.post(url, data=body, headers=headers) as response:
        assert response.status == 200
