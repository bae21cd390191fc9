"""Fixtures of the queue's own tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.request_store import RequestStore
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock


@pytest.fixture(params=["plain", "hash tag"])
def keys(request: pytest.FixtureRequest, keys: Keys) -> Keys:
    """A queue that no other test uses, once under a plain prefix and once under one for Redis Cluster."""
    return keys if request.param == "plain" else Keys(f"{{{keys.prefix}}}", keys.name)


@pytest.fixture(autouse=True)
async def swept(redis: Redis) -> AsyncIterator[None]:
    """Comparing all keys of a queue means scanning the server's: what a test leaves behind goes with it."""
    yield
    await redis.flushdb()


@pytest.fixture
def stage(redis: Redis, keys: Keys) -> QueueFixture:
    return QueueFixture(redis, keys)


@pytest.fixture
def now(clock: FakeClock) -> int:
    return clock.now_ms()


@pytest.fixture
def bull(connection: Connection, keys: Keys, clock: FakeClock) -> BullQueue:
    """The worker under test."""
    return BullQueue(connection, keys, clock, token="me/2")


@pytest.fixture
def rival(connection: Connection, keys: Keys, clock: FakeClock) -> BullQueue:
    """Another worker on the same queue."""
    return BullQueue(connection, keys, clock, token="you/1")


@pytest.fixture
def request_store(connection: Connection, keys: Keys, clock: FakeClock) -> RequestStore:
    return RequestStore(connection, keys, clock, token="me/2")


@pytest.fixture
async def elsewhere(valkey_url: str) -> AsyncIterator[Connection]:
    """The connection of another daemon."""
    connection = Connection(valkey_url, client_name="elsewhere", block_timeout_s=1.0)
    yield connection
    await connection.close()
