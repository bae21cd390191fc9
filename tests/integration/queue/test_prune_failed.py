"""Old failed jobs are deleted, in pieces, and everything else stays."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.queue.bull_queue import PRUNE_BATCH, BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.worker.maintenance import PRUNE_DELAY_S, FailedJobPruner
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

DAY_MS = 86_400_000


@pytest.fixture
def bull(connection: Connection, keys: Keys, clock: FakeClock) -> BullQueue:
    return BullQueue(connection, keys, clock, token="pruner/1")


async def put_failed(stage: QueueFixture, clock: FakeClock, ages_days: list[int]) -> None:
    for age in ages_days:
        at = clock.now_ms() - age * DAY_MS
        await stage.put(f"f{age}", "failed", at=at, finishedOn=at, failedReason="no")


@pytest.mark.parametrize(
    ("age_days", "count", "kept"),
    [
        (None, None, [1, 2, 3, 4, 5]),
        (3, None, [1, 2]),
        (None, 2, [1, 2]),
        (None, 0, []),
        (4, 2, [1, 2]),
        (2, 4, [1]),
        (100, 100, [1, 2, 3, 4, 5]),
    ],
)
async def test_jobs_beyond_age_or_count_are_deleted(
    stage: QueueFixture, bull: BullQueue, clock: FakeClock, age_days: int | None, count: int | None, kept: list[int]
) -> None:
    """The oldest go first, with their log; a job that is old enough exactly now goes too."""
    await put_failed(stage, clock, [1, 2, 3, 4, 5])
    age_ms = None if age_days is None else age_days * DAY_MS
    assert await bull.prune_failed(age_ms, count) == 5 - len(kept)
    left = await stage.dump()
    assert sorted(left.get("failed", {})) == [f"f{age}" for age in kept]
    assert sorted(name for name in left if name.endswith(":logs")) == [f"f{age}:logs" for age in kept]
    assert sorted(name for name in left if name in {f"f{age}" for age in range(9)}) == [f"f{age}" for age in kept]


async def test_jobs_in_other_states_stay(stage: QueueFixture, bull: BullQueue, clock: FakeClock) -> None:
    """However old they are, with their locks and priorities; what a failed job held elsewhere is deleted with it."""
    for state in ("wait", "paused", "delayed", "active", "completed"):
        await stage.put(f"in-{state}", state, at=1, priority=3, locked=state == "active")
    await stage.snapshot()
    await stage.put("old", "failed", at=1, deid="once")
    await stage.redis.set(stage.keys("de:once"), "old")
    await stage.redis.sadd(stage.keys("stalled"), "old")
    await stage.redis.zadd(stage.keys("failed"), {"without-a-hash": 1})
    assert await bull.prune_failed(DAY_MS, None) == 2
    assert await stage.diff() == {}


async def test_a_key_of_another_type_is_left_alone(stage: QueueFixture, bull: BullQueue) -> None:
    """`failed` written by another program is no reason to end."""
    await stage.redis.set(stage.keys("failed"), "not a set")
    assert await bull.prune_failed(0, 0) == 0


async def test_pruner_works_in_pieces(stage: QueueFixture, bull: BullQueue, clock: FakeClock) -> None:
    """Not at startup, but soon after it; each call deletes a bounded number, all are counted."""
    total = 2 * PRUNE_BATCH + 7
    at = clock.now_ms() - 100 * DAY_MS
    await stage.redis.zadd(stage.keys("failed"), {f"old-{number}": at for number in range(total)})
    await put_failed(stage, clock, [1])
    assert await bull.prune_failed(90 * DAY_MS, None) == PRUNE_BATCH
    metrics = Metrics(["welcome"], version="1", instance="i")
    pruner = FailedJobPruner(
        bull, metrics, HealthRegistry(clock).register("pruner"), clock, retention_days=90, max_count=0
    )
    running = asyncio.create_task(pruner.run())
    await asyncio.sleep(0)
    assert await stage.redis.zcard(stage.keys("failed")) == PRUNE_BATCH + 8
    clock.advance(PRUNE_DELAY_S + 1)

    async def is_pruned() -> bool:
        return await stage.redis.zcard(stage.keys("failed")) == 1

    await eventually(is_pruned, "pruned")
    pruner.stop()
    await running
    assert metrics.registry.get_sample_value("flowstate_failed_jobs_pruned_total") == PRUNE_BATCH + 7
