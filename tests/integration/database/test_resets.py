"""Connections to Postgres that are reset at any moment: an outage, never a bug; on both event loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.pool import acquire, open_pool
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually

pytestmark = pytest.mark.both_loops

ROUNDS = 12
LOADS = ("x", "x" * 300_000, "x" * 3_000_000)


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[FaultProxy]:
    folder = parse_qs(urlsplit(postgres_url).query)["host"][0]
    async with FaultProxy(folder, 5432) as proxy:
        yield proxy


@pytest.fixture
async def pool(postgres_url: str, proxy: FaultProxy) -> AsyncIterator[asyncpg.Pool]:
    """A pool whose connections lead through the proxy."""
    parts = urlsplit(postgres_url)
    url = f"postgresql://{parts.username}@127.0.0.1:{proxy.port}{parts.path}?sslmode=disable"
    async with open_pool(clean_dsn(url), size=4) as pool:
        yield pool


async def succeeds(pool: asyncpg.Pool, load: str = "x", *, transaction: bool = False) -> bool:
    """Run a query; False for an outage. Any other error fails the test."""
    try:
        async with acquire(pool) as connection:
            if not transaction:
                return bool(await connection.fetchval("SELECT length($1)", load) == len(load))
            async with connection.transaction():
                return bool(await connection.fetchval("SELECT length($1)", load) == len(load))
    except StoreUnavailableError:
        return False


async def test_idle_connections(pool: asyncpg.Pool, proxy: FaultProxy) -> None:
    """The next queries succeed or are outages, and later ones succeed."""
    for _ in range(ROUNDS):
        await asyncio.gather(*(succeeds(pool) for _ in range(4)))
        proxy.cut()
        await asyncio.gather(*(succeeds(pool) for _ in range(4)))
        await eventually(lambda: succeeds(pool), "queries work again")


@pytest.mark.parametrize("transaction", [False, True])
async def test_under_load(pool: asyncpg.Pool, proxy: FaultProxy, transaction: bool) -> None:
    """Queries of all sizes meet resets at any byte."""
    done = asyncio.Event()
    succeeded = [0] * len(LOADS)

    async def repeat(number: int, load: str) -> None:
        while not done.is_set():
            succeeded[number] += await succeeds(pool, load, transaction=transaction)
            await asyncio.sleep(0)

    async def resets() -> None:
        for _ in range(ROUNDS * 4):
            before = sum(succeeded)
            await eventually(lambda before=before: sum(succeeded) > before, "something worked")  # type: ignore[misc]
            proxy.cut()
        done.set()

    async with asyncio.TaskGroup() as group:
        for number, load in enumerate(LOADS):
            group.create_task(repeat(number, load))
        group.create_task(resets())
    await eventually(lambda: succeeds(pool), "queries work again")


@pytest.mark.parametrize("after", [0, 1, 7])
async def test_a_reply_that_ends_in_a_reset(pool: asyncpg.Pool, proxy: FaultProxy, after: int) -> None:
    """Before its first byte and in the middle, during the login as well as in a query."""
    assert await succeeds(pool)
    proxy.reset_reply_after = after
    assert not await succeeds(pool)
    assert not await succeeds(pool)
    proxy.reset_reply_after = None
    await eventually(lambda: succeeds(pool), "queries work again")


async def test_new_connections_that_are_reset_at_once(pool: asyncpg.Pool, proxy: FaultProxy) -> None:
    """Wherever in the login the reset arrives."""
    proxy.reset_new_connections = True
    for _ in range(ROUNDS):
        assert await asyncio.gather(*(succeeds(pool) for _ in range(3))) == [False] * 3
    proxy.reset_new_connections = False
    await eventually(lambda: succeeds(pool), "queries work again")
