"""Fixtures for all tests: real stores, started by the first test that uses them, and a fake clock.

A store that cannot be started skips its tests with the reason; under CI=true it fails them.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
import pytest
import structlog
import uvloop
from hypothesis import settings
from redis.asyncio import Redis

from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.dev.embedded import NON_DURABLE_SETTINGS, EmbeddedPostgres, EmbeddedValkey
from flowstate_daemon.dev.seed import create_tables
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.clock import FakeClock
from tests.support.redis_flavours import SETTING
from tests.support.time_limits import limit_time

T = TypeVar("T")

LOOP_FIXTURE = "_asyncio_loop_factory"  # of pytest-asyncio
TEMPLATE = "flowstate_template"

# A slow example of Hypothesis is caused by a busy machine, not by the code.
settings.register_profile("flowstate", deadline=None)
# Twenty times as many examples, which take hours: `pytest --hypothesis-profile=thorough tests/compat/test_model.py`.
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("flowstate")

configure_logs = structlog.configure


def configure_uncached_logs(**options: Any) -> None:
    """As the daemon does, but without its cache: a logger that is cached for the process escapes `capture_logs`."""
    configure_logs(**options | {"cache_logger_on_first_use": False})


structlog.configure = configure_uncached_logs


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        SETTING, default="valkey", help="the Redis servers for the queue's tests: names with commas, or all"
    )
    parser.addoption("--every-step", action="store_true", help="test crashes and losses at every step, not a sample")


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop of coroutine tests: uvloop, as in production; tests of connections run on both loops."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.get_closest_marker("both_loops") is not None:
        factories["asyncio"] = asyncio.new_event_loop
    return factories


def pytest_xdist_auto_num_workers() -> int:
    """One more process than there are processors: many tests wait for other processes."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function):
            limit_time(item)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let plain functions with coroutine fixtures use the loop of the other tests.

    pytest-asyncio chooses the loop of coroutine tests only: session fixtures would be rebuilt for the others.
    """
    given = getattr(metafunc.function, "hypothesis", None)  # a coroutine test that hypothesis wraps in a function
    if not inspect.iscoroutinefunction(metafunc.function if given is None else given.inner_test):
        metafunc.fixturenames.append(LOOP_FIXTURE)
        metafunc.parametrize(
            LOOP_FIXTURE, [uvloop.new_event_loop], ids=[pytest.HIDDEN_PARAM], indirect=True, scope="session"
        )


def skip_or_fail(error: FlowstateError) -> None:
    """Skip the test, or fail it in CI, where a run without stores must not pass."""
    if os.environ.get("CI") == "true":
        pytest.fail(error.reason)
    pytest.skip(error.reason)


@pytest.fixture(scope="session")
async def valkey_url() -> AsyncIterator[str]:
    """The URL of one Valkey for the whole session; `keys` keeps tests apart."""
    daemon = EmbeddedValkey()
    try:
        await daemon.start()
    except FlowstateError as error:
        await daemon.close()
        skip_or_fail(error)
    yield daemon.url
    await daemon.close()


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    """One PostgreSQL for the whole session; `database_url` keeps tests apart."""
    daemon = EmbeddedPostgres(settings=NON_DURABLE_SETTINGS)
    try:
        await daemon.start()
    except FlowstateError as error:
        await daemon.close()
        skip_or_fail(error)
    yield daemon
    await daemon.close()


@pytest.fixture(scope="session")
def postgres_url(postgres: EmbeddedPostgres) -> str:
    """The URL of the session's PostgreSQL: its `postgres` database, without tables."""
    return postgres.url()


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> Callable[[Sequence[T], int], Sequence[T]]:
    """Chooses `count` of the given steps, of the same list always the same; with `--every-step` all."""

    def choose(steps: Sequence[T], count: int) -> Sequence[T]:
        if request.config.getoption("--every-step") or len(steps) <= count:
            return steps
        return random.Random(4711).sample(steps, count)

    return choose


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keys() -> Keys:
    """The keys of a queue that no other test uses."""
    return Keys(prefix=f"t{uuid4().hex[:12]}", name="email")


@pytest.fixture
async def connection(valkey_url: str, keys: Keys) -> AsyncIterator[Connection]:
    """An open queue connection; its blocking pops time out after a second."""
    connection = Connection(valkey_url, client_name=keys.client_name, block_timeout_s=1.0)
    await connection.open()
    yield connection
    await connection.close()


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A raw client that reads and writes keys; replies are text."""
    client = Redis.from_url(valkey_url, decode_responses=True, protocol=2)
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
async def template(postgres: EmbeddedPostgres) -> str:
    """A database with the empty FlowState tables; tests get copies of it."""
    server = await asyncpg.connect(postgres.url())
    await server.execute(f'CREATE DATABASE "{TEMPLATE}"')
    await server.close()
    await create_tables(postgres.url(TEMPLATE))
    return TEMPLATE


@pytest.fixture
async def database_url(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """The URL of a database of the test's own, a copy of the template."""
    async with copy_database(postgres, template) as url:
        yield url


@asynccontextmanager
async def copy_database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """The URL of a database that exists inside the block, a copy of the template."""
    name = f"t{uuid4().hex[:12]}"
    server = await asyncpg.connect(postgres.url())
    await server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield postgres.url(name)
    finally:
        await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await server.close()
