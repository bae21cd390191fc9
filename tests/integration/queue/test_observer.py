"""The observer of the shadow mode: received events, read jobs, and no changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import JobFailed, JobSucceeded, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.shadow.observer import JobEvent, QueueObserver
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.proxy import FaultProxy
from tests.support.redis_flavours import Flavour, with_port


@pytest.fixture
async def observer(elsewhere: Connection, keys: Keys) -> AsyncIterator[QueueObserver]:
    observer = QueueObserver(elsewhere, keys, max_data_bytes=1_000)
    yield observer
    await observer.close()


async def test_events_of_a_job_are_received(observer: QueueObserver, bull: BullQueue) -> None:
    """Added, taken, ended: with the result's JSON or the reason."""
    await observer.listen()
    for name in ("welcome", "otp"):
        await bull.add(NewJob(name, {}))
    first, second = await bull.claim(2)
    await bull.complete([JobSucceeded(first, b'{"id":"re_1"}')])
    await bull.fail([JobFailed(second, "no such address", b"[]")])
    received: list[JobEvent] = []
    while len(received) < 6:
        received += await observer.next_events(5.0)
    assert received == [
        JobEvent("waiting", "1"),
        JobEvent("waiting", "2"),
        JobEvent("active", "1"),
        JobEvent("active", "2"),
        JobEvent("completed", "1", '{"id":"re_1"}'),
        JobEvent("failed", "2", "no such address"),
    ]
    assert await observer.next_events(0.01) == []


async def test_read_jobs_returns_what_claim_returns(
    observer: QueueObserver, bull: BullQueue, stage: QueueFixture
) -> None:
    """The same jobs, also with too long data; ids without a job are omitted, and no key changes."""
    await bull.add(NewJob("welcome", {"to": "ada@example.org"}, priority=5, attempts=3))
    await bull.add(NewJob("welcome", {"to": "x" * 2_000}))
    await stage.snapshot()
    seen = await observer.read_jobs(["1", "2", "3", "wait", "2:lock"])
    assert await stage.diff() == {}
    assert "more than the maximum of 1000" in (seen["2"].invalid_reason or "")
    claimed = {job.id: job for job in await bull.claim(2)}
    assert seen.keys() == claimed.keys()
    assert seen["1"] == claimed["1"]


async def test_pending_ids_are_in_the_order_of_execution(observer: QueueObserver, stage: QueueFixture) -> None:
    """Active jobs first, then the next to run, up to the given number."""
    for job_id, state in (("1", "active"), ("2", "wait"), ("3", "wait"), ("4", "wait"), ("5", "paused")):
        await stage.put(job_id, state)
    await stage.put("6", "delayed")
    assert await observer.pending_ids(2) == ["1", "2", "3", "5"]


async def test_a_lost_connection_is_noticed(
    observer: QueueObserver, bull: BullQueue, redis: Redis, elsewhere: Connection, flavour: Flavour
) -> None:
    """Something may have been missed: whoever listens again must look around, too."""
    await observer.listen()
    observer.missed_events = False
    await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    if flavour.in_cluster:  # the observer is connected to another node than the raw client
        await elsewhere.execute("CLIENT", "KILL", "TYPE", "pubsub")
    while not observer.missed_events:
        with suppress(StoreUnavailableError):
            await observer.next_events(5.0)
        if not observer.listening:
            await observer.listen()
    await bull.add(NewJob("welcome", {}))
    assert await observer.next_events(5.0) == [JobEvent("waiting", "1")]


async def nothing(observer: QueueObserver) -> int:
    """How often no event was received."""
    return [await observer.next_events(0.5) for _ in range(4)].count([])


async def test_a_connection_that_fell_silent_is_noticed(valkey_url: str, keys: Keys, bull: BullQueue) -> None:
    """A connection that the network dropped silently is detected; an idle queue looks the same, but replies."""
    where = urlsplit(valkey_url)
    async with FaultProxy(where.hostname or "", where.port or 0) as proxy:
        connection = Connection(with_port(valkey_url, proxy.port), client_name="behind")
        observer = QueueObserver(connection, keys, max_data_bytes=1_000)
        await observer.listen()
        assert await nothing(observer) == 4
        proxy.freeze()
        await bull.add(NewJob("welcome", {}))
        with pytest.raises(StoreUnavailableError, match="the subscribed connection is dead"):
            await nothing(observer)
        proxy.unfreeze()
        await observer.listen()
        assert observer.missed_events
        await observer.close()
        await connection.close()


async def test_invalid_events_are_ignored(observer: QueueObserver, connection: Connection, keys: Keys) -> None:
    """Other programs may publish on these channels."""
    await observer.listen()
    for channel, text in (("completed", b"{"), ("failed", b"\xff"), ("completed", b"7"), ("progress", b"1")):
        await connection.execute("PUBLISH", keys(channel), text)
    await connection.execute("PUBLISH", keys("completed"), b'{"jobId":"9"}')
    received: list[JobEvent] = []
    while not received:
        received += await observer.next_events(5.0)
    assert received == [JobEvent("completed", "9")]
