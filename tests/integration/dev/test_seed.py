"""The sample people: the same every time, safe to write twice, and each reason for a mail or for none is there."""

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


def stored(day: int, hour: int) -> datetime:
    """An hour of March 2026 in UTC, without a zone as the application stores it."""
    return datetime(2026, 3, day, hour, tzinfo=UTC).replace(tzinfo=None)


async def everything(url: str) -> dict[str, list[tuple[object, ...]]]:
    connection = await asyncpg.connect(url)
    try:
        return {
            table: [tuple(row) for row in await connection.fetch(f"SELECT * FROM {table} ORDER BY id")]
            for table in COLUMNS
        }
    finally:
        await connection.close()


async def test_the_same_now_writes_the_same_rows_once(database_url: str, clock: FakeClock) -> None:
    """Seeding twice leaves what seeding once left, and nobody else's rows are touched."""
    foreign_worker = await asyncpg.connect(database_url)
    await foreign_worker.execute(
        """INSERT INTO users (id, email, password, "updatedAt") VALUES ('s', 's@elsewhere.example', '', now())"""
    )
    await foreign_worker.close()
    await create_tables(database_url)
    await add_users(database_url, clock.now())
    once = await everything(database_url)
    await add_users(database_url, clock.now())
    assert await everything(database_url) == once
    assert len(once["users"]) == len(SAMPLE_USERS) + 1
    assert all(once.values())


async def test_tomorrow_is_each_persons_own(database_url: str) -> None:
    """Where it is already the next day, tasks due tomorrow lie a day later than in Paris."""
    await add_users(database_url, datetime(2026, 3, 2, 20, 0, tzinfo=UTC))
    connection = await asyncpg.connect(database_url)
    for name, begins, count in (
        ("amelie", stored(2, 23), 3),  # 3 March in Paris
        ("ben", stored(3, 5), 1),  # 3 March in New York
        ("chiyo", stored(3, 15), 1),  # 4 March in Tokyo
        ("aroha", stored(3, 11), 1),  # 4 March in Auckland
    ):
        until = begins + timedelta(days=1)
        assert await connection.fetchval(TOMORROW, email_of(name), begins, until) == count, name
    await connection.close()


async def test_deleting_somebody_takes_what_is_theirs(database_url: str, clock: FakeClock) -> None:
    """Foreign keys are those of the application: people take their rows along, tasks leave their sessions."""
    await add_users(database_url, clock.now())
    connection = await asyncpg.connect(database_url)
    await connection.execute("DELETE FROM tasks WHERE id = $1", stable_id("chiyo", "task", "Read the paper"))
    orphans = 'SELECT count(*) FROM focus_sessions WHERE "userId" = $1 AND "taskId" IS NULL'
    assert await connection.fetchval(orphans, stable_id("chiyo")) == 1
    await connection.execute("DELETE FROM users")
    await connection.close()
    assert not any((await everything(database_url)).values())


async def test_planting_makes_the_database_and_may_be_repeated(postgres: EmbeddedPostgres, clock: FakeClock) -> None:
    """`dev` may find the database of its last run, or none."""
    for _ in range(2):
        assert await seed_database(postgres.url(), "planted", clock.now()) == len(SAMPLE_USERS)
    assert len((await everything(postgres.url("planted")))["users"]) == len(SAMPLE_USERS)
