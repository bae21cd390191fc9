"""Our schema is migrated once by any daemon, with few privileges, and without changes to the application's schema."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.database.migrations import Migration, Migrator, SchemaMismatchError, known_migrations
from flowstate_daemon.database.pool import acquire, open_pool
from flowstate_daemon.dev.seed import add_users
from tests.support.clock import FakeClock
from tests.support.ledger_entries import outcome

ALL = list(known_migrations())


async def public_state(pool: asyncpg.Pool) -> list[tuple[str, ...]]:
    """Each relation, column, index, constraint, trigger and right in `public`, and a checksum of each table's rows."""
    async with acquire(pool) as connection:
        shape = await connection.fetch(
            """
            SELECT c.relname::text, c.relkind::text, coalesce(c.relacl::text, ''), coalesce(a.attname::text, ''),
                   coalesce(format_type(a.atttypid, a.atttypmod), '')
            FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
            WHERE c.relnamespace = 'public'::regnamespace
            UNION ALL SELECT conname::text, contype::text, pg_get_constraintdef(oid), '', '' FROM pg_constraint
                WHERE connamespace = 'public'::regnamespace
            UNION ALL SELECT tgname::text, '', tgrelid::regclass::text, '', '' FROM pg_trigger WHERE NOT tgisinternal
            UNION ALL SELECT nspname::text, '', coalesce(nspacl::text, ''), '', '' FROM pg_namespace
                WHERE nspname = 'public'
            ORDER BY 1, 2, 3, 4, 5
            """
        )
        tables = [row[0] for row in shape if row[1] == "r"]
        rows = [
            (
                table,
                await connection.fetchval(
                    f"SELECT coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM {table} t"
                ),
            )
            for table in sorted(set(tables))
        ]
    return [*map(tuple, shape), *rows]


async def test_migrations_run_once(bare_pool: asyncpg.Pool) -> None:
    """All are pending before, none after, and a second run does nothing."""
    migrator = Migrator(bare_pool)
    assert await migrator.pending() == ALL
    assert await migrator.apply() == ALL
    assert await migrator.pending() == []
    assert await migrator.apply() == []


async def test_concurrent_migrators_apply_each_migration_once(database_url: str) -> None:
    """Eight daemons on eight connections: exactly one applies each migration, and none fails."""
    async with open_pool(clean_dsn(database_url), size=8) as pool:
        done = await asyncio.gather(*(Migrator(pool).apply() for _ in range(8)))
        assert sorted(step.version for steps in done for step in steps) == [step.version for step in ALL]
        async with acquire(pool) as connection:
            assert await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


async def own_shape(pool: asyncpg.Pool) -> list[tuple[str, ...]]:
    """Each column, index and constraint of our schema."""
    async with acquire(pool) as connection:
        rows = await connection.fetch(
            """
            SELECT table_name::text, column_name::text, data_type::text || is_nullable || coalesce(column_default, '')
            FROM information_schema.columns WHERE table_schema = 'flowstate_daemon'
            UNION ALL SELECT tablename::text, indexname::text, indexdef FROM pg_indexes
                WHERE schemaname = 'flowstate_daemon'
            UNION ALL SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) FROM pg_constraint
                WHERE connamespace = 'flowstate_daemon'::regnamespace
            ORDER BY 1, 2, 3
            """
        )
    return [tuple(row) for row in rows]


async def test_upgrade_from_each_version_by_two_daemons(bare_pool: asyncpg.Pool) -> None:
    """Whatever version a database has, both daemons start, and the schema is that of a fresh one."""
    await Migrator(bare_pool).apply()
    fresh = await own_shape(bare_pool)
    for version in range(1, len(ALL)):
        async with acquire(bare_pool) as connection:
            await connection.execute("DROP SCHEMA flowstate_daemon CASCADE")
        await Migrator(bare_pool, ALL[:version]).apply()
        done = await asyncio.gather(Migrator(bare_pool).apply(), Migrator(bare_pool).apply())
        assert sorted(step.version for steps in done for step in steps) == list(range(version + 1, len(ALL) + 1))
        assert await own_shape(bare_pool) == fresh, version


async def test_second_row_of_an_email_that_was_sent_once_is_deleted(bare_pool: asyncpg.Pool, clock: FakeClock) -> None:
    """Of the rows that earlier versions wrote, the first one stays, and those with other ids or outcomes."""
    await Migrator(bare_pool, ALL[:10]).apply()
    kept = [
        outcome(1, attempt=2), outcome(1, attempt=2, outcome="retried"), outcome(2, attempt=9),
        outcome(3, attempt=1), outcome(3, attempt=2, provider_id="re-other"),
        outcome(4, attempt=1, provider_id=None), outcome(4, attempt=2, provider_id=None),
    ]  # fmt: skip
    repeated = [outcome(1, attempt=3), outcome(1, attempt=4), outcome(2, attempt=10)]
    async with acquire(bare_pool) as connection:
        await connection.executemany(
            """
            INSERT INTO flowstate_daemon.mails
                (key, outcome, mail, at, address, kind, job_id, attempt, provider_id, decisions)
            VALUES ($1, $2, $3, to_timestamp($4 / 1000.0), $5, $6, $7, $8, $9, '[]')
            """,
            [
                (row.key, row.outcome, row.mail_key, row.at, row.to, row.kind, row.job_id, row.attempt, row.provider_id)
                for row in [*repeated, *kept]
            ],
        )
        await Migrator(bare_pool).apply()
        rows = await connection.fetch("SELECT key, outcome FROM flowstate_daemon.mails")
    assert sorted((row["key"], row["outcome"]) for row in rows) == sorted((row.key, row.outcome) for row in kept)
    assert await Ledger(bare_pool, clock).write([*kept, *repeated]) == 0


async def test_failed_migration_is_rolled_back(bare_pool: asyncpg.Pool) -> None:
    """Its changes are undone, earlier migrations stay, and a fixed one can follow."""
    bad = Migration(2, "bad", "CREATE TABLE flowstate_daemon.half (x int); SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await Migrator(bare_pool, [ALL[0], bad]).apply()
    async with acquire(bare_pool) as connection:
        assert await connection.fetchval("SELECT to_regclass('flowstate_daemon.half')") is None
    assert await Migrator(bare_pool).apply() == ALL[1:]


async def test_newer_database_is_refused(pool: asyncpg.Pool) -> None:
    """A daemon older than the database refuses with a message for operators."""
    for ask in (Migrator(pool, ALL[:1]).pending, Migrator(pool, ALL[:1]).apply):
        with pytest.raises(SchemaMismatchError, match="older than the database"):
            await ask()


async def test_changed_migration_is_refused(pool: asyncpg.Pool) -> None:
    """An applied migration must equal its file."""
    changed = [Migration(1, ALL[0].name, ALL[0].text + "-- one more remark\n"), *ALL[1:]]
    with pytest.raises(SchemaMismatchError, match="0001_ledger was applied with another content"):
        await Migrator(pool, changed).apply()


async def test_missing_schema_is_reported_with_the_remedy(bare_pool: asyncpg.Pool, clock: FakeClock) -> None:
    """Without the schema every query raises StoreUnavailableError with the command to run."""
    with pytest.raises(StoreUnavailableError, match="run: flowstate-daemon migrate"):
        await MailHistory(bare_pool).explain("ada@example.org")
    with pytest.raises(StoreUnavailableError, match="run: flowstate-daemon migrate"):
        await Ledger(bare_pool, clock).write([outcome()])


@pytest.fixture
async def modest_url(database_url: str, bare_pool: asyncpg.Pool) -> AsyncIterator[str]:
    """The URL of a role that may read the application's tables, and nothing else in this database."""
    role = f"modest_{uuid4().hex[:8]}"
    database = database_url.partition("?")[0].rpartition("/")[2]
    async with acquire(bare_pool) as admin:
        await admin.execute(f'REVOKE ALL ON DATABASE "{database}" FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC')
        await admin.execute(f'CREATE ROLE {role} LOGIN; GRANT CONNECT ON DATABASE "{database}" TO {role}')
        await admin.execute(
            f"GRANT USAGE ON SCHEMA public TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
        )
    yield database_url.replace("postgres@", f"{role}@")
    async with acquire(bare_pool) as admin:
        await admin.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_role_with_its_own_schema_is_enough(bare_pool: asyncpg.Pool, modest_url: str, clock: FakeClock) -> None:
    """Without the schema the error names the statement for an administrator; with it, everything works."""
    role = modest_url.partition("://")[2].partition("@")[0]
    async with open_pool(clean_dsn(modest_url)) as modest:
        with pytest.raises(StoreUnavailableError, match="CREATE SCHEMA flowstate_daemon AUTHORIZATION"):
            await Migrator(modest).apply()
        async with acquire(bare_pool) as admin:
            await admin.execute(f"CREATE SCHEMA flowstate_daemon AUTHORIZATION {role}")
        assert await Migrator(modest).pending() == ALL
        assert await Migrator(modest).apply() == ALL
        assert await Ledger(modest, clock).write([outcome()]) == 1
        assert len(await MailHistory(modest).explain("ada@example.org")) == 1
        assert await Ledger(modest, clock).prune(0) == 0
        with pytest.raises(StoreUnavailableError, match="permission denied"):
            async with acquire(modest) as connection:
                await connection.execute("DELETE FROM public.users")


async def test_application_schema_is_not_changed(database_url: str, bare_pool: asyncpg.Pool, clock: FakeClock) -> None:
    """Structure, privileges and rows of `public` are the same after migrating, writing and pruning."""
    await add_users(database_url, datetime(2026, 3, 2, 8, tzinfo=UTC))
    before = await public_state(bare_pool)
    await Migrator(bare_pool).apply()
    ledger = Ledger(bare_pool, clock)
    await ledger.write([outcome(number) for number in range(10)])
    clock.advance(86_400 * 10)
    assert await ledger.prune(1) == 10
    assert await public_state(bare_pool) == before
    assert len(before) > 50
