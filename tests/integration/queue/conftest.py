"""Fixtures of the queue's own tests, which run on several kinds of Redis servers (tests/support/redis_flavours.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from flowstate_daemon.queue.admin import QueueAdmin
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.server_info import pin_cluster_slot
from flowstate_daemon.sending.request_store import RequestStore
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock
from tests.support.redis_flavours import SETTING, Flavour, available, chosen, open_flavour


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on the servers that the option names; one that is marked `flavours` on all that there are."""
    if "flavour" in metafunc.fixturenames:
        names = chosen(metafunc.config.getoption(SETTING))
        if metafunc.definition.get_closest_marker("flavours") is not None:
            names = available()
        ids = names if names != ["valkey"] else [pytest.HIDDEN_PARAM]
        metafunc.parametrize("flavour", names, ids=ids, indirect=True, scope="session")


@pytest.fixture(scope="session")
async def flavour(request: pytest.FixtureRequest) -> AsyncIterator[Flavour]:
    """The server of the test."""
    async with open_flavour(request.param) as opened:
        yield opened


@pytest.fixture(scope="session")
def valkey_url(flavour: Flavour) -> str:
    """The URL for connections of daemons."""
    return flavour.url


@pytest.fixture
async def redis(flavour: Flavour) -> AsyncIterator[Redis]:
    """A raw client that reads and writes keys; replies are text."""
    client = Redis.from_url(flavour.admin_url, decode_responses=True, encoding_errors="replace", protocol=2)
    yield client
    await client.aclose()


@pytest.fixture(params=["plain", "hash tag"])
def keys(request: pytest.FixtureRequest, flavour: Flavour) -> Keys:
    """A queue that no other test uses, once under a plain prefix and once under one for Redis Cluster."""
    return flavour.keys(f"t{uuid4().hex[:12]}", "email", tagged=request.param == "hash tag")


@pytest.fixture
async def connection(flavour: Flavour, keys: Keys) -> AsyncIterator[Connection]:
    """An open queue connection, in a cluster to the node of the queue, as at the start of the daemon."""
    connection = Connection(flavour.url, client_name=keys.client_name, block_timeout_s=1.0)
    await connection.open()
    if flavour.in_cluster:
        await pin_cluster_slot(connection, keys)
    yield connection
    await connection.close()


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
def operator(connection: Connection, keys: Keys, clock: FakeClock) -> QueueAdmin:
    """Changes the queue by hand."""
    return QueueAdmin(connection, keys, clock, token="t")


@pytest.fixture
def request_store(connection: Connection, keys: Keys, clock: FakeClock) -> RequestStore:
    return RequestStore(connection, keys, clock, token="me/2")


@pytest.fixture
async def elsewhere(valkey_url: str) -> AsyncIterator[Connection]:
    """The connection of another daemon."""
    connection = Connection(valkey_url, client_name="elsewhere", block_timeout_s=1.0)
    yield connection
    await connection.close()
