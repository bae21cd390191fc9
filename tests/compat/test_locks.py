"""Checklist 16, 19, 24, 25: locks while a job runs, and workers that are counted, die or are stopped."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import Process

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys
from tests.compat.driver import Driver, NodeQueue, OpenNode
from tests.compat.worker import StartChild, StartWorker
from tests.support.waiting import eventually, number

pytestmark = pytest.mark.node

SHORT = {"lock_duration_ms": 1000, "stalled_interval_ms": 1000}
SHORT_IN_NODE = {"lockDuration": 1000, "stalledInterval": 1000}


async def running_in_child(q: NodeQueue, start: StartChild, *, ms: int, **settings: float) -> tuple[Process, str]:
    """A child worker in the middle of a job that takes `ms`."""
    child = await start(**settings)
    job_id = await q.add("echo", {"ms": ms})
    await q.wait_for_event("active", job_id)
    return child, job_id


async def test_16_a_lock_is_renewed_as_long_as_its_job_runs(
    q: NodeQueue, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """Over four lifetimes of the lock a third of it is always left, and no stalled check keeps the id."""
    w = await start_worker(lock_duration_ms=1500, stalled_interval_ms=500)
    job_id = await q.add("echo", {"ms": 6_000})
    await q.wait_for_event("active", job_id)
    marked = max_marked = 0
    while not q.received("completed", job_id):
        async with redis.pipeline(transaction=True) as look:
            look.get(keys.lock(job_id))
            look.pttl(keys.lock(job_id))
            look.sismember(keys("stalled"), job_id)
            owner, left_ms, stalled = await look.execute()
        if owner is None:
            break  # it has just ended
        assert owner == w.token
        assert left_ms >= 500
        marked = marked + 1 if stalled else 0
        max_marked = max(max_marked, marked)
        await asyncio.sleep(0.05)
    await q.wait_for_event("completed", job_id)
    assert max_marked * 0.05 < 2 * 0.75  # two renewals
    assert len(q.received("active", job_id)) == 1
    assert not q.received("stalled")


async def test_19_tools_count_one_worker_a_process(q: NodeQueue, start_worker: StartWorker) -> None:
    """`getWorkers()` shows each Python worker once, and none within five seconds after they stop."""

    async def workers() -> int:
        return len(await q.call("getWorkers"))

    two = [await start_worker(), await start_worker()]
    await eventually(workers, equals=2)
    await asyncio.gather(*(worker.stop() for worker in two))
    await eventually(workers, equals=0, within_s=5)


async def test_24_a_node_worker_recovers_the_job_of_a_killed_one(
    open_node: OpenNode, start_child_worker: StartChild, redis: Redis, keys: Keys
) -> None:
    """Killed in mid-job: the job runs again under npm bull and completes once, with one stall on it."""
    q = await open_node(settings=SHORT_IN_NODE)
    child, job_id = await running_in_child(q, start_child_worker, ms=60_000, **SHORT)
    child.kill()
    await q.process("*", kind="return", value="by node")
    await q.wait_for_event("completed", job_id, within_s=15)
    assert len(q.received("completed", job_id)) == len(q.received("stalled", job_id)) == 1
    assert await number(redis, keys, job_id, "stalledCounter") == 1
    assert await redis.hget(keys.job(job_id), "returnvalue") == '"by node"'


async def test_24_a_second_python_worker_recovers_it_too(
    q: NodeQueue, start_child_worker: StartChild, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """The same among Python workers only."""
    child, job_id = await running_in_child(q, start_child_worker, ms=3_000, **SHORT)
    child.kill()
    await start_worker(**SHORT)
    await q.wait_for_event("completed", job_id, within_s=15)
    assert len(q.received("completed", job_id)) == len(q.received("stalled", job_id)) == 1
    assert await number(redis, keys, job_id, "stalledCounter") == 1


async def test_24_the_python_worker_recovers_the_job_of_a_killed_node(
    node_modules: None, valkey_url: str, q: NodeQueue, start_worker: StartWorker, keys: Keys
) -> None:
    """And the other way round: node dies in mid-job, the Python worker takes the job up."""
    driver = await Driver.start()
    node = await driver.open(valkey_url, keys.prefix, settings=SHORT_IN_NODE)
    await node.process("*", kind="die", ms=50)
    job_id = await q.add("echo", {"to": "the end"})
    assert await driver.ended() == -signal.SIGKILL
    await driver.close()
    await start_worker(**SHORT)
    assert await q.job(job_id, "finished", within_s=15) == {"to": "the end"}


async def test_25_a_stopped_worker_lets_its_job_end(q: NodeQueue, start_child_worker: StartChild) -> None:
    """SIGTERM in mid-job, with time to drain: the job completes, then the process ends well."""
    child, job_id = await running_in_child(q, start_child_worker, ms=1_000, shutdown_timeout_s=10)
    child.terminate()
    await q.wait_for_event("completed", job_id)
    assert await child.wait() == 0
    assert len(q.received("active", job_id)) == 1


async def test_25_a_job_that_outlasts_the_drain_is_handed_back(
    q: NodeQueue, start_child_worker: StartChild, redis: Redis, keys: Keys
) -> None:
    """SIGTERM in mid-job, without time: the job waits again, unlocked, and no attempt was burnt."""
    child, job_id = await running_in_child(q, start_child_worker, ms=60_000, shutdown_timeout_s=0.2)
    child.terminate()
    assert await child.wait() == 0
    assert await redis.lrange(keys("wait"), 0, -1) == [job_id]
    assert not await redis.exists(keys("active"), keys.lock(job_id))
    assert await redis.hget(keys.job(job_id), "attemptsMade") in (None, "0")
