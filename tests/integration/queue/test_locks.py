"""Locks renewed together, progress and logs: the small verbs of a run."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.queue.bull_queue import BullQueue
from tests.integration.queue.queue_fixture import QueueFixture


async def test_extend_locks(stage: QueueFixture, bull: BullQueue, rival: BullQueue) -> None:
    """Own locks are renewed and removed from `stalled`; missing and foreign ones are returned."""
    for job_id in ("1", "2", "3", "4"):
        await stage.put(job_id, "wait")
    await bull.claim(3)
    await rival.claim(1)
    await stage.redis.delete(stage.keys.lock("2"))
    await stage.redis.pexpire(stage.keys.lock("1"), 1000)
    await stage.redis.sadd(stage.keys("stalled"), "1", "2", "3", "4")
    await stage.snapshot()
    assert await bull.extend_locks(["1", "2", "3", "4"]) == {"2", "4"}
    assert await stage.diff() == {"stalled": {"2", "4"}}
    assert await stage.redis.pttl(stage.keys.lock("1")) > 25_000


async def test_extend_any_number_of_locks(stage: QueueFixture, bull: BullQueue) -> None:
    """More than one call takes, and none at all."""
    ids = [str(n) for n in range(2500)]
    await stage.redis.mset({stage.keys.lock(job_id): "me/2" for job_id in ids[:-1]})
    assert await bull.extend_locks(ids) == {"2499"}
    assert await bull.extend_locks([]) == set()


async def test_progress(stage: QueueFixture, bull: BullQueue) -> None:
    """The hash and the listeners get the same JSON; a job that is gone stays gone."""
    await stage.put("1", "wait")
    before = await stage.dump()
    await stage.snapshot()
    received = await stage.received()
    assert await bull.progress("1", {"done": 5}) is True
    assert await bull.progress("9", 50) is False
    assert await stage.diff() == {"1": before["1"] | {"progress": '{"done":5}'}}
    assert await received.events() == [("progress", '{"jobId":"1","progress":{"done":5}}')]
    with pytest.raises(InvalidDataError):
        await bull.progress("1", float("nan"))


async def test_log(stage: QueueFixture, bull: BullQueue) -> None:
    """Rows are appended, the oldest go where only some are kept; a job that is gone gets no log."""
    await stage.put("1", "wait")
    await stage.snapshot()
    assert await bull.log("1", "c") == 3
    assert await bull.log("1", "d \ud800", keep=2) == 2
    assert await bull.log("9", "x") is None
    assert await stage.diff() == {"1:logs": ["c", "d ?"]}
