"""Due jobs: out of `delayed` into the list that takes jobs now."""

from __future__ import annotations

import pytest

from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import NewJob, PromoteResult
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock

pytestmark = pytest.mark.flavours


async def test_promote(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """Due jobs become ready by priority and due time, lose their delay and are published, like the next due time."""
    await stage.put("1", "delayed", at=now - 10, delay=500)
    await stage.put("2", "delayed", at=now - 20, delay=500)
    await stage.put("3", "delayed", at=now, delay=500, priority=5)
    await stage.put("4", "delayed", at=now + 1, delay=500)
    await stage.put("5", "delayed", at=now - 5, delay=500, priority=2)
    await stage.put("w", "wait")
    before = await stage.dump()
    await stage.snapshot()
    received = await stage.received()
    assert await bull.promote() == PromoteResult(4, now + 1)
    assert await stage.diff() == {
        "delayed": {"4": (now + 1) * 4096.0},
        "wait": ["1", "2", "w", "3", "5"],
        "priority": {"3": 5.0, "5": 2.0},
        **{job_id: before[job_id] | {"delay": "0"} for job_id in ("1", "2", "3", "5")},
    }
    waiting = [("waiting@me/2", job_id) for job_id in ("2", "1", "5", "3")]
    assert await received.events() == [*waiting, ("delayed", str(now + 1))]


async def test_all_of_a_millisecond_are_due_together(
    stage: QueueFixture, bull: BullQueue, now: int, clock: FakeClock
) -> None:
    """The low bits of a score do not hold a job back until the next millisecond."""
    await stage.redis.set(stage.keys("id"), 4090)
    await bull.add_many([NewJob("x", {}, delay_ms=500)] * 4)
    clock.advance(0.499)
    assert await bull.promote() == PromoteResult(0, now + 500)
    clock.advance(0.001)
    assert await bull.promote() == PromoteResult(4, None)
    assert (await stage.dump())["wait"] == ["4094", "4093", "4092", "4091"]


async def test_promote_while_paused(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """Due jobs of a paused queue go to `paused`."""
    await stage.put("1", "delayed", at=now)
    await stage.redis.set(stage.keys("meta-paused"), 1)
    assert await bull.promote() == PromoteResult(1, None)
    assert (await stage.dump())["paused"] == ["1"]


async def test_ids_without_a_job_are_only_removed(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """An id without a job, or under which something else stands, is dropped; due jobs beside it are not lost."""
    await stage.put("1", "delayed", at=now)
    await stage.redis.zadd(stage.keys("delayed"), {"ghost": 0, "text": 1})
    await stage.redis.set(stage.keys("text"), "x")
    await stage.snapshot()
    assert await bull.promote() == PromoteResult(1, None)
    assert await stage.diff() == {"delayed": None, "wait": ["1"]}


async def test_nothing_delayed(stage: QueueFixture, bull: BullQueue) -> None:
    """Without due jobs nothing is published."""
    received = await stage.received()
    assert await bull.promote() == PromoteResult(0, None)
    assert await stage.dump() == {}
    assert await received.events() == []


async def test_a_thousand_at_a_time(stage: QueueFixture, bull: BullQueue, clock: FakeClock, now: int) -> None:
    """What is left over is due at once."""
    await bull.add_many([NewJob("x", {}, delay_ms=1 + n % 3) for n in range(1100)])
    clock.advance(1)
    assert await bull.promote() == PromoteResult(1000, now + 3)
    assert await bull.promote() == PromoteResult(100, None)
