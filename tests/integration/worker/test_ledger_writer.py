"""Outcomes on their way from Redis to Postgres: nothing lost, nothing twice, whoever is away or writes too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.service import MAX_BACKOFF_S
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import WRITE_BATCH_SIZE, Ledger
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import acquire, open_pool
from flowstate_daemon.dev.embedded import EmbeddedPostgres
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.worker import ledger_services as module
from flowstate_daemon.worker.ledger_services import LedgerWriter, split_valid
from tests.support.journal import ListJournal
from tests.support.ledger_entries import journal_entry, outcome
from tests.support.waiting import eventually


@pytest.fixture
async def journal(valkey_url: str, keys: Keys) -> AsyncIterator[ListJournal]:
    journal = ListJournal(valkey_url, keys.own("journal"))
    yield journal
    await journal.close()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(clean_dsn(database_url)) as pool:
        yield pool


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gathers for half a second here."""
    monkeypatch.setattr(module, "BATCH_WINDOW_S", 0.0)


def entries(count: int, start: int = 0) -> list[bytes]:
    return [journal_entry(outcome(number)) for number in range(start, start + count)]


def empty(journal: ListJournal) -> Callable[[], Awaitable[bool]]:
    async def is_empty() -> bool:
        return await journal.length() == 0

    return is_empty


async def stored(pool: asyncpg.Pool) -> int:
    async with acquire(pool) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM flowstate_daemon.mails"))


@asynccontextmanager
async def writing(journal: ListJournal, pool: asyncpg.Pool, *, daemons: int = 1) -> AsyncIterator[list[LedgerWriter]]:
    """That many writers at work, each as in a daemon of its own."""
    clock = Clock()
    writers = [
        LedgerWriter(journal, Ledger(pool, clock), Migrator(pool), HealthRegistry(clock).register("ledger_writer"))
        for _ in range(daemons)
    ]
    async with asyncio.TaskGroup() as group:
        for writer in writers:
            group.create_task(writer.run())
        yield writers
        for writer in writers:
            writer.stop()


async def test_what_is_in_the_journal_gets_into_the_ledger(journal: ListJournal, pool: asyncpg.Pool) -> None:
    """The writer makes its schema, moves what was left behind, and what is settled later as soon as it is told."""
    await journal.append(entries(3))
    async with writing(journal, pool) as (writer,):
        await eventually(empty(journal), "moved what was there")
        await journal.append(entries(2, start=3))
        writer.wake()
        await eventually(empty(journal), "moved what came later", within_s=module.POLL_INTERVAL_S / 2)
    assert await stored(pool) == 5
    assert journal.peeked <= 3


async def test_what_other_daemons_left_is_found_without_being_told(
    journal: ListJournal, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From time to time the writer looks by itself."""
    monkeypatch.setattr(module, "POLL_INTERVAL_S", 0.05)
    async with writing(journal, pool):

        async def has_looked() -> bool:
            return journal.peeked > 1

        await eventually(has_looked, "looked at the empty journal")
        await journal.append(entries(1))
        await eventually(empty(journal), "found")
    assert await stored(pool) == 1


async def test_ten_thousand_outcomes_are_caught_up_in_batches(journal: ListJournal, pool: asyncpg.Pool) -> None:
    """An hour's backlog is written in seconds, with one look at the journal a batch."""
    for start in range(0, 10_000, 1_000):
        await journal.append(entries(1_000, start))
    clock = Clock()
    began = clock.monotonic()
    async with writing(journal, pool):
        await eventually(empty(journal), "caught up")
        seconds = clock.monotonic() - began
    print(f"caught up with 10000 outcomes in {seconds:.2f} s: {10_000 / seconds:.0f} rows/s")
    assert await stored(pool) == 10_000
    assert journal.peeked <= 10_000 / WRITE_BATCH_SIZE + 2
    assert seconds < 15


async def test_several_daemons_write_each_outcome_once(journal: ListJournal, pool: asyncpg.Pool) -> None:
    """Three writers on one journal and one ledger: everything is there once, and the journal is empty."""
    await journal.append(entries(3_000))
    async with writing(journal, pool, daemons=3):
        await eventually(empty(journal), "caught up")
    assert await stored(pool) == 3_000


async def test_an_outage_may_end_with_an_older_database(journal: ListJournal, pool: asyncpg.Pool) -> None:
    """When the schema is gone, as after an old backup was restored, the writer makes it again and goes on."""
    await journal.append(entries(1))
    async with writing(journal, pool) as (writer,):
        await eventually(empty(journal), "moved")
        async with acquire(pool) as connection:
            await connection.execute("DROP SCHEMA flowstate_daemon CASCADE")
        await journal.append(entries(2, start=1))
        writer.wake()
        await eventually(empty(journal), "moved again")
    assert await stored(pool) == 2


async def test_what_cannot_be_read_does_not_hold_up_the_rest(journal: ListJournal, pool: asyncpg.Pool) -> None:
    """Rubbish in between is set aside, and the outcomes around it are written."""
    await journal.append([*entries(2), b"\xff\0 rubbish", b"{}", b"[" * 100_000, *entries(2, start=2)])
    async with writing(journal, pool):
        await eventually(empty(journal), "moved")
    assert await stored(pool) == 4
    async with acquire(pool) as connection:
        assert await connection.fetchval("SELECT count(*) FROM flowstate_daemon.journal_rejects") == 3


async def test_postgres_may_be_away(journal: ListJournal) -> None:
    """Away at the start, killed in the middle of catching up, and back: nothing is lost, nothing is there twice."""
    async with EmbeddedPostgres() as daemon:  # not for speed: what it has committed must survive
        await daemon.stop()
        await journal.append(entries(5_000))
        async with open_pool(clean_dsn(daemon.url())) as pool, writing(journal, pool) as (writer,):

            async def suffers() -> bool:
                return writer.heartbeat.error is not None

            async def has_begun() -> bool:
                return await journal.length() < 5_000

            await eventually(suffers, "noticed that Postgres is away")
            peeked = journal.peeked
            await daemon.start()
            await eventually(has_begun, "began", within_s=MAX_BACKOFF_S * 3)
            await daemon.kill()
            await eventually(suffers, "noticed that Postgres is away again")
            await daemon.start()
            await eventually(empty(journal), "caught up", within_s=MAX_BACKOFF_S * 3)
            assert peeked == 0
            assert journal.peeked <= 5_000 / WRITE_BATCH_SIZE + 1
            assert await stored(pool) == 5_000


def test_sorting_keeps_the_order() -> None:
    """Outcomes stay in the journal's order; what is no outcome is told apart with a reason that repeats nothing."""
    outcomes, rejects = split_valid([*entries(1), b'{"key": "geheim"}', *entries(1, start=1)])
    assert [one.job_id for one in outcomes] == ["0", "1"]
    assert "geheim" not in rejects[0].reason
