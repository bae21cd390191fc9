"""The HTTP port of a running daemon: hostile clients, all addresses, and a port that another program uses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path

import pytest

from tests.process.conftest import MakeDaemon
from tests.support.daemon import Daemon
from tests.support.svix import SECRET, signed
from tests.support.waiting import eventually

RESET = struct.pack("ii", 1, 0)
HALF_SENT = b"POST /webhooks/resend HTTP/1.1\r\nHost: a\r\n%sContent-Length: 250000\r\n\r\n" + b"x" * 249_000
MAX_GROWTH_KB = 120 * 1024
CLIENTS = 800


def webhook_head(headers: dict[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


def peak_memory_kb(daemon: Daemon) -> int:
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


async def hang_up(port: int, sent: bytes) -> None:
    """Connect, send something, and reset the connection."""
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await writer.drain()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()


async def test_hang_ups_write_one_line_and_half_sent_bodies_use_bounded_memory(
    make_daemon: MakeDaemon, database_url: str
) -> None:
    """Clients that may sign webhooks and clients that may not: memory stays bounded, the log short, ready green."""
    daemon = make_daemon(DATABASE_URL=database_url, FLOWSTATE_RESEND_WEBHOOK_SECRET=SECRET)
    async with daemon:
        await daemon.ready()
        before_kb = peak_memory_kb(daemon)
        lines = len(daemon.log_text().splitlines())
        for head in (b"", webhook_head(signed(b""))):
            for _ in range(CLIENTS // 100):
                await asyncio.gather(*(hang_up(daemon.port, HALF_SENT % head) for _ in range(100)))
        writers = []
        for head in (b"", webhook_head(signed(b""))):
            for _ in range(CLIENTS):
                _, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
                writer.write(HALF_SENT % head)
                writers.append(writer)
        await eventually(daemon.is_ready, "ready while the bodies are half sent")
        for writer in writers:
            writer.transport.abort()
        assert peak_memory_kb(daemon) - before_kb < MAX_GROWTH_KB
        added = daemon.log_text().splitlines()[lines:]
        assert len([line for line in added if "Traceback" in line or '"level":"error"' in line]) == 0
        assert len(added) <= 10


@pytest.mark.parametrize("host", ["::", "0.0.0.0", "localhost"])
async def test_daemon_serves_the_addresses_of_its_host(make_daemon: MakeDaemon, host: str) -> None:
    """`::` serves IPv6 and IPv4."""
    async with make_daemon(FLOWSTATE_HTTP_HOST=host) as daemon:
        await daemon.ready()  # over IPv4
        if host == "::":
            reader, writer = await asyncio.open_connection("::1", daemon.port)
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b"alive" in await reader.read()
            writer.close()


@pytest.mark.parametrize(("other", "host"), [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "::"), ("0.0.0.0", "127.0.0.1")])
async def test_port_in_use_is_not_a_configuration_error(make_daemon: MakeDaemon, other: str, host: str) -> None:
    """The exit code is 1, so that the supervisor tries again, and the message names the address and the setting."""
    daemon = make_daemon(FLOWSTATE_HTTP_HOST=host)
    with socket.create_server((other, daemon.port)):
        async with daemon:
            assert await daemon.ended(within_s=30) == 1
    log = daemon.log_text()
    assert f"{host}:{daemon.port}" in log
    assert "another program uses this port" in log
    assert "FLOWSTATE_HTTP_PORT" in log
    assert "invalid configuration" not in log
