"""Writing the successor of a repeatable job."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from flowstate_daemon.queue.job import Job, JobOptions
from flowstate_daemon.queue.repeat import RepeatableJobs, repeat_job_id
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock

KEY = "report:::60000"
ID = repeat_job_id("report", "", KEY, 0)[:-1]


@pytest.fixture
def repeats(connection: Connection, keys: Keys, clock: FakeClock) -> RepeatableJobs:
    return RepeatableJobs(connection, keys, clock, token="t")


def claimed(opts: dict[str, Any], *, priority: int = 0) -> Job:
    options = JobOptions(repeat=opts.get("repeat"), raw=opts, lifo=opts.get("lifo") is True)
    return Job("1", "report", b'{"to":"a@b.c"}', options, 0, 0, priority, b"[]")


async def test_successor_is_delayed(stage: QueueFixture, repeats: RepeatableJobs, clock: FakeClock) -> None:
    """The next job is written as Bull's add writes it, due at the next slot, and the definition moves on."""
    now = clock.now_ms()
    at = now + 60_000
    await stage.redis.zadd(stage.keys("repeat"), {KEY: now})
    await stage.redis.set(stage.keys("id"), 41)
    await stage.snapshot()
    received = await stage.received()
    await repeats.schedule_next(claimed({"repeat": {"every": 60_000}, "attempts": 3}, priority=5))
    changed = await stage.diff()
    opts = json.loads(changed[f"{ID}{at}"].pop("opts"))
    assert changed == {
        "repeat": {KEY: at},
        "id": "42",
        "delayed": {f"{ID}{at}": at * 4096 + 42},
        f"{ID}{at}": {
            "name": "report",
            "data": '{"to":"a@b.c"}',
            "timestamp": str(now),
            "delay": "60000",
            "priority": "5",
        },
    }
    assert opts == {
        "attempts": 3,
        "repeat": {"every": 60_000, "count": 1, "key": KEY},
        "jobId": f"{ID}{at}",
        "delay": 60_000,
        "timestamp": now,
        "prevMillis": at,
    }
    assert await received.events() == [("delayed", str(at))]


async def test_data_comes_from_the_hash(stage: QueueFixture, repeats: RepeatableJobs, clock: FakeClock) -> None:
    """The successor inherits the data in full, also when it was too long for the worker to read."""
    await stage.redis.zadd(stage.keys("repeat"), {KEY: 0})
    await stage.put("1", "active", data='{"long":"' + "x" * 99 + '"}')
    job = replace(claimed({"repeat": {"every": 60_000}}), data=b"")
    await repeats.schedule_next(job)
    found = await stage.dump()
    assert found[f"{ID}{clock.now_ms() + 60_000}"]["data"] == found["1"]["data"]


async def test_without_any_data_the_successor_is_still_readable(
    stage: QueueFixture, repeats: RepeatableJobs, clock: FakeClock
) -> None:
    """When the hash of the claimed job was removed and its data not returned, the next job has empty data."""
    await stage.redis.zadd(stage.keys("repeat"), {KEY: 0})
    await repeats.schedule_next(replace(claimed({"repeat": {"every": 60_000}}), data=b""))
    assert (await stage.dump())[f"{ID}{clock.now_ms() + 60_000}"]["data"] == "{}"


async def test_second_follower_changes_nothing_but_the_counter(
    stage: QueueFixture, repeats: RepeatableJobs, clock: FakeClock
) -> None:
    """A successor that is there already stays as it is."""
    await stage.redis.zadd(stage.keys("repeat"), {KEY: clock.now_ms()})
    job = claimed({"repeat": {"every": 60_000}})
    await repeats.schedule_next(job)
    clock.advance(0.5)
    await stage.snapshot()
    received = await stage.received()
    await repeats.schedule_next(job)
    assert await stage.diff() == {"id": "2"}
    assert await received.events() == [("duplicated@t", f"{ID}{clock.now_ms() + 59_500}")]


@pytest.mark.parametrize(
    "opts",
    [
        {},
        {"repeat": {"every": 60_000}},
        {"repeat": {"every": 60_000, "limit": 2, "count": 2, "key": "known"}},
        {"repeat": {"every": 60_000, "endDate": 1, "key": "known"}},
    ],
    ids=["not repeatable", "definition removed", "limit reached", "ended"],
)
async def test_nothing_follows(stage: QueueFixture, repeats: RepeatableJobs, opts: dict[str, Any]) -> None:
    """Without a definition in `repeat`, or behind its bounds, nothing is written."""
    await stage.redis.zadd(stage.keys("repeat"), {"known": 1})
    await stage.snapshot()
    await repeats.schedule_next(claimed(opts))
    assert await stage.diff() == {}


async def test_invalid_definition_is_logged(stage: QueueFixture, repeats: RepeatableJobs) -> None:
    """An error in the definition never stops the job: it is a warning with a remedy, and nothing is written."""
    with capture_logs() as logs:
        await repeats.schedule_next(claimed({"repeat": {"cron": "nonsense"}}))
    assert await stage.dump() == {}
    [line] = logs
    assert (line["event"], line["log_level"], line["job_id"]) == ("repeatable_job_stopped", "warning", "1")
    assert "cron" in line["reason"]
    assert line["remedy"]
