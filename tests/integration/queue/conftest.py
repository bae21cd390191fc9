"""Fixtures of the queue's own tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.envelopes import Envelopes
from flowstate_daemon.queue.keys import Keys
from tests.integration.queue.stage import Stage
from tests.support.clock import HandClock


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
def stage(redis: Redis, keys: Keys) -> Stage:
    return Stage(redis, keys)


@pytest.fixture
def now(clock: HandClock) -> int:
    return clock.now_ms()


@pytest.fixture
def bull(connection: Connection, keys: Keys, clock: HandClock) -> Bull:
    """The worker under test."""
    return Bull(connection, keys, clock, token="me/2")


@pytest.fixture
def rival(connection: Connection, keys: Keys, clock: HandClock) -> Bull:
    """Another worker on the same queue."""
    return Bull(connection, keys, clock, token="you/1")


@pytest.fixture
def envelopes(connection: Connection, keys: Keys, clock: HandClock) -> Envelopes:
    return Envelopes(connection, keys, clock, token="me/2")


@pytest.fixture
async def elsewhere(valkey_url: str) -> AsyncIterator[Connection]:
    """The connection of another daemon."""
    connection = Connection(valkey_url, client_name="elsewhere", block_s=1.0)
    yield connection
    await connection.close()
