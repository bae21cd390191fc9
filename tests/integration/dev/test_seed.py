"""The sample users are the same every time, and may be written twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg

from flowstate_daemon.dev.embedded import EmbeddedPostgres
from flowstate_daemon.dev.sample_data import SAMPLE_USERS
from flowstate_daemon.dev.seed import COLUMNS, add_users, create_tables, email_of, seed_database, stable_id
from tests.support.clock import FakeClock

TOMORROW = """
    SELECT count(*) FROM tasks t JOIN users u ON u.id = t."userId"
    WHERE u.email = $1 AND NOT t."isCompleted" AND t."deletedAt" IS NULL AND t."dueDate" >= $2 AND t."dueDate" < $3
"""


def march(day: int, hour: int) -> datetime:
    """A time of March 2026 in UTC, as the application stores it: without a zone."""
    return datetime(2026, 3, day, hour, tzinfo=UTC).replace(tzinfo=None)


async def all_rows(url: str) -> dict[str, list[tuple[object, ...]]]:
    connection = await asyncpg.connect(url)
    try:
        return {
            table: [tuple(row) for row in await connection.fetch(f"SELECT * FROM {table} ORDER BY id")]
            for table in COLUMNS
        }
    finally:
        await connection.close()


async def test_seeding_twice_writes_the_rows_once(database_url: str, clock: FakeClock) -> None:
    """A second run with the same time changes nothing, and rows of other users are kept."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        """INSERT INTO users (id, email, password, "updatedAt") VALUES ('s', 's@elsewhere.example', '', now())"""
    )
    await connection.close()
    await create_tables(database_url)
    await add_users(database_url, clock.now())
    once = await all_rows(database_url)
    await add_users(database_url, clock.now())
    assert await all_rows(database_url) == once
    assert len(once["users"]) == len(SAMPLE_USERS) + 1
    assert all(once.values())


async def test_tomorrow_depends_on_the_zone_of_the_user(database_url: str) -> None:
    """In zones where the next day has begun, tasks due tomorrow are a day later than in Paris."""
    await add_users(database_url, datetime(2026, 3, 2, 20, 0, tzinfo=UTC))
    connection = await asyncpg.connect(database_url)
    for name, begins, count in (
        ("amelie", march(2, 23), 3),  # 3 March in Paris
        ("ben", march(3, 5), 1),  # 3 March in New York
        ("chiyo", march(3, 15), 1),  # 4 March in Tokyo
        ("aroha", march(3, 11), 1),  # 4 March in Auckland
    ):
        until = begins + timedelta(days=1)
        assert await connection.fetchval(TOMORROW, email_of(name), begins, until) == count, name
    await connection.close()


async def test_deleting_a_user_deletes_their_rows(database_url: str, clock: FakeClock) -> None:
    """Foreign keys are those of the application: users cascade to their rows, and sessions outlive their tasks."""
    await add_users(database_url, clock.now())
    connection = await asyncpg.connect(database_url)
    await connection.execute("DELETE FROM tasks WHERE id = $1", stable_id("chiyo", "task", "Read the paper"))
    orphans = 'SELECT count(*) FROM focus_sessions WHERE "userId" = $1 AND "taskId" IS NULL'
    assert await connection.fetchval(orphans, stable_id("chiyo")) == 1
    await connection.execute("DELETE FROM users")
    await connection.close()
    assert not any((await all_rows(database_url)).values())


async def test_seed_database_creates_the_database_or_reuses_it(postgres: EmbeddedPostgres, clock: FakeClock) -> None:
    """`dev` may find the database of its last run, or none."""
    for _ in range(2):
        assert await seed_database(postgres.url(), "seeded", clock.now()) == len(SAMPLE_USERS)
    assert len((await all_rows(postgres.url("seeded")))["users"]) == len(SAMPLE_USERS)
