"""Queue events: due times, pause and resume, also after a lost connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import QueueEvent, QueueEvents
from flowstate_daemon.queue.job import NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys


@pytest.fixture
async def signals(connection: Connection, keys: Keys) -> AsyncIterator[QueueEvents]:
    signals = QueueEvents(connection, keys)
    assert await signals.next(5) == QueueEvent("listening", 0)
    yield signals
    await signals.close()


async def test_events_are_decoded(signals: QueueEvents, redis: Redis, keys: Keys) -> None:
    """Due times are rounded up, pause and resume have names; invalid payloads are ignored."""
    for channel, payload in [
        ("delayed", "1795428238206.0002"),
        ("delayed", "soon"),
        ("paused", "paused"),
        ("resumed", "resumed"),
    ]:
        await redis.publish(keys(channel), payload)
    assert await signals.next(5) == QueueEvent("delayed", 1_795_428_238_207)
    assert await signals.next(5) is None
    assert await signals.next(5) == QueueEvent("paused")
    assert await signals.next(5) == QueueEvent("resumed")
    assert await signals.next(0.01) is None


async def test_own_delayed_jobs_are_received(signals: QueueEvents, bull: BullQueue, now: int) -> None:
    """An add with a delay wakes whoever waits for due jobs."""
    waiting = asyncio.create_task(signals.next(5))
    await bull.add(NewJob("x", {}, delay_ms=500))
    assert await waiting == QueueEvent("delayed", now + 500)


async def test_a_broken_connection(signals: QueueEvents, redis: Redis, keys: Keys) -> None:
    """The next one begins with a hint that something may have been missed."""
    waiting = asyncio.create_task(signals.next(5))
    assert await redis.client_kill_filter(_type="pubsub") >= 1
    with pytest.raises(StoreUnavailableError):
        await waiting
    assert await signals.next(5) == QueueEvent("listening", 0)
    await redis.publish(keys("paused"), "paused")
    assert await signals.next(5) == QueueEvent("paused")


async def test_cancelled_in_the_middle(signals: QueueEvents, redis: Redis, keys: Keys) -> None:
    """A wait that was cancelled leaves nothing behind that the next one could stumble over."""
    waiting = asyncio.create_task(signals.next(60))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await signals.next(5) == QueueEvent("listening", 0)
    await redis.publish(keys("resumed"), "resumed")
    assert await signals.next(5) == QueueEvent("resumed")


async def test_silence_costs_nothing(signals: QueueEvents, redis: Redis) -> None:
    """Waiting sends no commands."""
    before = (await redis.info("stats"))["total_commands_processed"]
    for _ in range(5):
        await signals.next(0.02)
    assert (await redis.info("stats"))["total_commands_processed"] - before == 1
