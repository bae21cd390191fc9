"""Checklist 6-8, 11, 20, 23, 28: attempts, backoff, delays, time limits, and what people retry or promote."""

from __future__ import annotations

import json

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys
from tests.compat.driver import NodeQueue
from tests.compat.worker import WorkerHarness
from tests.support.waiting import eventually, hash_of, number

pytestmark = pytest.mark.node


async def due_of(redis: Redis, keys: Keys, job_id: str) -> int:
    """When a delayed job is due, in ms, once it is in `delayed`."""

    async def look() -> float | None:
        score: float | None = await redis.zscore(keys("delayed"), job_id)
        return score

    score = await eventually(look)
    assert score is not None
    return int(score) >> 12


async def test_06_exponential_backoff_waits_two_then_four_seconds(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """Between tries the job is delayed, unlocked and not active, due when documented; it fails only once."""
    backoff = {"type": "exponential", "delay": 2000}
    job_id = await q.add("throw", {"message": "no"}, attempts=3, backoff=backoff)
    for delay_ms in (2000, 4000):
        due = await due_of(redis, keys, job_id)
        job = await hash_of(redis, keys, job_id)
        assert due - int(job["processedOn"]) == pytest.approx(delay_ms, abs=50)
        assert not await redis.exists(keys("active"), keys.lock(job_id))
        assert not q.received("failed")
        await q.job(job_id, "promote")  # skip the rest of the delay
    await q.wait_for_event("failed", job_id)
    assert await number(redis, keys, job_id, "attemptsMade") == 3


async def test_07_without_backoff_a_retry_is_immediate(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """Three runs, three stack traces, and `delayed` is never touched."""
    await redis.config_set("notify-keyspace-events", "Kz")
    touched = redis.pubsub()
    await touched.subscribe(f"__keyspace@0__:{keys('delayed')}", keys("the end"))
    job_id = await q.add("throw", {"message": "no"}, attempts=3)
    await q.wait_for_event("failed", job_id)
    await redis.config_set("notify-keyspace-events", "")
    await redis.publish(keys("the end"), "")
    async for message in touched.listen():
        if message["type"] == "message":
            assert message["channel"] == keys("the end")
            break
    await touched.aclose()  # type: ignore[no-untyped-call]
    assert len(json.loads((await hash_of(redis, keys, job_id))["stacktrace"])) == 3


async def test_08_a_number_as_backoff_is_a_fixed_delay(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """The second run starts no earlier than the delay and within half a second of it."""
    job_id = await q.add("throw", {"message": "no"}, attempts=2, backoff=500)
    await due_of(redis, keys, job_id)
    first = await number(redis, keys, job_id, "processedOn")
    await q.wait_for_event("failed", job_id)
    second = await number(redis, keys, job_id, "processedOn")
    assert 500 <= second - first < 1000


async def test_11_a_delayed_job_starts_when_due(q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys) -> None:
    """It starts within 300 ms of its due time, its hash then has no delay, and `waiting` is announced."""
    job_id = await q.add("echo", {}, delay=1000)
    await q.wait_for_event("completed", job_id)
    job = await hash_of(redis, keys, job_id)
    assert 1000 <= int(job["processedOn"]) - int(job["timestamp"]) < 1300
    assert job["delay"] == "0"
    assert q.received("waiting", job_id)


async def test_20_a_failed_job_retried_manually_runs_once_more(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """Another failure counts one attempt more; a success, after its data was corrected, completes it."""
    job_id = await q.add("throw", {"message": "no"})
    await q.wait_for_event("failed", job_id)
    await q.job(job_id, "retry")
    await q.wait_for_event("failed", job_id, times=2)
    job = await hash_of(redis, keys, job_id)
    assert len(job["retriedOn"]) == 13
    assert job["attemptsMade"] == "2"
    await q.job(job_id, "update", {"corrected": True})
    await q.job(job_id, "retry")
    await q.wait_for_event("completed", job_id)
    assert await q.state(job_id) == "completed"
    assert json.loads((await hash_of(redis, keys, job_id))["returnvalue"]) == {"corrected": True}


async def test_23_a_time_limit_fails_the_job_and_frees_the_worker(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """The job fails after its own limit, with Bull's message, and the worker takes the next one."""
    job_id = await q.add("echo", {"ms": 30_000}, timeout=200)
    failed = await q.wait_for_event("failed", job_id)
    assert failed.args[1] == "Promise timed out after 200 milliseconds"
    assert 200 <= failed.at - await number(redis, keys, job_id, "processedOn") < 700
    following = await q.add("echo", {})
    await q.wait_for_event("completed", following)


async def test_28_a_promoted_job_starts_at_once(q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys) -> None:
    """`job.promote()` on a job due in a minute: it runs within a second."""
    job_id = await q.add("echo", {}, delay=60_000)
    await q.job(job_id, "promote")
    await q.wait_for_event("completed", job_id, within_s=1.0)
