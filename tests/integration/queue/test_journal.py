"""The outcome journal: written by the call that ends a run, emptied by any number of writers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Job, JobFailed, JobRetried, JobSucceeded, NewJob, WriteResult
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock

End = Callable[[list[Job], list[bytes]], Awaitable[list[WriteResult]]]


@pytest.fixture
def journal(connection: Connection, keys: Keys) -> Journal:
    return Journal(connection, keys)


@pytest.fixture
async def elsewhere(valkey_url: str, keys: Keys) -> AsyncIterator[Journal]:
    """The same journal in another daemon's hands."""
    connection = Connection(valkey_url, client_name="elsewhere", block_timeout_s=1.0)
    yield Journal(connection, keys)
    await connection.close()


@pytest.fixture(params=["finish", "retry", "fail"])
def end(request: pytest.FixtureRequest, bull: BullQueue) -> End:
    """Any of the ways in which a run ends."""

    async def finish(jobs: list[Job], entries: list[bytes]) -> list[WriteResult]:
        return await bull.complete([JobSucceeded(job, journal=entry) for job, entry in zip(jobs, entries, strict=True)])

    async def retry(jobs: list[Job], entries: list[bytes]) -> list[WriteResult]:
        endings = [JobRetried(job, "no", b"[]", 5, entry) for job, entry in zip(jobs, entries, strict=True)]
        return await bull.retry(endings)

    async def fail(jobs: list[Job], entries: list[bytes]) -> list[WriteResult]:
        return await bull.fail([JobFailed(job, "no", b"[]", entry) for job, entry in zip(jobs, entries, strict=True)])

    return {"finish": finish, "retry": retry, "fail": fail}[request.param]


async def take(bull: BullQueue, count: int) -> list[Job]:
    await bull.add_many([NewJob("x", {}, attempts=3) for _ in range(count)])
    return await bull.claim(count)


async def test_endings_are_written_in_order(bull: BullQueue, journal: Journal, end: End) -> None:
    """Each outcome stands behind the earlier ones; a run without one writes none."""
    entries = [b"one", b"", "drü".encode()]
    assert await end(await take(bull, 3), entries) == [WriteResult.OK] * 3
    assert await journal.peek(10) == [b"one", "drü".encode()]
    assert await journal.length() == 2


async def test_nothing_to_write_makes_no_key(bull: BullQueue, stage: QueueFixture, end: End) -> None:
    """Without entries there is no journal."""
    await end(await take(bull, 2), [b"", b""])
    assert "flowstate:journal" not in await stage.dump()


async def test_whose_outcome_counts(bull: BullQueue, stage: QueueFixture, journal: Journal, end: End) -> None:
    """Also that of a removed job; not that of a job that another worker holds or will run again."""
    jobs = await take(bull, 5)
    gone, lost, taken, misplaced, _ = jobs
    await stage.redis.delete(stage.keys(gone.id))
    await stage.redis.delete(stage.keys.lock(lost.id))
    await stage.redis.set(stage.keys.lock(taken.id), "you/1")
    await stage.redis.lrem(stage.keys("active"), 1, misplaced.id)
    settled = await end(jobs, [b"gone", b"lost", b"taken", b"misplaced", b"ours"])
    assert settled == [
        WriteResult.JOB_NOT_FOUND,
        WriteResult.LOCK_LOST,
        WriteResult.LOCK_LOST,
        WriteResult.NOT_ACTIVE,
        WriteResult.OK,
    ]
    assert await journal.peek(10) == [b"gone", b"ours"]


async def test_a_foreign_key_under_the_journals_name(bull: BullQueue, stage: QueueFixture, end: End) -> None:
    """A key of another kind does not stop an ending."""
    await stage.redis.set(stage.keys.own("journal"), "x")
    assert await end(await take(bull, 2), [b"a", b"b"]) == [WriteResult.OK] * 2


async def test_the_newest_stay(
    connection: Connection, keys: Keys, clock: FakeClock, journal: Journal, stage: QueueFixture
) -> None:
    """Without a ledger the journal keeps its newest entries."""
    bull = BullQueue(connection, keys, clock, token="me/2", journal_max_entries=3)
    first, second, third, fourth = await take(bull, 4)
    await bull.complete([JobSucceeded(first, journal=b"1"), JobSucceeded(second, journal=b"2")])
    await bull.retry([JobRetried(third, "no", b"[]", 5, b"3")])
    assert await journal.peek(10) == [b"1", b"2", b"3"]
    await bull.fail([JobFailed(fourth, "no", b"[]", b"4")])
    assert await journal.peek(10) == [b"2", b"3", b"4"]


async def test_peek_keeps_and_drop_removes_entries(journal: Journal, stage: QueueFixture) -> None:
    """Only entries that were read are dropped, from the head; new ones stay."""
    key = stage.keys.own("journal")
    await stage.redis.rpush(key, "a", "b", "c")
    seen = await journal.peek(2)
    assert seen == [b"a", b"b"]
    await stage.redis.rpush(key, "d")
    assert await journal.drop(seen) == 2
    assert await journal.drop(seen) == 0
    assert await stage.redis.lrange(key, 0, -1) == ["c", "d"]
    assert await journal.drop([b"c", b"d"]) == 2
    assert await stage.dump() == {}
    assert (await journal.peek(5), await journal.peek(0), await journal.drop([]), await journal.length()) == (
        [],
        [],
        0,
        0,
    )


@pytest.mark.parametrize(
    ("there", "dropped", "stays"),
    [
        ("abc", "abc", ""),
        ("bcd", "abc", "d"),
        ("cd", "abcd", ""),
        ("de", "abc", "de"),
        ("aab", "a", "ab"),
        ("aab", "aa", "b"),
        ("xab", "ab", "xab"),
        ("abc", "b", "abc"),
    ],
)
async def test_exactly_these(journal: Journal, stage: QueueFixture, there: str, dropped: str, stays: str) -> None:
    """Entries that are gone are passed over, entries behind a strange head stay, equal ones count one by one."""
    key = stage.keys.own("journal")
    await stage.redis.rpush(key, *there)
    assert await journal.drop([template.encode() for template in dropped]) == len(there) - len(stays)
    assert await stage.redis.lrange(key, 0, -1) == list(stays)


async def test_two_writers_lose_nothing(
    bull: BullQueue, journal: Journal, elsewhere: Journal, stage: QueueFixture, keys: Keys
) -> None:
    """While runs end, two writers empty the journal: each entry was read by one of them before it went."""
    written: list[set[bytes]] = [set(), set()]
    total, done = 600, asyncio.Event()

    async def settle() -> None:
        for first in range(0, total, 20):
            jobs = await take(bull, 20)
            await bull.complete([JobSucceeded(job, journal=b"%d" % (first + n)) for n, job in enumerate(jobs)])
        done.set()

    async def move(mine: Journal, ledger: set[bytes], batch: int) -> int:
        dropped = 0
        while not done.is_set() or await mine.length():
            entries = await mine.peek(batch)
            ledger.update(entries)
            dropped += await mine.drop(entries)
        return dropped

    _, one, other = await asyncio.gather(settle(), move(journal, written[0], 7), move(elsewhere, written[1], 50))
    assert one + other == total
    assert written[0] | written[1] == {b"%d" % number for number in range(total)}
