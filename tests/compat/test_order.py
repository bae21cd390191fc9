"""Checklist 12-15, 17, 18, 27: the order of the queue, pauses, duplicates, bursts, and counting jobs."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys
from tests.compat import flowstate_mails
from tests.compat.driver import NodeQueue
from tests.compat.worker import StartWorker, WorkerHarness
from tests.support.waiting import eventually

pytestmark = pytest.mark.node


def started(q: NodeQueue) -> list[str]:
    """Ids in the order in which they became active."""
    return [event.job_id for event in q.received("active")]


async def test_12_priorities_run_in_bulls_order(q: NodeQueue, start_worker: StartWorker) -> None:
    """Most urgent first, first come first served within one priority, jobs without one last."""
    await start_worker(concurrency=1)
    await q.call("pause")
    ids = {}
    for name, priority in [("a", 10), ("b", 5), ("c", 1), ("d", 1), ("e", 0), ("f", 10)]:
        ids[name] = await q.add("echo", {}, **({"priority": priority} if priority else {}))
    await q.call("resume")
    await q.wait_for_event("completed", times=6)
    assert started(q) == [ids[name] for name in "cdbafe"]


async def test_13_a_lifo_job_runs_next(q: NodeQueue, start_worker: StartWorker) -> None:
    """It overtakes ten jobs that wait."""
    await start_worker(concurrency=1)
    await q.call("pause")
    plain = [await q.add("echo", {}) for _ in range(10)]
    lifo = await q.add("echo", {}, lifo=True)
    await q.call("resume")
    await q.wait_for_event("completed", times=11)
    assert started(q) == [lifo, *plain]


async def test_14_a_custom_id_added_twice_runs_once(q: NodeQueue, w: WorkerHarness) -> None:
    """The second add returns the same id and is announced as a duplicate."""
    await q.call("pause")
    assert await q.add("echo", {"n": 1}, jobId="reminder-7") == "reminder-7"
    assert await q.add("echo", {"n": 2}, jobId="reminder-7") == "reminder-7"
    await q.wait_for_event("duplicated", "reminder-7")
    await q.call("resume")
    assert await q.job("reminder-7", "finished") == {"n": 1}
    last = await q.add("echo", {})
    await q.wait_for_event("completed", last)
    assert started(q) == ["reminder-7", last]


async def test_15_two_thousand_jobs_in_bulk_all_complete(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """Each completes once, and nothing is left waiting, active or prioritised."""
    kinds = flowstate_mails.KINDS
    jobs = [
        {
            "name": kinds[number % 9],
            "data": {"number": number},
            "opts": flowstate_mails.options(kinds[number % 9]),
        }
        for number in range(2000)
    ]
    added = await q.add_bulk(jobs)
    await q.wait_for_event("completed", times=2000, within_s=30)
    assert sorted(event.job_id for event in q.received("completed")) == sorted(added)
    assert len(set(added)) == 2000
    assert not any((await q.counts()).values())
    assert not await redis.exists(keys("priority"))


async def test_17_a_pause_lets_running_jobs_end_and_starts_none(
    q: NodeQueue, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """Between `paused` and `resumed` no job becomes active; afterwards all are done."""
    await start_worker(concurrency=2)
    await q.add_bulk([{"name": "echo", "data": {"ms": 20}} for _ in range(50)])
    await q.wait_for_event("completed", times=5)
    await q.call("pause")
    await eventually(lambda: redis.exists(keys("active")), equals=0)
    await q.wait_for_event("waiting", await q.add("echo", {}))
    assert not await redis.exists(keys("wait"))
    assert await redis.llen(keys("paused")) == 51 - len(q.received("completed"))
    await q.call("resume")
    await q.wait_for_event("completed", times=51)
    names = [event.name for event in q.events]
    assert "active" not in names[names.index("paused") : names.index("resumed")]


async def test_18_each_job_is_counted_once_in_every_state(q: NodeQueue, w: WorkerHarness) -> None:
    """`getJobCounts()` shows a job in exactly one state, at rest and in the middle of a burst."""
    counts: dict[str, int] = dict.fromkeys(("waiting", "active", "completed", "failed", "delayed", "paused"), 0)

    async def moved(job_id: str, state: str) -> None:
        await eventually(lambda: q.state(job_id), equals=state)
        counts[state] += 1
        assert await q.counts() == counts

    await moved(await q.add("echo", {}), "completed")
    await moved(await q.add("throw", {"message": "no"}), "failed")
    await moved(await q.add("echo", {}, delay=60_000), "delayed")
    await moved(await q.add("echo", {"ms": 3_000}), "active")
    await q.call("pause")
    await moved(await q.add("echo", {}), "paused")
    await q.call("resume")
    await q.wait_for_event("completed", times=2)
    await q.add_bulk([{"name": "echo", "data": {"ms": 5}} for _ in range(300)])
    total = sum(counts.values()) + 300

    async def all_done() -> bool:
        now = await q.counts()
        assert sum(now.values()) == total
        return now["completed"] == total - 2

    await eventually(all_done)


async def test_27_a_burst_is_published_in_events(q: NodeQueue, w: WorkerHarness) -> None:
    """Twenty jobs: twenty `active`, twenty `completed`, and `drained` after the last was claimed."""
    added = await q.add_bulk([{"name": "echo", "data": {"ms": 10}} for _ in range(20)])
    await q.wait_for_event("completed", times=20)
    assert sorted(started(q)) == sorted(added)
    assert sorted(event.job_id for event in q.received("completed")) == sorted(added)

    async def drained_last() -> bool:
        names = [event.name for event in q.events]
        return "drained" in names[len(names) - names[::-1].index("active") :]

    await eventually(drained_last)
