"""Waiting for a job's end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from flowstate_daemon.queue.events import FinishedJob, JobWaiter
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture


@pytest.fixture
async def waiter(connection: Connection, keys: Keys) -> AsyncIterator[JobWaiter]:
    async with JobWaiter(connection, keys) as waiter:
        yield waiter


async def wait_until_finished(connection: Connection, keys: Keys, job_id: str, timeout_s: float) -> FinishedJob:
    """Wait for one job only."""
    async with JobWaiter(connection, keys) as waiter:
        return await waiter.wait(job_id, timeout_s)


async def publish(redis: Redis, keys: Keys, channel: str, **event: str) -> None:
    await redis.publish(keys(channel), json.dumps(event))


@pytest.mark.parametrize("state", ["completed", "failed"])
async def test_job_that_has_ended(connection: Connection, keys: Keys, stage: QueueFixture, state: str) -> None:
    """An end that is written down is found without any event."""
    await stage.put("1", state, returnvalue='{"a":1}', failedReason="no")
    await stage.snapshot()
    end = await wait_until_finished(connection, keys, "1", 5)
    if state == "completed":
        assert (end, end.value) == (FinishedJob("1", "completed", returnvalue=b'{"a":1}'), {"a": 1})
    else:
        assert (end, end.value) == (FinishedJob("1", "failed", reason="no"), None)
    assert await stage.diff() == {}


async def test_result_from_the_event_only(waiter: JobWaiter, keys: Keys, redis: Redis, stage: QueueFixture) -> None:
    """A job that removes itself is known by its event alone, whether it comes before the question or after."""
    await publish(redis, keys, "completed", jobId="1", val='{"id":7}')
    await stage.put("2", "active")
    waiting = asyncio.create_task(waiter.wait("2", 5))
    assert await waiter.wait("1", 5) == FinishedJob("1", "completed", returnvalue=b'{"id":7}')
    await redis.delete(keys.job("2"))
    await publish(redis, keys, "failed", jobId="2", val="no such address")
    assert (await waiting).reason == "no such address"


async def test_many_waits_on_one_watch(waiter: JobWaiter, keys: Keys, redis: Redis, stage: QueueFixture) -> None:
    """Each wait gets its own job's end, in whatever order they come; a value left out by node is null."""
    for i in range(20):
        await stage.put(str(i), "active")
    waits = [asyncio.create_task(waiter.wait(str(i), 5)) for i in range(20)]
    for i in reversed(range(20)):
        await publish(redis, keys, "completed", jobId=str(i))
    assert await asyncio.gather(*waits) == [FinishedJob(str(i), "completed", returnvalue=b"null") for i in range(20)]


async def test_odd_messages_are_passed_over(waiter: JobWaiter, keys: Keys, redis: Redis, stage: QueueFixture) -> None:
    """What is not an event of Bull's does not disturb the waits."""
    await stage.put("1", "active")
    waiting = asyncio.create_task(waiter.wait("1", 5))
    for text in ("", "[", "null", '{"jobId":1}', '{"val":"x"}', "\x00"):
        await redis.publish(keys("completed"), text)
    await publish(redis, keys, "completed", jobId="1", val="1")
    assert (await waiting).value == 1


async def test_lost_event(connection: Connection, keys: Keys, stage: QueueFixture) -> None:
    """Without events, the queue is polled."""
    await stage.put("1", "active")
    async with JobWaiter(connection, keys, poll_interval_s=0.1) as waiter:
        waiting = asyncio.create_task(waiter.wait("1", 5))
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        await stage.put("1", "completed", returnvalue="5")
        assert (await waiting).value == 5


async def test_lost_connection(waiter: JobWaiter, keys: Keys, redis: Redis, stage: QueueFixture) -> None:
    """A waiter whose connection is cut listens again by itself."""
    await stage.put("1", "active")
    waiting = asyncio.create_task(waiter.wait("1", 10))
    await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    async with asyncio.timeout(10):
        while not waiting.done():
            await publish(redis, keys, "completed", jobId="1", val="1")
            await asyncio.wait([waiting], timeout=0.05)
    assert (await waiting).value == 1


async def test_job_that_is_nowhere(connection: Connection, keys: Keys) -> None:
    """A job that does not exist is gone: the wait ends."""
    assert await wait_until_finished(connection, keys, "1", 5) == FinishedJob("1", "gone")


async def test_patience_ends(connection: Connection, keys: Keys, stage: QueueFixture) -> None:
    """A job that does not end in time is a TimeoutError."""
    await stage.put("1", "active")
    with pytest.raises(TimeoutError):
        await wait_until_finished(connection, keys, "1", 0.2)


async def test_connection_is_given_back(connection: Connection, keys: Keys, stage: QueueFixture) -> None:
    """One wait after the other uses the connection's one subscriber."""
    await stage.put("1", "completed")
    for _ in range(3):
        assert (await wait_until_finished(connection, keys, "1", 5)).state == "completed"


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 0.001])
async def test_a_wait_that_is_over_at_once_ends(waiter: JobWaiter, stage: QueueFixture, timeout_s: float) -> None:
    """Also when the time is up in the middle of the look, where redis-py may swallow the cancellation."""
    await stage.put("1", "active")
    async with asyncio.timeout(2):
        for _ in range(50):
            with pytest.raises(TimeoutError):
                await waiter.wait("1", timeout_s)
