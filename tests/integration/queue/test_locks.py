"""Locks renewed together, progress and logs: the small verbs of a run."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.errors import Malformed
from flowstate_daemon.queue.bull import Bull
from tests.integration.queue.stage import Stage


async def test_extend_locks(stage: Stage, bull: Bull, rival: Bull) -> None:
    """Ours get their full life and leave the stalled check's books; what is gone or another's is told."""
    for job_id in ("1", "2", "3", "4"):
        await stage.put(job_id, "wait")
    await bull.take(3)
    await rival.take(1)
    await stage.redis.delete(stage.keys.lock("2"))
    await stage.redis.pexpire(stage.keys.lock("1"), 1000)
    await stage.redis.sadd(stage.keys("stalled"), "1", "2", "3", "4")
    await stage.remember()
    assert await bull.extend_locks(["1", "2", "3", "4"]) == {"2", "4"}
    assert await stage.changes() == {"stalled": {"2", "4"}}
    assert await stage.redis.pttl(stage.keys.lock("1")) > 25_000


async def test_extend_any_number_of_locks(stage: Stage, bull: Bull) -> None:
    """More than one call takes, and none at all."""
    ids = [str(n) for n in range(2500)]
    await stage.redis.mset({stage.keys.lock(job_id): "me/2" for job_id in ids[:-1]})
    assert await bull.extend_locks(ids) == {"2499"}
    assert await bull.extend_locks([]) == set()


async def test_progress(stage: Stage, bull: Bull) -> None:
    """The hash and the listeners get the same JSON; a job that is gone stays gone."""
    await stage.put("1", "wait")
    before = await stage.everything()
    await stage.remember()
    heard = await stage.heard()
    assert await bull.progress("1", {"done": 5}) is True
    assert await bull.progress("9", 50) is False
    assert await stage.changes() == {"1": before["1"] | {"progress": '{"done":5}'}}
    assert await heard.events() == [("progress", '{"jobId":"1","progress":{"done":5}}')]
    with pytest.raises(Malformed):
        await bull.progress("1", float("nan"))


async def test_log(stage: Stage, bull: Bull) -> None:
    """Rows are appended, the oldest go where only some are kept; a job that is gone gets no log."""
    await stage.put("1", "wait")
    await stage.remember()
    assert await bull.log("1", "c") == 3
    assert await bull.log("1", "d \ud800", keep=2) == 2
    assert await bull.log("9", "x") is None
    assert await stage.changes() == {"1:logs": ["c", "d ?"]}
