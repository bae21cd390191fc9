"""Taking only the most urgent, for places that are kept free for them."""

from __future__ import annotations

from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import NewJob
from tests.integration.queue.queue_fixture import QueueFixture


async def test_only_the_urgent_are_taken(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """Jobs of priority 1 go, in their order, and no other key changes than in any claim."""
    await bull.add_many([NewJob("x", {}, priority=priority) for priority in (5, 1, 0, 1, 2)])
    before = await stage.dump()
    await stage.snapshot()
    assert [job.id for job in await bull.claim(100, urgent_only=True)] == ["2", "4"]
    assert await stage.diff() == {
        "wait": ["3", "1", "5"],
        "active": ["4", "2"],
        "priority": {"1": 5.0, "5": 2.0},
        "2": before["2"] | {"processedOn": str(now)},
        "4": before["4"] | {"processedOn": str(now)},
        "2:lock": "me/2",
        "4:lock": "me/2",
        "flowstate:last-added": str(now),
    }


async def test_no_more_than_asked_for(bull: BullQueue) -> None:
    """The first to run come first, and the others are still there."""
    await bull.add_many([NewJob("x", {}, priority=1) for _ in range(5)])
    assert [job.id for job in await bull.claim(2, urgent_only=True)] == ["1", "2"]
    assert [job.id for job in await bull.claim(9, urgent_only=True)] == ["3", "4", "5"]


async def test_bulk_at_the_tail_does_not_hide_them(stage: QueueFixture, bull: BullQueue) -> None:
    """Bulk that somebody has pushed before them is passed over, within a hundred places."""
    await bull.add_many([NewJob("x", {}, priority=1, job_id="code")])
    for number in range(99):
        await stage.put(f"b{number}", "wait")
        await stage.redis.lmove(stage.keys("wait"), stage.keys("wait"), "LEFT", "RIGHT")
    assert [job.id for job in await bull.claim(5, urgent_only=True)] == ["code"]
    assert len((await stage.dump())["wait"]) == 99


async def test_ids_without_a_job_and_duplicates_are_removed(stage: QueueFixture, bull: BullQueue) -> None:
    """An urgent id without a job is dropped, one that is queued twice runs once."""
    await bull.add_many([NewJob("x", {}, priority=1)])
    await stage.redis.rpush(stage.keys("wait"), "ghost", "1")
    await stage.redis.zadd(stage.keys("priority"), {"ghost": 1})
    assert [job.id for job in await bull.claim(5, urgent_only=True)] == ["1"]
    everything = await stage.dump()
    assert "wait" not in everything
    assert everything["active"] == ["1"]


async def test_none_is_silent(stage: QueueFixture, bull: BullQueue) -> None:
    """Without urgent jobs nothing changes and `drained` is not said; the next full claim says it."""
    await bull.add_many([NewJob("x", {}, priority=5)])
    await bull.claim(1)
    received = await stage.received()
    await stage.snapshot()
    assert await bull.claim(5, urgent_only=True) == []
    assert await stage.diff() == {}
    assert await bull.claim(5) == []
    assert await received.events() == [("drained", "")]


async def test_never_while_paused(stage: QueueFixture, bull: BullQueue) -> None:
    """A paused queue gives nothing away, however urgent."""
    await stage.redis.set(stage.keys("meta-paused"), 1)
    await bull.add_many([NewJob("x", {}, priority=1)])
    assert await bull.claim(5, urgent_only=True) == []
