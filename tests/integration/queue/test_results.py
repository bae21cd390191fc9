"""Ending runs: finish, retry, fail and release write only what is the caller's, and compare every key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Job, JobFailed, JobRetried, JobSucceeded, NewJob, WriteResult
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock

REMOVED = {"removeOnComplete": True, "removeOnFail": True}


async def take(
    stage: QueueFixture, bull: BullQueue, *job_ids: str, opts: dict[str, Any] | None = None, **fields: Any
) -> list[Job]:
    """Claims jobs, each with an entry in `stalled`, and takes the snapshot for later comparison."""
    for job_id in job_ids:
        await stage.put(job_id, "wait", opts=json.dumps(opts or {}), **fields)
    jobs = await bull.claim(len(job_ids))
    await stage.redis.sadd(stage.keys("stalled"), "x", *job_ids)
    await stage.snapshot()
    return jobs


def left(*job_ids: str) -> dict[str, Any]:
    """The keys that are removed with the last active job."""
    return {"active": None, "stalled": {"x"}, **{f"{job_id}:lock": None for job_id in job_ids}}


async def test_finish_and_keep(stage: QueueFixture, bull: BullQueue, now: int, clock: FakeClock) -> None:
    """Value and finish time are written, the job is in `completed` with that score, the event has the value."""
    (job,) = await take(stage, bull, "1")
    clock.advance(2)
    received = await stage.received()
    before = await stage.dump()
    assert await bull.complete([JobSucceeded(job, b'{"a":"\\"1\\n"}')]) == [WriteResult.OK]
    assert await stage.diff() == left("1") | {
        "completed": {"1": now + 2000.0},
        "1": before["1"] | {"returnvalue": '{"a":"\\"1\\n"}', "finishedOn": str(now + 2000)},
    }
    ((channel, event),) = await received.events()
    assert channel == "completed"
    assert json.loads(event) == {"jobId": "1", "val": '{"a":"\\"1\\n"}'}


async def test_finish_and_remove(stage: QueueFixture, bull: BullQueue) -> None:
    """As FlowState asks: nothing stays but the event, also of a job whose id is text."""
    jobs = await take(stage, bull, "1", 'sl"ot', opts=REMOVED)
    received = await stage.received()
    assert await bull.complete([JobSucceeded(job) for job in jobs]) == [WriteResult.OK] * 2
    gone = {"1": None, "1:logs": None, 'sl"ot': None, 'sl"ot:logs': None}
    assert await stage.diff() == left("1", 'sl"ot') | gone
    assert [json.loads(event) for _, event in await received.events()] == [
        {"jobId": "1", "val": "null"},
        {"jobId": 'sl"ot', "val": "null"},
    ]


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (True, "abcd"),
        (0, "abcd"),
        ("yes", "abcd"),
        ({"count": 0}, "abcd"),
        (False, "abcd12"),
        (None, "abcd12"),
        ("", "abcd12"),
        (-1, "abcd12"),
        ({}, "abcd12"),
        ({"count": -5}, "abcd12"),
        (3, "d12"),
        ({"count": 1}, "2"),
        ({"age": 30}, "d12"),
        ({"age": 0}, ""),
        ({"age": 30, "count": 2}, "12"),
        ({"age": 150, "count": 4}, "cd12"),
    ],
    ids=str,
)
@pytest.mark.parametrize("end", ["completed", "failed"])
async def test_retention(stage: QueueFixture, bull: BullQueue, now: int, policy: object, kept: str, end: str) -> None:
    """Each form of removeOnComplete and removeOnFail keeps what Bull keeps, and hash and log go with the entry."""
    for job_id, age_s in zip("abcd", (300, 200, 100, 20), strict=True):
        await stage.put(job_id, end, at=now - age_s * 1000)
    jobs = await take(stage, bull, "1", "2", opts={"removeOnComplete": policy, "removeOnFail": policy})
    if end == "completed":
        await bull.complete([JobSucceeded(job) for job in jobs])
    else:
        await bull.fail([JobFailed(job, "no", b"[]") for job in jobs])
    everything = await stage.dump()
    assert set(everything.get(end, {})) == set(kept)
    assert {name for name in everything if len(name) == 1} == set(kept)
    assert {name.removesuffix(":logs") for name in everything if name.endswith(":logs")} == set(kept)


async def test_neighbours_with_different_retention(stage: QueueFixture, bull: BullQueue) -> None:
    """Each job's policy is applied at its own turn, as if they had ended one by one."""
    for job_id, policy in [("1", False), ("2", False), ("3", 2), ("4", False), ("5", True), ("6", False)]:
        await stage.put(job_id, "wait", opts=json.dumps({"removeOnComplete": policy}))
    await bull.complete([JobSucceeded(job) for job in await bull.claim(6)])
    assert set((await stage.dump())["completed"]) == {"2", "3", "4", "6"}


async def test_retry_later(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """Attempt, reason, traces and a log row are written; the score is due time and id; the due time is announced."""
    first, second = await take(stage, bull, "4097", "b", opts={"attempts": 3}, attemptsMade=1)
    received = await stage.received()
    before = await stage.dump()
    settled = await bull.retry(
        [JobRetried(first, 'it is "ill"', b'["a","b"]', 2000), JobRetried(second, "too", b"[]", 1500)]
    )
    assert settled == [WriteResult.OK] * 2
    failure = {"attemptsMade": "2", "failedReason": 'it is "ill"', "stacktrace": '["a","b"]'}
    assert await stage.diff() == left("4097", "b") | {
        "delayed": {"4097": (now + 2000) * 4096 + 1.0, "b": (now + 1500) * 4096.0},
        "4097": before["4097"] | failure,
        "b": before["b"] | {"attemptsMade": "2", "failedReason": "too", "stacktrace": "[]"},
        "4097:logs": ["a", "b", 'attempt 2 of 3 failed: it is "ill"; next attempt at 2026-03-02T08:00:02.000+00:00'],
        "b:logs": ["a", "b", "attempt 2 of 3 failed: too; next attempt at 2026-03-02T08:00:01.500+00:00"],
    }
    assert await received.events() == [("delayed", str(now + 1500))]


async def test_retry_at_once(stage: QueueFixture, bull: BullQueue) -> None:
    """Without a delay the job is ready again behind its equals, or before all with lifo; nothing is announced."""
    plain, urgent, last = [
        *await take(stage, bull, "1", opts={"attempts": 3}),
        *await take(stage, bull, "2", opts={"attempts": 3}, priority=1),
        *await take(stage, bull, "3", opts={"attempts": 3, "lifo": True}),
    ]
    await stage.put("w", "wait")
    received = await stage.received()
    assert await bull.retry([JobRetried(job, "no", b"[]") for job in (plain, urgent, last)]) == [WriteResult.OK] * 3
    everything = await stage.dump()
    assert everything["wait"] == ["1", "w", "2", "3"]
    assert everything["priority"] == {"2": 1.0}
    assert everything["1:logs"][-1] == "attempt 1 of 3 failed: no; next attempt at once"
    assert "delayed" not in everything
    assert await received.events() == []


async def test_fail(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """The failure is written, the job is in `failed`, the event has the reason."""
    (job,) = await take(stage, bull, "1", opts={"attempts": 3}, attemptsMade=2)
    received = await stage.received()
    before = await stage.dump()
    assert await bull.fail([JobFailed(job, 'no "luck"\n', b'["t"]')]) == [WriteResult.OK]
    failure = {"attemptsMade": "3", "failedReason": 'no "luck"\n', "stacktrace": '["t"]', "finishedOn": str(now)}
    assert await stage.diff() == left("1") | {
        "failed": {"1": float(now)},
        "1": before["1"] | failure,
        "1:logs": ["a", "b", 'attempt 3 of 3 failed: no "luck"\n; no retries left'],
    }
    ((channel, event),) = await received.events()
    assert channel == "failed"
    assert json.loads(event) == {"jobId": "1", "val": 'no "luck"\n'}


async def test_fail_and_remove(stage: QueueFixture, bull: BullQueue) -> None:
    """A failed job that is not kept leaves only its event."""
    (job,) = await take(stage, bull, "1", opts=REMOVED)
    received = await stage.received()
    assert await bull.fail([JobFailed(job, "no", b"[]")]) == [WriteResult.OK]
    assert await stage.diff() == left("1") | {"1": None, "1:logs": None}
    assert await received.events() == [("failed", '{"jobId":"1","val":"no"}')]


async def test_release_to_the_front(stage: QueueFixture, bull: BullQueue) -> None:
    """Jobs go back before all of their kind and behind the more urgent, in their old order; no attempt is counted."""
    jobs = [
        *await take(stage, bull, "a", "b", priority=5),
        *await take(stage, bull, "c", "d"),
    ]
    for job_id, priority in [("u", 1), ("v", 5), ("w", 9), ("x", 0)]:
        await bull.add(NewJob("x", {}, priority=priority, job_id=job_id))
    await stage.snapshot()
    assert await bull.release(jobs) == [WriteResult.OK] * 4
    assert await stage.diff() == {
        **{f"{job.id}:lock": None for job in jobs},
        "active": None,
        "stalled": {"x"},
        "wait": ["x", "d", "c", "w", "v", "b", "a", "u"],
        "priority": {"u": 1.0, "a": 5.0, "b": 5.0, "v": 5.0, "w": 9.0},
    }
    assert [job.id for job in await bull.claim(9)] == ["u", "a", "b", "v", "w", "c", "d", "x"]


async def test_release_for_later(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """With a delay the job waits in `delayed`, and no attempt is counted either."""
    (job,) = await take(stage, bull, "7", priority=5)
    received = await stage.received()
    assert await bull.release([job], delay_ms=1000) == [WriteResult.OK]
    assert await stage.diff() == left("7") | {"delayed": {"7": (now + 1000) * 4096 + 7.0}}
    assert await received.events() == [("delayed", str(now + 1000))]


async def test_endings_while_paused(stage: QueueFixture, bull: BullQueue) -> None:
    """What comes back while the queue is paused goes to `paused`."""
    first, second, third = await take(stage, bull, "1", "2", "3", priority=2)
    await stage.redis.set(stage.keys("meta-paused"), 1)
    await bull.release([first])
    await bull.retry([JobRetried(second, "no", b"[]")])
    await bull.complete([JobSucceeded(third)])
    everything = await stage.dump()
    assert everything["paused"] == ["2", "1"]
    assert "wait" not in everything


@pytest.mark.parametrize("verb", ["finish", "retry", "fail", "release"])
@pytest.mark.parametrize(
    ("what", "settled"),
    [
        ("lost", WriteResult.LOCK_LOST),
        ("taken", WriteResult.LOCK_LOST),
        ("gone", WriteResult.JOB_NOT_FOUND),
        ("other", WriteResult.JOB_NOT_FOUND),
        ("text", WriteResult.JOB_NOT_FOUND),
    ],
)
async def test_what_is_not_ours_stays_untouched(
    stage: QueueFixture, bull: BullQueue, verb: str, what: str, settled: WriteResult
) -> None:
    """Without the lock, the job or its identity nothing is written, and the others of the call are settled."""
    first, second = await take(stage, bull, "1", "2")
    await stage.make_foreign("1", what)
    await stage.snapshot()
    calls = {
        "finish": lambda: bull.complete([JobSucceeded(first), JobSucceeded(second)]),
        "retry": lambda: bull.retry([JobRetried(first, "no", b"[]", 5), JobRetried(second, "no", b"[]", 5)]),
        "fail": lambda: bull.fail([JobFailed(first, "no", b"[]"), JobFailed(second, "no", b"[]")]),
        "release": lambda: bull.release([first, second]),
    }
    assert await calls[verb]() == [settled, WriteResult.OK]
    changed = await stage.diff()
    assert {name for name in changed if name.startswith("1")} == set()
    assert changed["active"] == ["1"]
    assert "2:lock" in changed


async def test_a_job_moved_elsewhere(stage: QueueFixture, bull: BullQueue) -> None:
    """A job that is not in active only loses our lock."""
    (job,) = await take(stage, bull, "1")
    await stage.redis.lrem(stage.keys("active"), 1, "1")
    await stage.redis.rpush(stage.keys("wait"), "1")
    await stage.snapshot()
    assert await bull.complete([JobSucceeded(job)]) == [WriteResult.NOT_ACTIVE]
    assert await stage.diff() == {"1:lock": None, "stalled": {"x"}}


async def test_one_job_twice_in_a_call(stage: QueueFixture, bull: BullQueue) -> None:
    """The second ending of one job changes nothing."""
    (job,) = await take(stage, bull, "1")
    assert await bull.complete([JobSucceeded(job), JobSucceeded(job)]) == [WriteResult.OK, WriteResult.NOT_ACTIVE]
    assert list((await stage.dump())["completed"]) == ["1"]


async def test_two_workers(stage: QueueFixture, bull: BullQueue, rival: BullQueue) -> None:
    """A worker cannot settle a job of another worker."""
    (job,) = await take(stage, rival, "1")
    assert await bull.complete([JobSucceeded(job)]) == [WriteResult.LOCK_LOST]
    assert await stage.diff() == {}
    assert await rival.complete([JobSucceeded(job)]) == [WriteResult.OK]


@pytest.mark.parametrize("verb", ["finish", "fail"])
async def test_a_finished_job_releases_its_debounce(stage: QueueFixture, bull: BullQueue, verb: str) -> None:
    """One without a time is deleted, one with a time runs on; a retry lets go of neither."""
    await bull.add_many(
        [
            NewJob("x", {}, debounce_id="a"),
            NewJob("x", {}, debounce_id="b", debounce_ms=60_000),
            NewJob("x", {}, debounce_id="c"),
        ]
    )
    *ended, retried = await bull.claim(3)
    await bull.retry([JobRetried(retried, "no", b"[]")])
    if verb == "finish":
        await bull.complete([JobSucceeded(job) for job in ended])
    else:
        await bull.fail([JobFailed(job, "no", b"[]") for job in ended])
    everything = await stage.dump()
    assert {name for name in everything if name.startswith("de:")} == {"de:b", "de:c"}


async def test_odd_timestamps_are_the_same_job(stage: QueueFixture, bull: BullQueue) -> None:
    """Fractions, texts and nothing at all do not keep a job from its end."""
    for job_id, stamp in [("1", "1772000000000.5"), ("2", "soon"), ("3", "1.772e12"), ("4", "")]:
        await stage.put(job_id, "wait")
        await stage.redis.hset(stage.keys(job_id), "timestamp", stamp)
    await stage.put("5", "wait")
    await stage.redis.hdel(stage.keys("5"), "timestamp")
    assert await bull.complete([JobSucceeded(job) for job in await bull.claim(5)]) == [WriteResult.OK] * 5


async def test_a_log_that_is_none(stage: QueueFixture, bull: BullQueue) -> None:
    """A foreign key under the name of the log does not prevent the transition."""
    (job,) = await take(stage, bull, "1")
    await stage.redis.set(stage.keys.logs("1"), "x")
    assert await bull.fail([JobFailed(job, "no", b"[]")]) == [WriteResult.OK]


async def test_the_number_is_checked(bull: BullQueue) -> None:
    """Between 1 and 100 jobs a call."""
    with pytest.raises(ValueError, match="between 1 and 100"):
        await bull.complete([])
