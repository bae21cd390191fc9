"""Claiming jobs: from the tail of `wait`, locked in the same call, whatever the list contains."""

from __future__ import annotations

import json

import pytest
from redis.asyncio import Redis

from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Job, JobOptions, NewJob
from flowstate_daemon.queue.repeat import RepeatableJobs
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import BORN, QueueFixture
from tests.support.clock import FakeClock

pytestmark = pytest.mark.flavours


async def test_claim_moves_a_job_to_active(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """The job moves to `active` with lock and start time; its priority and its entry in `stalled` are removed."""
    await stage.put("1", "wait", priority=5, attemptsMade=1, stacktrace='["no"]', data='{"a":1}')
    await stage.put("2", "wait", priority=9)
    await stage.redis.sadd(stage.keys("stalled"), "1", "x")
    before = await stage.dump()
    await stage.snapshot()
    received = await stage.received()
    assert await bull.claim(1) == [Job("1", "welcome", b'{"a":1}', JobOptions(), BORN, 1, 5, b'["no"]')]
    assert await stage.diff() == {
        "wait": ["2"],
        "active": ["1"],
        "priority": {"2": 9.0},
        "stalled": {"x"},
        "1": before["1"] | {"processedOn": str(now)},
        "1:lock": "me/2",
        "flowstate:last-added": str(BORN),
    }
    assert await received.events() == [("active@me/2", "1")]
    assert 29_000 < await stage.redis.pttl(stage.keys.lock("1")) <= 30_000


async def test_claim_remembers_when_the_backend_added_its_newest_job(
    stage: QueueFixture, bull: BullQueue, now: int
) -> None:
    """The newest of the claimed jobs counts, never an older one later, and none of the schedules; nor the future."""
    key = stage.keys.own("last-added")
    await stage.put("1", "wait", at=BORN + 2)
    await stage.put("2", "wait", at=BORN + 1)
    await stage.put("scheduled.task-reminder.7", "wait", at=BORN + 9)
    await bull.claim(3)
    assert await stage.redis.get(key) == str(BORN + 2)
    await stage.put("3", "wait", at=BORN)
    await stage.put("4", "wait", timestamp="yesterday")
    await bull.claim(2)
    assert await stage.redis.get(key) == str(BORN + 2)
    await stage.put("my-own-id", "wait", at=now + 3_600_000)
    await bull.claim(1)
    assert await stage.redis.get(key) == str(now)


async def test_claim_replaces_what_another_program_wrote_as_the_time(stage: QueueFixture, bull: BullQueue) -> None:
    """A wrong value or type of this key costs no job."""
    key = stage.keys.own("last-added")
    for number, wrong in enumerate(("set", "rpush")):
        await stage.redis.delete(key)
        await getattr(stage.redis, wrong)(key, "noon")
        await stage.put(f"{number}", "wait", at=BORN + number)
        assert [job.id for job in await bull.claim(5)] == [f"{number}"]
        assert await stage.redis.get(key) == str(BORN + number)


async def test_two_workers_share_the_queue(stage: QueueFixture, bull: BullQueue, rival: BullQueue) -> None:
    """The most urgent jobs are claimed first; `active` has the newest at its head."""
    await bull.add_many([NewJob("x", n, priority=1 + n % 2) for n in range(7)])
    mine, other = await bull.claim(4), await rival.claim(100)
    assert [job.id for job in mine] == ["1", "3", "5", "7"]
    assert [job.id for job in other] == ["2", "4", "6"]
    everything = await stage.dump()
    assert everything["active"] == ["6", "4", "2", "7", "5", "3", "1"]
    assert {everything[f"{n}:lock"] for n in (1, 3, 5, 7)} == {"me/2"}
    assert {everything[f"{n}:lock"] for n in (2, 4, 6)} == {"you/1"}
    assert "wait" not in everything
    assert "priority" not in everything


async def test_drained_is_published_once(stage: QueueFixture, bull: BullQueue) -> None:
    """The first empty claim after a job publishes `drained`; later ones publish nothing."""
    await stage.put("1", "wait")
    await bull.claim(5)
    received = await stage.received()
    assert await bull.claim(5) == []
    assert await bull.claim(5) == []
    assert await received.events() == [("drained", "")]


async def test_never_while_paused(stage: QueueFixture, bull: BullQueue) -> None:
    """No job of a paused queue is claimed."""
    await stage.put("1", "paused")
    await stage.redis.set(stage.keys("meta-paused"), 1)
    await stage.snapshot()
    assert await bull.claim(5) == []
    assert await stage.diff() == {}


async def test_jobs_in_wait_of_a_paused_queue_are_kept(stage: QueueFixture, bull: BullQueue) -> None:
    """Jobs pushed to `wait` of a paused queue are moved to `paused`, where a resume does not destroy them."""
    await stage.put("1", "paused", priority=2)
    await stage.put("2", "wait", priority=1)
    await stage.put("3", "wait")
    await stage.redis.zadd(stage.keys("priority"), {"1": 2, "2": 1})
    await stage.redis.set(stage.keys("meta-paused"), 1)
    await stage.snapshot()
    assert await bull.claim(5) == []
    assert await stage.diff() == {"wait": None, "paused": ["3", "1", "2"]}


async def test_claim_drops_ids_without_a_job(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """Ids without a job, stubs of Bull and keys of other types are dropped; the next job is claimed."""
    await stage.put("1", "wait")
    await stage.redis.rpush(stage.keys("wait"), "ghost", "stub", "text", "list")
    await stage.redis.hset(stage.keys("stub"), "processedOn", 1)
    await stage.redis.set(stage.keys("text"), "x")
    await stage.redis.rpush(stage.keys("list"), "x")
    before = await stage.dump()
    await stage.snapshot()
    assert [job.id for job in await bull.claim(2)] == ["1"]
    assert await stage.diff() == {
        "wait": None,
        "active": ["1"],
        "1": before["1"] | {"processedOn": str(now)},
        "1:lock": "me/2",
        "flowstate:last-added": str(BORN),
    }


async def test_one_id_twice_runs_once(stage: QueueFixture, bull: BullQueue) -> None:
    """An id that is queued again while in flight is dropped; another lock does not prevent a claim, as in Bull."""
    await stage.put("1", "wait")
    await stage.redis.rpush(stage.keys("wait"), "1")
    assert [job.id for job in await bull.claim(1)] == ["1"]
    assert await bull.claim(1) == []
    assert (await stage.dump())["active"] == ["1"]
    await stage.put("2", "wait", locked=True)
    assert [job.id for job in await bull.claim(1)] == ["2"]


async def test_data_that_is_too_long_stays_there(
    stage: QueueFixture, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """The job has an invalid_reason instead of its data."""
    bull = BullQueue(connection, keys, clock, token="me/2", max_data_bytes=20)
    await stage.put("1", "wait", data='"%s"' % ("x" * 19))
    (job,) = await bull.claim(1)
    assert job.invalid_reason == "the job's data has 21 bytes, more than the maximum of 20"
    assert job.data == b"{}"


async def test_invalid_jobs_are_claimed_with_a_reason(stage: QueueFixture, bull: BullQueue) -> None:
    """Options that are not JSON prevent neither the claim nor the other jobs."""
    await stage.put("1", "wait", opts="{oops")
    await stage.put("2", "wait", data="{oops", attemptsMade="many", timestamp="soon")
    broken, careless = await bull.claim(2)
    assert broken.invalid_reason is not None
    assert "options" in broken.invalid_reason
    assert "oops" not in broken.invalid_reason
    assert (careless.attempts_made, careless.timestamp, careless.invalid_reason) == (0, 0, None)


async def test_claim_removes_the_job_from_bulls_rate_limiter(stage: QueueFixture, bull: BullQueue) -> None:
    """A job that a rate-limited node worker has delayed is removed from its limiter keys, with or without group."""
    limited, grouped = stage.keys("limiter:limited"), stage.keys("limiter:g:limited")
    await stage.put("1", "wait")
    await stage.put("2:g", "wait")
    await stage.redis.sadd(limited, "1", "9")
    await stage.redis.sadd(grouped, "2:g")
    await stage.redis.hset(stage.keys("limiter:index"), mapping={"1": limited, "2:g": grouped, "9": limited})
    await bull.claim(2)
    everything = await stage.dump()
    assert everything["limiter:index"] == {"9": limited}
    assert everything["limiter:limited"] == {"9"}
    assert "limiter:g:limited" not in everything


async def test_claim_schedules_the_next_repeat(
    stage: QueueFixture, connection: Connection, keys: Keys, clock: FakeClock, now: int
) -> None:
    """Claiming a repeatable job adds the next one to `delayed`; other jobs add none."""
    repeats = RepeatableJobs(connection, keys, clock, token="me/2")
    bull = BullQueue(connection, keys, clock, token="me/2", repeats=repeats)
    await stage.put("1", "wait")
    await stage.put("2", "wait", opts='{"repeat":{"every":1000,"count":1,"key":"k"},"prevMillis":5,"x":[1]}')
    await stage.redis.zadd(stage.keys("repeat"), {"k": now})
    claimed = await bull.claim(2)
    assert claimed[1].options.raw == {"repeat": {"every": 1000, "count": 1, "key": "k"}, "prevMillis": 5, "x": [1]}
    (next_id,) = (await stage.dump())["delayed"]
    options = json.loads((await stage.dump())[next_id]["opts"])
    assert (options["repeat"]["count"], options["x"]) == (2, [1])


@pytest.mark.parametrize("count", [0, 101, -1])
async def test_the_number_is_checked(bull: BullQueue, count: int) -> None:
    """Between 1 and 100 jobs at a time."""
    with pytest.raises(ValueError, match="between 1 and 100"):
        await bull.claim(count)


async def test_waiting_for_work(redis: Redis, bull: BullQueue, keys: Keys) -> None:
    """The wait ends with the first job and removes nothing; without a job it times out."""
    assert await bull.wait_for_jobs() is False
    await redis.rpush(keys("wait"), "2", "1")
    assert await bull.wait_for_jobs() is True
    assert await redis.lrange(keys("wait"), 0, -1) == ["2", "1"]
