"""Tables of the application that are missing, different or closed: named, with what mends it; nothing else stops."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.database.application import Application, Unreadable
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.facts import Facts
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.rights import READ, find_lacks
from tests.integration.database.test_facts import day, week


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


async def test_the_whole_application_is_readable(bare_pool: asyncpg.Pool) -> None:
    """The tables as Prisma makes them lack nothing that is asked of them."""
    async with bare_pool.acquire() as connection:
        assert await find_lacks(connection, "public") == []


async def test_a_missing_table_is_named_and_others_go_on(bare_pool: asyncpg.Pool) -> None:
    """Reports stop without sessions, reminders do not; the connection of the refusal goes on working."""
    await bare_pool.execute("DROP TABLE focus_sessions")
    facts = Facts(Application(bare_pool))
    with pytest.raises(Unreadable, match=r"there is no table public\.focus_sessions; run the application's migrations"):
        await facts.focus_weeks([week("ada")])
    assert await facts.tasks_due([day("ada", 10)]) == {}


async def test_a_missing_column_is_named(bare_pool: asyncpg.Pool) -> None:
    """A column that a later version of the application has renamed is told by its old name."""
    await bare_pool.execute("""ALTER TABLE tasks RENAME "dueDate" TO due""")
    with pytest.raises(Unreadable, match=r'the table public\.tasks has no column "dueDate"'):
        await Facts(Application(bare_pool)).overdue([day("ada", 10)])


async def test_a_column_of_another_type_is_no_crash(bare_pool: asyncpg.Pool) -> None:
    """Nothing is missing, and still the query cannot run: Postgres' own words and where to look."""
    await bare_pool.execute("""ALTER TABLE tasks ALTER "dueDate" TYPE text""")
    with pytest.raises(Unreadable, match=r"operator does not exist.*flowstate-daemon check"):
        await Facts(Application(bare_pool)).tasks_due([day("ada", 10)])


async def test_another_schema_is_found_or_missed(bare_pool: asyncpg.Pool) -> None:
    """Prisma's `schema` parameter says where the tables are, even under a hostile name."""
    name = 'flow"; DROP TABLE users; --'
    facts = Facts(Application(bare_pool, name))
    with pytest.raises(Unreadable, match="there is no schema flow"):
        await facts.people(["ada"])
    await bare_pool.execute('CREATE SCHEMA "flow""; DROP TABLE users; --"')
    await bare_pool.execute('CREATE TABLE "flow""; DROP TABLE users; --".users (LIKE public.users)')
    assert await facts.people(["ada"]) == {}


async def test_missing_grants_are_named_one_by_one(bare_pool: asyncpg.Pool, as_role: asyncpg.Pool, role: str) -> None:
    """What is written down as the remedy, run as it stands, is enough for every query."""
    await bare_pool.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    facts = Facts(Application(as_role))
    with pytest.raises(Unreadable, match=f'GRANT USAGE ON SCHEMA "public" TO "{role}"'):
        await facts.people(["ada"])
    async with as_role.acquire() as connection:
        lacks = await find_lacks(connection, "public")
    assert len(lacks) == 1 + len(READ)
    for lack in lacks:
        await bare_pool.execute(lack.remedy)
    async with as_role.acquire() as connection:
        assert await find_lacks(connection, "public") == []
    assert await facts.people(["ada"]) == await facts.focus_weeks([week("ada")]) == {}
    assert await facts.tasks_due([day("ada", 10)]) == await facts.overdue([day("ada", 10)]) == {}


async def test_one_closed_table_closes_no_other(bare_pool: asyncpg.Pool, as_role: asyncpg.Pool, role: str) -> None:
    """Without rights on tasks there are still people and, with a remedy in the log, no reminders."""
    await bare_pool.execute(f'GRANT SELECT ON users TO "{role}"')
    facts = Facts(Application(as_role))
    assert await facts.people(["ada"]) == {}
    with pytest.raises(Unreadable, match=f'GRANT SELECT ON "public"."tasks" TO "{role}"'):
        await facts.tasks_due([day("ada", 10)])


async def test_a_lost_server_is_an_ordinary_outage(bare_pool: asyncpg.Pool) -> None:
    """Only what a person must mend is called unreadable."""
    with pytest.raises(Outage) as caught:
        async with Application(bare_pool).reading() as connection:
            await connection.fetch("SELECT pg_terminate_backend(pg_backend_pid())")
    assert not isinstance(caught.value, Unreadable)
