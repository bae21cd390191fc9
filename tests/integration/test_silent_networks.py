"""Connections that a network drops without a sign are found broken within two seconds, without commands of their own.

The proxy drops segments in the kernel: neither data nor keepalive probes are acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.queue.events import QueueEvents
from flowstate_daemon.redis_client import transport
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.redis_topologies import ProxiedRedis
from tests.support.waiting import eventually

pytestmark = pytest.mark.both_loops

MAX_WAIT_S = 4.0  # 2 s on a quiet machine; a broken connection held a code for 8 to 30 s before
ROUNDS = 3


@pytest.fixture
async def link(target: ProxiedRedis) -> AsyncIterator[Connection]:
    connection = Connection(target.url, client_name="silent", block_timeout_s=20.0)
    yield connection
    await connection.close()


async def wait_in_pop(link: Connection, target: ProxiedRedis) -> asyncio.Task[object]:
    """Start a blocking pop that nothing will end, and wait until its connection is there."""
    before = target.proxy.open_connections
    pop = asyncio.create_task(link.execute_blocking("BLPOP", "nothing-here", 20))
    await eventually(lambda: target.proxy.open_connections > before, "the connection of the pop")

    # The connection has its name, and the pop was sent, when the server shows it.
    async def sent() -> bool:
        return b"name=silent " in await link.execute("CLIENT", "LIST") and b"cmd=blpop" in await link.execute(
            "CLIENT", "LIST"
        )

    await eventually(sent, "the pop waits")
    return pop


async def test_a_blocking_pop(link: Connection, target: ProxiedRedis) -> None:
    """It ends with an outage in time, and the next command meets no other dead connection."""
    for _ in range(ROUNDS):
        pop = await wait_in_pop(link, target)
        await asyncio.gather(*(link.execute("PING") for _ in range(4)))
        await target.proxy.forget()
        started = monotonic()
        with pytest.raises(StoreUnavailableError):
            await pop
        await link.execute("PING")
        assert monotonic() - started < MAX_WAIT_S


async def test_a_subscriber(link: Connection, target: ProxiedRedis) -> None:
    """It learns of the outage instead of returning no event for ever."""
    events = QueueEvents(link, Keys("silent"))
    for _ in range(ROUNDS):
        assert (await events.next(5)) is not None
        await target.proxy.forget()
        started = monotonic()
        with pytest.raises(StoreUnavailableError):
            await events.next(20)
        assert monotonic() - started < MAX_WAIT_S
    await events.close()


async def test_a_command_under_way(link: Connection, target: ProxiedRedis) -> None:
    """Data that is not acknowledged breaks the connection, long before the reply is overdue."""
    for load in (b"x", b"x" * 3_000_000):
        await link.execute("PING")
        await target.proxy.forget()
        started = monotonic()
        with pytest.raises(StoreUnavailableError):
            await link.execute("SET", "silent", load)
        await link.execute("PING")
        assert monotonic() - started < MAX_WAIT_S


async def test_a_quiet_connection_with_a_living_peer_stays(link: Connection, target: ProxiedRedis) -> None:
    """Probes are answered: a pop that waits for longer than the patience ends by itself, on the same connection."""
    await link.execute_blocking("PING")
    opened = target.proxy.accepted
    assert await link.execute_blocking("BLPOP", "nothing-here", 3) is None
    assert target.proxy.accepted == opened


async def test_a_slow_network_is_not_taken_for_a_dead_one(link: Connection, target: ProxiedRedis) -> None:
    """Replies may take longer than the probes: only what is not acknowledged at all is dead."""
    target.proxy.latency_s = 1.0
    opened = target.proxy.accepted
    assert await link.execute("PING")
    assert await link.execute("PING")
    assert target.proxy.accepted == opened + 1


async def test_an_idle_connection_is_checked_before_use(
    link: Connection, target: ProxiedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where something acknowledges for a server that is gone, only an answer shows life: it is replaced in time."""
    await asyncio.gather(*(link.execute("PING") for _ in range(3)))
    monkeypatch.setattr(transport, "HEALTH_CHECK_AFTER_S", 0.0)
    target.proxy.swallow()
    started = monotonic()
    await link.execute("SET", "silent", "1")
    assert monotonic() - started < MAX_WAIT_S


async def test_a_connection_in_use_is_not_checked(link: Connection, keys: Keys) -> None:
    """Only the commands themselves are sent."""
    await link.execute("CONFIG", "RESETSTAT")
    for _ in range(5):
        await link.execute("GET", keys("x"))
    stats = await link.execute("INFO", "commandstats")
    assert "cmdstat_ping" not in stats
    assert stats["cmdstat_get"]["calls"] == 5
