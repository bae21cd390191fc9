"""The ledger writer moves outcomes from Redis to Postgres: nothing lost, nothing stored twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.service import MAX_BACKOFF_S
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import WRITE_BATCH_SIZE, Ledger
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import acquire, open_pool
from flowstate_daemon.dev.embedded import EmbeddedPostgres
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.worker import ledger_services as module
from flowstate_daemon.worker.ledger_services import LedgerWriter, split_valid
from tests.support.clock import FakeClock
from tests.support.ledger_entries import journal_entry, outcome
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually


class FilledJournal(Journal):
    """The journal with a way to append entries, and a count of the calls of `peek`."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        super().__init__(connection, keys)
        self.peeked = 0

    async def append(self, entries: list[bytes]) -> None:
        await self._connection.execute("RPUSH", self._key, *entries)

    async def peek(self, count: int) -> list[bytes]:
        self.peeked += 1
        return await super().peek(count)


@pytest.fixture
def journal(connection: Connection, keys: Keys) -> FilledJournal:
    return FilledJournal(connection, keys)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(clean_dsn(database_url)) as pool:
        yield pool


@pytest.fixture(autouse=True)
def no_batch_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer does not wait half a second for more outcomes."""
    monkeypatch.setattr(module, "BATCH_WINDOW_S", 0.0)


def entries(count: int, start: int = 0) -> list[bytes]:
    return [journal_entry(outcome(number)) for number in range(start, start + count)]


def empty(journal: FilledJournal) -> Callable[[], Awaitable[bool]]:
    async def is_empty() -> bool:
        return await journal.length() == 0

    return is_empty


async def stored(pool: asyncpg.Pool) -> int:
    async with acquire(pool) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM flowstate_daemon.mails"))


@asynccontextmanager
async def writing(
    journal: FilledJournal, pool: asyncpg.Pool, *, daemons: int = 1, clock: Clock | None = None
) -> AsyncIterator[list[LedgerWriter]]:
    """Run that many writers, each as in a daemon of its own."""
    clock = clock or Clock()
    writers = []
    for _ in range(daemons):
        heartbeat = HealthRegistry(clock).register("ledger_writer")
        writers.append(LedgerWriter(journal, Ledger(pool, clock), Migrator(pool), heartbeat, clock))
    async with asyncio.TaskGroup() as group:
        for writer in writers:
            group.create_task(writer.run())
        yield writers
        for writer in writers:
            writer.stop()


async def test_outcomes_are_moved_at_startup_and_when_woken(journal: FilledJournal, pool: asyncpg.Pool) -> None:
    """The writer creates its schema, moves earlier entries, and moves later ones as soon as it is woken."""
    await journal.append(entries(3))
    async with writing(journal, pool) as (writer,):
        await eventually(empty(journal), "the earlier entries are moved")
        await journal.append(entries(2, start=3))
        writer.wake()
        await eventually(empty(journal), "the later entries are moved", within_s=module.POLL_INTERVAL_S / 2)
    assert await stored(pool) == 5
    assert journal.peeked <= 3


async def test_entries_of_other_daemons_are_found_by_polling(
    journal: FilledJournal, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing wakes the writer for them."""
    monkeypatch.setattr(module, "POLL_INTERVAL_S", 0.05)
    async with writing(journal, pool):

        async def has_polled() -> bool:
            return journal.peeked > 1

        await eventually(has_polled, "polled the empty journal")
        await journal.append(entries(1))
        await eventually(empty(journal), "the entry is found")
    assert await stored(pool) == 1


async def test_backlog_is_moved_in_batches(journal: FilledJournal, pool: asyncpg.Pool) -> None:
    """Ten thousand outcomes are written in seconds, with one read of the journal per batch."""
    for start in range(0, 10_000, 1_000):
        await journal.append(entries(1_000, start))
    clock = Clock()
    started = clock.monotonic()
    async with writing(journal, pool):
        await eventually(empty(journal), "all entries are moved")
        seconds = clock.monotonic() - started
    print(f"caught up with 10000 outcomes in {seconds:.2f} s: {10_000 / seconds:.0f} rows/s")
    assert await stored(pool) == 10_000
    assert journal.peeked <= 10_000 / WRITE_BATCH_SIZE + 2
    assert seconds < 15


async def test_several_writers_store_each_outcome_once(journal: FilledJournal, pool: asyncpg.Pool) -> None:
    """Three writers on one journal and one ledger: everything is stored once, and the journal is empty."""
    await journal.append(entries(3_000))
    async with writing(journal, pool, daemons=3):
        await eventually(empty(journal), "all entries are moved")
    assert await stored(pool) == 3_000


async def test_entry_that_redis_has_lost_is_written_from_memory(
    journal: FilledJournal, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process has sent the email, and the journal has lost it; one that is in the journal is written once."""
    monkeypatch.setattr(module, "UNREAD_S", 0.2)
    async with writing(journal, pool) as (writer,):
        lost, kept = entries(2)
        writer.remember(lost)
        writer.remember(kept)
        await journal.append([kept])
        writer.wake()
        await eventually(empty(journal), "the journal is read")

        async def both() -> bool:
            return await stored(pool) == 2

        await eventually(both, "both are in the ledger")
        await eventually(lambda: not writer._unread, "nothing is remembered any more")


async def test_slow_postgres_is_not_taken_for_a_loss_of_redis(journal: FilledJournal, pool: asyncpg.Pool) -> None:
    """What was sent while a batch waited for Postgres is in the journal still: nothing says that Redis has lost it."""
    clock = FakeClock()
    async with writing(journal, pool, clock=clock) as (writer,):
        first, *later = entries(3)
        await journal.append([first])
        writer.wake()
        await eventually(empty(journal), "the schema exists")
        async with acquire(pool) as connection:
            with capture_logs() as logs:
                async with connection.transaction():
                    await connection.execute("LOCK TABLE flowstate_daemon.mails")
                    peeked = journal.peeked
                    await journal.append(later[:1])
                    writer.wake()
                    await eventually(lambda: journal.peeked > peeked, "the batch was read, and waits for the lock")
                    await journal.append(later[1:])
                    writer.remember(later[1])
                    clock.advance(10 * module.UNREAD_S)
                writer.wake()
                await eventually(empty(journal), "all entries are moved")
                await eventually(lambda: not writer._unread, "nothing is remembered any more")
    assert await stored(pool) == 3
    assert [entry for entry in logs if entry["event"] == "journal_entries_lost"] == []


async def test_missing_schema_is_created_again_after_an_outage(journal: FilledJournal, pool: asyncpg.Pool) -> None:
    """When the schema is gone, as after restoring an old backup, the writer creates it and continues."""
    await journal.append(entries(1))
    async with writing(journal, pool) as (writer,):
        await eventually(empty(journal), "all entries are moved")
        async with acquire(pool) as connection:
            await connection.execute("DROP SCHEMA flowstate_daemon CASCADE")
        await journal.append(entries(2, start=1))
        writer.wake()
        await eventually(empty(journal), "the new entries are moved")
    assert await stored(pool) == 2


async def test_invalid_entries_are_rejected_and_the_rest_is_stored(journal: FilledJournal, pool: asyncpg.Pool) -> None:
    """Garbage in between is moved to the rejected entries, and the outcomes around it are written."""
    await journal.append([*entries(2), b"\xff\0 garbage", b"{}", b"[" * 100_000, *entries(2, start=2)])
    async with writing(journal, pool):
        await eventually(empty(journal), "all entries are moved")
    assert await stored(pool) == 4
    async with acquire(pool) as connection:
        assert await connection.fetchval("SELECT count(*) FROM flowstate_daemon.journal_rejects") == 3


async def test_postgres_outage_loses_no_outcome(journal: FilledJournal) -> None:
    """Unreachable at startup, killed in the middle, and back: nothing is lost, nothing is stored twice."""
    async with EmbeddedPostgres() as daemon:  # with fsync: committed rows must survive the kill
        await daemon.stop()
        await journal.append(entries(5_000))
        async with open_pool(clean_dsn(daemon.url())) as pool, writing(journal, pool) as (writer,):

            async def has_error() -> bool:
                return writer.heartbeat.error is not None

            async def has_started() -> bool:
                return await journal.length() < 5_000

            await eventually(has_error, "the outage is reported")
            peeked = journal.peeked
            await daemon.start()
            await eventually(has_started, "the first batch is moved", within_s=MAX_BACKOFF_S * 3)
            await daemon.kill()
            await eventually(has_error, "the second outage is reported")
            await daemon.start()
            await eventually(empty(journal), "all entries are moved", within_s=MAX_BACKOFF_S * 3)
            assert peeked == 0
            assert journal.peeked <= 5_000 / WRITE_BATCH_SIZE + 1
            assert await stored(pool) == 5_000


async def test_outage_of_redis_after_a_write_is_one_outage(valkey_url: str, keys: Keys, pool: asyncpg.Pool) -> None:
    """Each pass succeeds in Postgres and fails in Redis: that is no recovery, and the tries become rarer."""
    where = urlsplit(valkey_url)
    async with FaultProxy(where.hostname or "", where.port or 0) as proxy:
        connection = Connection(f"redis://127.0.0.1:{proxy.port}", client_name="test")
        journal = FilledJournal(connection, keys)
        await Migrator(pool).apply()
        await journal.append(entries(1))
        with capture_logs() as logs:
            async with writing(journal, pool) as (writer,):
                async with acquire(pool) as holder, holder.transaction():
                    await holder.execute("LOCK TABLE flowstate_daemon.mails")
                    await eventually(lambda: writer._batch, "the batch was read, and waits for the lock")
                    await proxy.refuse()
                    proxy.cut()
                await eventually(lambda: writer._backoff.delay_s >= 0.8, "the fourth try has failed")
                assert await stored(pool) == 1
                assert writer.heartbeat.error is not None
                await proxy.admit()
                await eventually(empty(journal), "the entry is dropped from the journal")
        await connection.close()
    events = [entry["event"] for entry in logs if entry.get("service") == "ledger_writer"]
    assert events == ["store_unavailable", "store_recovered"]


def test_split_valid_keeps_the_order() -> None:
    """Outcomes stay in the order of the journal; the reason of an invalid entry repeats nothing of it."""
    outcomes, rejects = split_valid([*entries(1), b'{"key": "geheim"}', *entries(1, start=1)])
    assert [one.job_id for one in outcomes] == ["0", "1"]
    assert "geheim" not in rejects[0].reason
