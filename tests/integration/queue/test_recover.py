"""What a restart finds: jobs of the process that died, and claims whose answer was lost."""

from __future__ import annotations

import json

import pytest

from flowstate_daemon.queue.bull_queue import STALLED_FAILURE_REASON, BullQueue
from flowstate_daemon.queue.job import NewJob, RecoveryResult
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock

pytestmark = pytest.mark.flavours


@pytest.fixture
def dead(connection: Connection, keys: Keys, clock: FakeClock) -> BullQueue:
    """An earlier process of the same instance."""
    return BullQueue(connection, keys, clock, token="me/1")


async def test_the_dead_processs_jobs(stage: QueueFixture, bull: BullQueue, dead: BullQueue, rival: BullQueue) -> None:
    """Its jobs go back to the front in their old order, each is counted; everybody else's stay."""
    await bull.add_many(
        [NewJob("x", {}, priority=p, job_id=i) for i, p in [("a", 1), ("b", 5), ("c", 5), ("d", 0), ("e", 0)]]
    )
    await dead.claim(4)
    await rival.claim(1)
    namesake = BullQueue(bull._connection, stage.keys, bull._clock, token="meow/1")
    await bull.add(NewJob("x", {}, job_id="f"))
    await namesake.claim(1)
    await bull.add_many([NewJob("x", {}, priority=p, job_id=i) for i, p in [("u", 1), ("v", 5), ("w", 0)]])
    await stage.redis.sadd(stage.keys("stalled"), "a", "e")
    before = await stage.dump()
    await stage.snapshot()
    recovered = await bull.recover_own_jobs([])
    assert (set(recovered.requeued), recovered.failed) == ({"a", "b", "c", "d"}, ())
    assert await stage.diff() == {
        **{f"{job_id}:lock": None for job_id in "abcd"},
        **{job_id: before[job_id] | {"recoveredCounter": "1"} for job_id in "abcd"},
        "active": ["f", "e"],
        "stalled": {"e"},
        "wait": ["w", "d", "v", "c", "b", "u", "a"],
        "priority": {"a": 1.0, "u": 1.0, "b": 5.0, "c": 5.0, "v": 5.0},
    }
    assert await bull.recover_own_jobs([]) == RecoveryResult()


async def test_a_lost_answer(stage: QueueFixture, bull: BullQueue) -> None:
    """Jobs with our own lock that are not in flight are requeued without being counted; those in flight stay."""
    await bull.add_many([NewJob("x", n) for n in range(3)])
    jobs = await bull.claim(3)
    await stage.snapshot()
    assert await bull.recover_own_jobs([jobs[1].id]) == RecoveryResult(("3", "1"), ())
    assert await stage.diff() == {"1:lock": None, "3:lock": None, "active": ["2"], "wait": ["3", "1"]}


async def test_a_job_that_kills_the_daemon(stage: QueueFixture, bull: BullQueue, dead: BullQueue, now: int) -> None:
    """Brought back too often it fails, with a reason that a person understands."""
    await stage.put("1", "wait", recoveredCounter=2)
    await dead.claim(1)
    before = await stage.dump()
    await stage.snapshot()
    received = await stage.received()
    assert await bull.recover_own_jobs([], limit=2) == RecoveryResult((), ("1",))
    ending = {"recoveredCounter": "3", "failedReason": STALLED_FAILURE_REASON, "finishedOn": str(now)}
    changes = await stage.diff()
    assert changes.pop("flowstate:journal")
    assert changes == {
        "1": before["1"] | ending,
        "1:lock": None,
        "active": None,
        "failed": {"1": float(now)},
    }
    ((channel, event),) = await received.events()
    assert (channel, json.loads(event)) == ("failed", {"jobId": "1", "val": STALLED_FAILURE_REASON})


async def test_what_is_left_to_the_stalled_check(stage: QueueFixture, bull: BullQueue) -> None:
    """Jobs without a lock may just be on their way to another worker."""
    await stage.put("1", "active")
    await stage.put("2", "active", locked=True)
    await stage.redis.rpush(stage.keys("active"), "ghost")
    await stage.snapshot()
    assert await bull.recover_own_jobs([]) == RecoveryResult()
    assert await stage.diff() == {}


async def test_ids_without_a_job_are_only_removed(stage: QueueFixture, bull: BullQueue) -> None:
    """A job that was removed while its worker died is not made again."""
    await stage.redis.rpush(stage.keys("active"), "ghost")
    await stage.redis.set(stage.keys.lock("ghost"), "me/1")
    assert await bull.recover_own_jobs([]) == RecoveryResult()
    assert await stage.dump() == {}


async def test_paused(stage: QueueFixture, bull: BullQueue, dead: BullQueue) -> None:
    """Recovered jobs of a paused queue go to `paused`."""
    await stage.put("1", "wait")
    await dead.claim(1)
    await stage.redis.set(stage.keys("meta-paused"), 1)
    assert await bull.recover_own_jobs([]) == RecoveryResult(("1",), ())
    assert (await stage.dump())["paused"] == ["1"]


async def test_many(stage: QueueFixture, bull: BullQueue, dead: BullQueue) -> None:
    """Thousands come back in their old order."""
    await bull.add_many([NewJob("x", {}) for _ in range(2500)])
    while await dead.claim(100):
        pass
    assert len((await bull.recover_own_jobs([])).requeued) == 2500
    assert (await stage.redis.lrange(stage.keys("wait"), 0, -1))[::-1] == [str(n) for n in range(1, 2501)]


async def test_a_token_without_instance(connection: Connection, keys: Keys, clock: FakeClock) -> None:
    """A token that names no instance would take everybody's jobs."""
    with pytest.raises(ValueError, match="instance"):
        await BullQueue(connection, keys, clock, token="cli").recover_own_jobs([])
