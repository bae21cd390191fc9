"""When a job was added, although its producer's clock is wrong."""

from __future__ import annotations

import pytest

from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Job, JobRetried, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock

MINUTE_MS = 60_000
WRONG = [-11 * MINUTE_MS, 11 * MINUTE_MS, -60 * MINUTE_MS, -24 * 60 * MINUTE_MS, 30 * 24 * 60 * MINUTE_MS]


@pytest.fixture
def bull(connection: Connection, keys: Keys, clock: FakeClock) -> BullQueue:
    return BullQueue(connection, keys, clock, token="me/1")


async def add(bull: BullQueue, at_ms: int, **options: int) -> None:
    await bull.add_many([NewJob("otp", {}, timestamp=at_ms, **{"priority": 1, **options})])


async def claim_one(bull: BullQueue) -> Job:
    [job] = await bull.claim(5)
    return job


@pytest.mark.parametrize("wrong_ms", WRONG)
@pytest.mark.parametrize("priority", [0, 1, 5])
async def test_job_of_a_wrong_clock_is_as_old_as_the_queue_allows(
    bull: BullQueue, clock: FakeClock, wrong_ms: int, priority: int
) -> None:
    """The queue was empty five seconds before the claim: the job is not older, and not newer than its claim."""
    differences: list[float] = []
    bull.creation_times.on_difference = differences.append
    assert await bull.claim(5) == []
    clock.advance(5)
    await add(bull, clock.now_ms() + wrong_ms, priority=priority)
    job = await claim_one(bull)
    assert job.timestamp == clock.now_ms() + wrong_ms
    assert job.created_ms == (clock.now_ms() if wrong_ms > 0 else clock.now_ms() - 5_000)
    assert differences == [(job.timestamp - job.created_ms) / 1000]


async def test_code_behind_a_long_queue(bull: BullQueue, clock: FakeClock) -> None:
    """Codes are in front of all other jobs: a claim of others shows that no code waits."""
    await bull.add_many([NewJob("welcome", {}, priority=5) for _ in range(9)])
    assert len(await bull.claim(4)) == 4
    clock.advance(2)
    await add(bull, clock.now_ms() - 11 * MINUTE_MS)
    [code] = await bull.claim(1)
    assert code.created_ms == clock.now_ms() - 2_000
    [code] = await bull.claim(1)
    assert code.created_ms == code.timestamp  # no claim of this queue has shown that there was no such job


async def test_timestamps_are_believed_while_nothing_else_is_known(bull: BullQueue, clock: FakeClock) -> None:
    """Codes that waited while no daemon ran are as old as they say."""
    await add(bull, clock.now_ms() - 11 * MINUTE_MS)
    assert (await claim_one(bull)).created_ms == clock.now_ms() - 11 * MINUTE_MS


async def test_jobs_of_a_paused_queue_keep_their_age(bull: BullQueue, stage: QueueFixture, clock: FakeClock) -> None:
    """An empty claim of a paused queue says nothing."""
    assert await bull.claim(5) == []
    await stage.redis.set(stage.keys("meta-paused"), 1)
    await add(bull, clock.now_ms())
    clock.advance(660)
    assert await bull.claim(5) == []
    await stage.redis.delete(stage.keys("meta-paused"))
    await stage.redis.rename(stage.keys("paused"), stage.keys("wait"))
    job = await claim_one(bull)
    assert job.created_ms == job.timestamp == clock.now_ms() - 660_000


async def test_delayed_jobs_keep_their_age(bull: BullQueue, clock: FakeClock) -> None:
    """They were in the queue, but not among the waiting jobs."""
    await add(bull, clock.now_ms(), delay_ms=60_000)
    assert await bull.claim(5) == []
    clock.advance(61)
    assert (await bull.promote()).moved == 1
    job = await claim_one(bull)
    assert job.created_ms == clock.now_ms() - 61_000


@pytest.mark.parametrize("wrong_ms", WRONG)
async def test_next_attempt_is_as_old_as_the_first(bull: BullQueue, clock: FakeClock, wrong_ms: int) -> None:
    """Its timestamp is still wrong, and it is not new any more."""
    assert await bull.claim(5) == []
    await add(bull, clock.now_ms() + wrong_ms)
    first = await claim_one(bull)
    await bull.retry([JobRetried(first, "again", b"[]", delay_ms=2_000)])
    clock.advance(3)
    assert (await bull.promote()).moved == 1
    second = await claim_one(bull)
    assert second.created_ms == first.created_ms == clock.now_ms() - 3_000


async def test_job_that_another_worker_had_keeps_its_age(
    bull: BullQueue, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """A job that comes back from another worker was not added since the queue was empty."""
    other = BullQueue(connection, keys, clock, token="you/1")
    await add(bull, clock.now_ms())
    [job] = await other.claim(5)
    assert await bull.claim(5) == []
    clock.advance(700)
    await other.release([job])
    assert (await claim_one(bull)).created_ms == clock.now_ms() - 700_000


async def test_after_an_outage_timestamps_are_believed(bull: BullQueue, clock: FakeClock) -> None:
    """Redis may have lost the claim of a job."""
    assert await bull.claim(5) == []
    bull.creation_times.forget()
    await add(bull, clock.now_ms() - 11 * MINUTE_MS)
    assert (await claim_one(bull)).created_ms == clock.now_ms() - 11 * MINUTE_MS


async def test_while_clocks_disagree_age_counts_from_the_claim(
    connection: Connection, keys: Keys, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    """The age of the job is unknown: it must not be destroyed, and is not reported as a producer's fault."""
    monkeypatch.setattr(FakeClock, "disagreement", "the clock of Redis jumped by 660 s")
    bull = BullQueue(connection, keys, clock, token="me/1")
    bull.creation_times.on_difference = pytest.fail
    await add(bull, clock.now_ms() - 11 * MINUTE_MS)
    assert (await claim_one(bull)).created_ms == clock.now_ms()
