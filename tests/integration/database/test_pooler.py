"""Through a pooler in transaction mode: many clients share two server connections, statement by statement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.migrations import Migrator, known_migrations
from flowstate_daemon.database.pool import acquire, open_pool
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.database.server_info import inspect_server
from tests.support.pgbouncer import SERVERS, pgbouncer, pooled
from tests.support.pooler import pooler

PRISMA = "?pgbouncer=true&connection_limit=5&schema=public&pool_timeout=20&sslmode=disable"


@pytest.fixture(params=["pooler", *(["pgbouncer"] if pgbouncer() is not None else [])])
async def pooled_url(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[str]:
    """Through a pooler of ours, and through PgBouncer where the machine has it."""
    binary = pgbouncer()
    opened = pooled(database_url, binary) if request.param == "pgbouncer" else pooler(database_url, size=SERVERS)
    async with opened as url:
        yield f"{url}{PRISMA}"


async def test_concurrent_migrations_through_a_pooler_run_once(pooled_url: str) -> None:
    """The lock belongs to the transaction, not to a session that others share."""

    async def migrate() -> int:
        async with open_pool(clean_dsn(pooled_url)) as pool:
            return len(await Migrator(pool).apply())

    done = await asyncio.gather(*(migrate() for _ in range(6)))
    assert sum(done) == len(known_migrations())


async def test_concurrent_queries_get_their_own_results(pooled_url: str) -> None:
    """A prepared statement would be looked up on a server that does not have it."""
    async with open_pool(clean_dsn(pooled_url)) as pool:

        async def ask(number: int) -> bool:
            async with acquire(pool) as connection:
                plain = await connection.fetchval("SELECT $1::integer", number)
                text = await connection.fetchval("SELECT $1::text || '!'", str(number))
                return (plain, text) == (number, f"{number}!")

        assert all(await asyncio.gather(*(ask(number) for number in range(300))))


async def test_writes_work_through_a_pooler(pooled_url: str) -> None:
    """Arrays, JSON and several statements in one transaction."""
    async with open_pool(clean_dsn(pooled_url)) as pool:
        await Migrator(pool).apply()
        suppressions = Suppressions(pool, Clock())
        await asyncio.gather(*(suppressions.add(f"p{number}@example.org", "manual") for number in range(20)))
        facts = await suppressions.status_for([f"p{number}@example.org" for number in range(21)])
    assert sum(bool(recipient.suppressed) for recipient in facts.values()) == 20


async def test_pooler_is_detected(pooled_url: str, database_url: str) -> None:
    """The process id that a client receives is not that of the server."""
    for url, through in ((pooled_url, True), (database_url, False)):
        async with open_pool(clean_dsn(url), size=1) as pool:
            assert (await inspect_server(pool, Clock())).pooled is through


async def test_a_session_is_not_kept_by_the_pooler(pooled_url: str) -> None:
    """That the tests above mean something: what one statement prepares, a later one does not find or finds twice."""
    connections = [await asyncpg.connect(pooled_url.partition("?")[0], statement_cache_size=0) for _ in range(4)]
    with pytest.raises((asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)):  # noqa: PT012
        for connection in connections:
            await connection.execute("PREPARE one AS SELECT 1")
            await asyncio.gather(*(other.execute("EXECUTE one") for other in connections))
    for connection in connections:
        connection.terminate()
