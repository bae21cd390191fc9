"""Checklist 32-41: jobs that Python adds, as npm bull's worker and its listeners see them."""

from __future__ import annotations

import json

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.admin import QueueAdmin
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import JobWaiter
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.queue.job import REMOVE, Backoff, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.compat.driver import NodeQueue, OpenNode
from tests.support.waiting import eventually, hash_of, number

pytestmark = pytest.mark.node


@pytest.fixture
def bull(connection: Connection, keys: Keys) -> BullQueue:
    """The Python producer, with the real clock."""
    return BullQueue(connection, keys, Clock(), token="producer/1")


@pytest.fixture
def operator(connection: Connection, keys: Keys) -> QueueAdmin:
    """The queue administration of Python."""
    return QueueAdmin(connection, keys, Clock(), token="operator/1")


async def test_32_node_reads_a_job_as_python_wrote_it(q: NodeQueue, bull: BullQueue) -> None:
    """Handler and `getJob()` see the name, the data, the options, a text id and the time of adding."""
    data = {"type": "welcome", "to": "ada@example.org", "context": {"name": 'Zoë "🙂" \\'}}
    backoff = Backoff("exponential", 2000)
    added = await bull.add(NewJob("welcome", data, priority=5, attempts=4, backoff=backoff))
    await q.process("welcome", kind="echo")
    seen = (await q.wait_for_event("run")).args[0]
    await q.wait_for_event("completed", added.id)
    assert (seen["id"], seen["name"], seen["data"]) == (added.id, "welcome", data)
    assert isinstance(seen["id"], str)
    assert seen["opts"]["attempts"] == 4
    assert seen["opts"]["backoff"] == {"type": "exponential", "delay": 2000}
    assert seen["opts"]["priority"] == 5
    assert len(str(seen["timestamp"])) == 13
    stored = await q.job(added.id, "toJSON")
    for field in ("id", "name", "data", "opts", "timestamp", "delay"):
        assert stored[field] == seen[field]


async def test_33_python_and_node_agree_on_the_place_of_a_priority(
    q: NodeQueue, open_node: OpenNode, bull: BullQueue, redis: Redis, keys: Keys
) -> None:
    """The same sequence of priorities, added by turns or by node alone, gives the same list."""
    sequence = [10, 5, 0, 1, 10, 1, 5, 0, 5, 10, 1, 1, 0, 5]
    alone = await open_node(prefix=f"{keys.prefix}-alone")
    await q.call("pause")
    await alone.call("pause")
    for turn, priority in enumerate(sequence):
        options = {"priority": priority} if priority else {}
        await alone.add("any", {}, **options)
        if turn % 2:
            await q.add("any", {}, **options)
        else:
            await bull.add(NewJob("any", {}, priority=priority))
    own, other = keys, Keys(f"{keys.prefix}-alone", keys.name)
    assert await redis.lrange(own("paused"), 0, -1) == await redis.lrange(other("paused"), 0, -1)
    assert await redis.get(own("id")) == await redis.get(other("id"))
    scores = [await redis.zrange(each("priority"), 0, -1, withscores=True) for each in (own, other)]
    assert scores[0] == scores[1]


async def test_34_an_idle_node_worker_starts_a_delayed_job_in_time(
    q: NodeQueue, bull: BullQueue, redis: Redis, keys: Keys
) -> None:
    """It learns the due time from our announcement; the score's low bits are the counter."""
    await q.process(kind="echo")
    added = await bull.add(NewJob("any", {}, delay_ms=500))
    score = await redis.zscore(keys("delayed"), added.id)
    job = await hash_of(redis, keys, added.id)
    assert score == ((int(job["timestamp"]) + 500) << 12) + int(await redis.get(keys("id")) or 0) % 4096
    run = await q.wait_for_event("run")
    assert 500 <= run.at - int(job["timestamp"]) < 700


async def test_35_a_job_added_while_paused_waits_in_paused(
    q: NodeQueue, bull: BullQueue, redis: Redis, keys: Keys
) -> None:
    """It is not in `wait`, where a resume would destroy it, and runs after the resume."""
    await q.process(kind="echo")
    await q.call("pause")
    added = await bull.add_many([NewJob("any", {}), NewJob("any", {}, priority=1)])
    assert await redis.lrange(keys("paused"), 0, -1) == [job.id for job in added]
    assert not await redis.exists(keys("wait"))
    await q.call("resume")
    await q.wait_for_event("completed", times=2)


async def test_36_an_existing_id_is_a_duplicate(q: NodeQueue, bull: BullQueue) -> None:
    """Node receives the duplicate event and runs the job once."""
    await q.process(kind="echo")
    await q.call("pause")
    first = await bull.add(NewJob("any", {"n": 1}, job_id="slot-7"))
    again = await bull.add(NewJob("any", {"n": 2}, job_id="slot-7"))
    assert first.id == again.id == "slot-7"
    assert (await q.wait_for_event("duplicated")).job_id == "slot-7"
    await q.call("resume")
    assert await q.job("slot-7", "finished") == {"n": 1}
    last = await bull.add(NewJob("any", {}))
    await q.wait_for_event("completed", last.id)
    assert len(q.received("run")) == 2


async def test_37_node_applies_the_backoff_that_python_wrote(
    q: NodeQueue, bull: BullQueue, connection: Connection, keys: Keys
) -> None:
    """Two failing runs with the delay between them; Python then reads the reason and both stack traces."""
    await q.process(kind="throw", message='no "luck"')
    added = await bull.add(NewJob("any", {}, attempts=2, backoff=Backoff("fixed", 300)))
    await q.wait_for_event("failed", added.id)
    first, second = q.received("run")
    assert 300 <= second.at - first.at < 900
    job = await Inspector(connection, keys).job(added.id)
    assert job is not None
    assert (job.state, job.failed_reason, job.attempts_made) == ("failed", 'no "luck"', 2)
    assert len(job.stacktrace) == 2


async def test_38_python_waits_for_a_job_that_node_runs(
    q: NodeQueue, bull: BullQueue, connection: Connection, keys: Keys
) -> None:
    """It gets the value or the reason, also when the job removes itself, and also after the end."""
    await q.process("good", kind="echo", ms=100)
    await q.process("bad", kind="throw", message="no luck", ms=100)
    async with JobWaiter(connection, keys) as watch:
        kept = await bull.add(NewJob("good", {"n": 1}))
        removed = await bull.add(NewJob("good", {"n": 2}, remove_on_complete=REMOVE))
        bad = await bull.add(NewJob("bad", {}, remove_on_fail=REMOVE))
        ends = [await watch.wait(job.id, 5) for job in (kept, removed, bad)]
    assert [end.state for end in ends] == ["completed", "completed", "failed"]
    assert [json.loads(end.returnvalue or b"null") for end in ends[:2]] == [{"n": 1}, {"n": 2}]
    assert ends[2].reason == "no luck"
    async with JobWaiter(connection, keys) as watch:
        late = await watch.wait(kept.id, 5)
    assert json.loads(late.returnvalue or b"null") == {"n": 1}


async def test_39_five_thousand_jobs_in_batches(q: NodeQueue, bull: BullQueue, redis: Redis, keys: Keys) -> None:
    """Every id is new, the counter stands at 5000, and node completes them all."""
    added = await bull.add_many([NewJob("any", {"n": n}, priority=n % 4) for n in range(5000)])
    assert len({job.id for job in added}) == 5000
    assert await redis.get(keys("id")) == "5000"
    await q.process(kind="return", concurrency=100)
    await q.wait_for_event("completed", times=5000, within_s=30)
    assert (await q.counts())["completed"] == 5000


async def test_40_node_obeys_pythons_pause(q: NodeQueue, operator: QueueAdmin) -> None:
    """`isPaused()` and the events follow Python's pause and resume."""
    await operator.pause()
    assert await q.call("isPaused") is True
    await q.wait_for_event("paused")
    await operator.resume()
    assert await q.call("isPaused") is False
    await q.wait_for_event("resumed")


async def test_41_a_job_retried_by_python_runs_in_node(
    q: NodeQueue, open_node: OpenNode, operator: QueueAdmin, redis: Redis, keys: Keys
) -> None:
    """Python's retry clears and stamps what Bull's does; the node worker runs the job again."""
    job_id = await q.add("any", {})
    await q.process(kind="throw", message="no luck")
    await q.wait_for_event("failed", job_id)
    await q.call("pause")
    await operator.retry(job_id)
    job = await hash_of(redis, keys, job_id)
    assert not {"finishedOn", "processedOn", "failedReason"} & job.keys()
    assert len(job["retriedOn"]) == 13
    assert job["attemptsMade"] == "1"
    assert await redis.lrange(keys("paused"), 0, -1) == [job_id]
    await q.call("resume")
    await q.wait_for_event("failed", job_id, times=2)
    assert await number(redis, keys, job_id, "attemptsMade") == 2


async def test_42_python_and_node_read_the_same_queue(
    q: NodeQueue, open_node: OpenNode, bull: BullQueue, connection: Connection, keys: Keys
) -> None:
    """Counts, states and pages agree on a queue with jobs in every state."""
    await q.process("good", kind="echo", ms=0)
    await q.process("bad", kind="throw", message="no")
    await q.process("slow", kind="return", ms=4_000)
    for n in range(7):
        await q.add("good", {"n": n})
        await bull.add(NewJob("bad", {"n": n}))
        await bull.add(NewJob("good", {"n": n}, delay_ms=60_000 + n))
    await q.wait_for_event("failed", times=7)
    await q.wait_for_event("completed", times=7)
    slow = await q.add("slow", {})
    await q.wait_for_event("active", slow)
    await q.call("pause")
    for n in range(3):
        await q.add("good", {"n": n}, priority=n)

    inspector = Inspector(connection, keys)
    other, own = await q.counts(), await inspector.counts()
    assert {name: getattr(own, name.replace("waiting", "wait")) for name in other} == other
    assert other == {"waiting": 0, "active": 1, "completed": 7, "failed": 7, "delayed": 7, "paused": 3}
    for state in ("completed", "failed", "delayed", "active", "paused"):
        for first, last in ((0, -1), (1, 3)):
            page = await q.call("getJobs", [state], first, last)
            jobs = await inspector.jobs(state, first, last)
            assert [job.id for job in jobs] == [job["id"] for job in page]
            assert [job.data for job in jobs] == [job["data"] for job in page]
            for job in page:
                assert await inspector.state(job["id"]) == await q.state(job["id"]) == state
    await eventually(lambda: q.state(slow), equals="completed")
