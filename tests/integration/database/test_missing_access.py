"""Missing, changed or unreadable tables of the application are named with the fix, and nothing else stops."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.database.app_data import AppData
from flowstate_daemon.database.app_database import AppDatabase, AppTablesUnavailableError
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.server_info import COLUMNS_BY_TABLE, find_missing_access
from tests.integration.database.test_app_data import day, week


@pytest.fixture
async def role(bare_pool: asyncpg.Pool) -> AsyncIterator[str]:
    """A role that may log in and nothing else; it goes with the test."""
    name = f"r{uuid4().hex[:12]}"
    await bare_pool.execute(f'CREATE ROLE "{name}" LOGIN')
    yield name
    await bare_pool.execute(f'DROP OWNED BY "{name}"')
    await bare_pool.execute(f'DROP ROLE "{name}"')


@pytest.fixture
async def as_role(role: str, database_url: str) -> AsyncIterator[asyncpg.Pool]:
    parts = urlsplit(database_url)
    url = parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}").geturl()
    async with open_pool(clean_dsn(url)) as pool:
        yield pool


async def test_complete_application_has_no_missing_access(bare_pool: asyncpg.Pool) -> None:
    """The tables created by Prisma lack nothing."""
    async with bare_pool.acquire() as connection:
        assert await find_missing_access(connection, "public") == []


async def test_missing_table_is_named_and_others_work(bare_pool: asyncpg.Pool) -> None:
    """Without sessions reports fail, reminders work; the connection of the failed query remains usable."""
    await bare_pool.execute("DROP TABLE focus_sessions")
    facts = AppData(AppDatabase(bare_pool))
    with pytest.raises(
        AppTablesUnavailableError, match=r"there is no table public\.focus_sessions; run the application's migrations"
    ):
        await facts.focus_weeks([week("ada")])
    assert await facts.tasks_due([day("ada", 10)]) == {}


async def test_missing_column_is_named(bare_pool: asyncpg.Pool) -> None:
    """A renamed column is reported by its old name."""
    await bare_pool.execute("""ALTER TABLE tasks RENAME "dueDate" TO due""")
    with pytest.raises(AppTablesUnavailableError, match=r'the table public\.tasks has no column "dueDate"'):
        await AppData(AppDatabase(bare_pool)).tasks_overdue([day("ada", 10)])


async def test_column_of_another_type_is_reported(bare_pool: asyncpg.Pool) -> None:
    """Nothing is missing, and the query still fails: the message of Postgres and what to run."""
    await bare_pool.execute("""ALTER TABLE tasks ALTER "dueDate" TYPE text""")
    with pytest.raises(AppTablesUnavailableError, match=r"operator does not exist.*flowstate-daemon check"):
        await AppData(AppDatabase(bare_pool)).tasks_due([day("ada", 10)])


async def test_other_schema_is_used(bare_pool: asyncpg.Pool) -> None:
    """Prisma's `schema` parameter names the schema, even with a hostile name."""
    name = 'flow"; DROP TABLE users; --'
    facts = AppData(AppDatabase(bare_pool, name))
    with pytest.raises(AppTablesUnavailableError, match="there is no schema flow"):
        await facts.users(["ada"])
    await bare_pool.execute('CREATE SCHEMA "flow""; DROP TABLE users; --"')
    await bare_pool.execute('CREATE TABLE "flow""; DROP TABLE users; --".users (LIKE public.users)')
    assert await facts.users(["ada"]) == {}


async def test_missing_grants_are_named_one_by_one(bare_pool: asyncpg.Pool, as_role: asyncpg.Pool, role: str) -> None:
    """The remedies, run unchanged, are enough for every query."""
    await bare_pool.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    facts = AppData(AppDatabase(as_role))
    with pytest.raises(AppTablesUnavailableError, match=f'GRANT USAGE ON SCHEMA "public" TO "{role}"'):
        await facts.users(["ada"])
    async with as_role.acquire() as connection:
        lacks = await find_missing_access(connection, "public")
    assert len(lacks) == 1 + len(COLUMNS_BY_TABLE)
    for lack in lacks:
        await bare_pool.execute(lack.remedy)
    async with as_role.acquire() as connection:
        assert await find_missing_access(connection, "public") == []
    assert await facts.users(["ada"]) == await facts.focus_weeks([week("ada")]) == {}
    assert await facts.tasks_due([day("ada", 10)]) == await facts.tasks_overdue([day("ada", 10)]) == {}


async def test_unreadable_table_affects_no_other(bare_pool: asyncpg.Pool, as_role: asyncpg.Pool, role: str) -> None:
    """Without access to tasks users can be read, and the error has a remedy."""
    await bare_pool.execute(f'GRANT SELECT ON users TO "{role}"')
    facts = AppData(AppDatabase(as_role))
    assert await facts.users(["ada"]) == {}
    with pytest.raises(AppTablesUnavailableError, match=f'GRANT SELECT ON "public"."tasks" TO "{role}"'):
        await facts.tasks_due([day("ada", 10)])


async def test_lost_server_is_not_reported_as_missing_access(bare_pool: asyncpg.Pool) -> None:
    """Only what an operator must fix raises AppTablesUnavailableError."""
    with pytest.raises(StoreUnavailableError) as caught:
        async with AppDatabase(bare_pool).connection() as connection:
            await connection.fetch("SELECT pg_terminate_backend(pg_backend_pid())")
    assert not isinstance(caught.value, AppTablesUnavailableError)
