"""Cleaning old jobs of a state: every key is compared, so that nothing else is deleted."""

from __future__ import annotations

import json

import pytest

from flowstate_daemon.queue.admin import BulkResult, QueueAdmin
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import NewJob, State
from tests.integration.queue.queue_fixture import BORN, QueueFixture
from tests.support.clock import FakeClock

STATES: list[State] = ["wait", "active", "delayed", "paused", "completed", "failed"]


@pytest.mark.parametrize("state", STATES)
async def test_clean(stage: QueueFixture, operator: QueueAdmin, state: State, now: int) -> None:
    """Old jobs of a state go without a trace; young ones, locked ones and other states stay."""
    at = dict.fromkeys(("timestamp", "finishedOn" if state in ("completed", "failed") else "timestamp"), now - 999)
    await stage.put("young", state, at=now - 999, priority=5, **at)
    await stage.put("locked", state, at=now - 5000, locked=True)
    for other in STATES:
        if other != state:
            await stage.put(f"old {other}", other)
    await stage.snapshot()
    for i in range(3):
        await stage.put(f"old{i}", state, at=now - 1000 - i, priority=5, deid=f"d{i}")
        await stage.redis.set(stage.keys(f"de:d{i}"), f"old{i}")
    assert await operator.clean(state, 1000) == BulkResult(done=3, left=left_of(state))
    changed = await stage.diff()
    outcomes = [json.loads(entry) for entry in changed.pop("flowstate:journal", [])]
    assert changed == {}
    removed = set() if state == "completed" else {"old0", "old1", "old2"}
    assert {entry["job_id"] for entry in outcomes} == removed
    assert {entry["outcome"] for entry in outcomes} <= {"removed"}


def left_of(state: str) -> int:
    """The young job is looked at only where the state is not ordered by age."""
    return 1 if state in ("completed", "failed") else 2


@pytest.mark.parametrize("mark", [str(BORN // 1000), f"{BORN}.5", "9"])
async def test_clean_compares_numbers(stage: QueueFixture, operator: QueueAdmin, clock: FakeClock, mark: str) -> None:
    """An age mark of another length than today's 13 digits is compared as the number that it is."""
    await stage.put("1", "wait", timestamp=mark)
    await stage.put("2", "wait", timestamp=clock.now_ms() + 10)
    assert await operator.clean("wait", 0) == BulkResult(done=1, left=1)
    assert (await stage.dump())["wait"] == ["2"]


async def test_clean_drops_ghosts_and_spares_other_keys(stage: QueueFixture, operator: QueueAdmin) -> None:
    """Ids without a hash leave the list; an id that names a key of another type deletes nothing but itself."""
    await stage.put("1", "wait", timestamp=9 * 10**15)
    await stage.snapshot()
    await stage.redis.rpush(stage.keys("wait"), "ghost", "wait")
    assert await operator.clean("wait", 0) == BulkResult(done=2, left=1)
    assert await stage.diff() == {}


async def test_clean_in_batches_up_to_a_limit(stage: QueueFixture, operator: QueueAdmin) -> None:
    """A limit counts jobs deleted, from the oldest, also when thousands must be passed over."""
    pipe = stage.redis.pipeline()
    for i in range(2500):
        pipe.hset(stage.keys.job(f"j{i}"), mapping={"name": "x", "timestamp": BORN + i})
        pipe.lpush(stage.keys("wait"), f"j{i}")
        if i < 1500:
            pipe.set(stage.keys.lock(f"j{i}"), "somebody")
    await pipe.execute()
    output: list[int] = []
    assert await operator.clean("wait", 0, limit=600, progress=output.append) == BulkResult(done=600, left=1500)
    assert output == [0, 500, 600]
    found = await stage.redis.lrange(stage.keys("wait"), 0, -1)
    assert found == [f"j{i}" for i in reversed([*range(1500), *range(2100, 2500)])]


@pytest.mark.parametrize(("per_ms", "per_unit"), [(1, 1000), (1000, 1), (1_000_000, 1)])
async def test_clean_spares_young_jobs_whatever_the_unit_of_their_time(
    stage: QueueFixture, operator: QueueAdmin, now: int, per_ms: int, per_unit: int
) -> None:
    """A time in seconds does not make a job 57 years old; one in microseconds is old some day too."""
    for name, at in (("old", now - 90_000), ("young", now - 30_000)):
        await stage.put(name, "wait")
        await stage.redis.hset(stage.keys.job(name), "timestamp", at * per_ms // per_unit)
    assert await operator.clean("wait", 60_000) == BulkResult(done=1, left=1)
    assert (await stage.dump())["wait"] == ["young"]


@pytest.mark.parametrize("state", ["completed", "failed"])
@pytest.mark.parametrize("pruned", [False, True])
async def test_cleaning_a_finished_job_does_not_end_its_debounce(
    stage: QueueFixture, operator: QueueAdmin, bull: BullQueue, state: State, pruned: bool
) -> None:
    """As with npm bull: until its time has passed, the next job with the same debounce id is still refused."""
    await stage.put("1", state, deid="d", finishedOn=BORN)
    await stage.redis.set(stage.keys("de:d"), "1", px=60_000)
    if pruned and state == "failed":
        assert await bull.prune_failed(0, None) == 1
    else:
        assert await operator.clean(state, 0) == BulkResult(done=1, left=0)
    again = await bull.add(NewJob("x", {}, debounce_id="d", debounce_ms=60_000))
    assert again.outcome == "debounced"


async def test_cleaning_a_waiting_job_ends_its_debounce(
    stage: QueueFixture, operator: QueueAdmin, bull: BullQueue
) -> None:
    """It will not run, so the next one must be accepted."""
    await stage.put("1", "wait", deid="d")
    await stage.redis.set(stage.keys("de:d"), "1", px=60_000)
    assert await operator.clean("wait", 0) == BulkResult(done=1, left=0)
    assert (await bull.add(NewJob("x", {}, debounce_id="d", debounce_ms=60_000))).outcome == "added"
