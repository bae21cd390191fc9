"""The stalled check shared with Bull's workers: what a dead worker left in `active`."""

from __future__ import annotations

import json

import pytest

from flowstate_daemon.database.ledger import Outcome, parse_outcome
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import NewJob, StalledResult
from flowstate_daemon.worker.worker import WorkerOptions
from tests.integration.queue.queue_fixture import QueueFixture


async def stall(stage: QueueFixture, *job_ids: str, **fields: str | int) -> None:
    """Jobs that were active at the last check and have no lock now."""
    for job_id in job_ids:
        await stage.put(job_id, "active", **fields)
    await stage.redis.sadd(stage.keys("stalled"), *job_ids)


async def test_a_stalled_job_goes_back_to_the_front(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """It is counted, put before its equals and announced; the healthy are marked for the next check."""
    await stall(stage, "1", priority=5)
    await stage.put("2", "active", locked=True)
    await stage.redis.sadd(stage.keys("stalled"), "2", "ended")
    await stage.put("3", "active")
    await stage.put("w", "wait", priority=5)
    before = await stage.dump()
    await stage.snapshot()
    received = await stage.received()
    assert await bull.check_stalled(1, 30_000) == StalledResult(("1",), ())
    assert await stage.diff() == {
        "1": before["1"] | {"stalledCounter": "1"},
        "active": ["3", "2"],
        "wait": ["w", "1"],
        "priority": {"w": 5.0, "1": 5.0},
        "stalled": {"2", "3"},
        "stalled-check": str(now),
    }
    assert await received.events() == [("stalled@", "1")]
    assert 29_000 < await stage.redis.pttl(stage.keys("stalled-check")) <= 30_000


async def test_one_check_an_interval(stage: QueueFixture, bull: BullQueue, rival: BullQueue) -> None:
    """Within the interval no other worker checks."""
    await stall(stage, "1")
    await bull.check_stalled(1, 30_000)
    await stall(stage, "2")
    await stage.snapshot()
    assert await rival.check_stalled(1, 30_000) == StalledResult()
    assert await stage.diff() == {}


async def test_job_that_several_outages_have_stalled_is_processed_again(stage: QueueFixture, bull: BullQueue) -> None:
    """Crashes, pauses and failovers are no fault of the job: by default it fails only after ten of them."""
    limit = WorkerOptions().max_stalled_count
    for count in range(10):
        await stage.redis.delete(stage.keys("stalled-check"), stage.keys("wait"))
        await stall(stage, "1", stalledCounter=count)
        assert await bull.check_stalled(limit, 30_000) == StalledResult(("1",), ())
    await stage.redis.delete(stage.keys("stalled-check"), stage.keys("wait"))
    await stall(stage, "1", stalledCounter=10)
    assert await bull.check_stalled(limit, 30_000) == StalledResult((), ("1",))


@pytest.mark.parametrize("code", ['"493027"', "493027", ' "493027"'])
async def test_no_code_stays_in_a_job_that_stalled_too_often(stage: QueueFixture, bull: BullQueue, code: str) -> None:
    """Whoever looks at failed jobs reads none; what else stands there is left as it is."""
    data = f'{{"type":"otp","to":"a@example.org","context":{{"otpCode":{code},"expiresIn":"10 minutes"}}}}'
    await stall(stage, "1", stalledCounter=1, data=data)
    await bull.check_stalled(1, 30_000)
    left = json.loads(await stage.redis.hget(stage.keys("1"), "data") or "")
    assert left["context"] == {"otpCode": "[redacted]", "expiresIn": "10 minutes"}


async def test_an_idle_queue_is_left_alone(stage: QueueFixture, bull: BullQueue) -> None:
    """With nothing active and nothing marked, the check writes nothing: it costs an idle queue one command."""
    await stage.snapshot()
    assert await bull.check_stalled(1, 30_000) == StalledResult()
    assert await stage.diff() == {}


async def test_too_many_stalls(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """The job fails with Bull's words, its attempts untouched, its debounce let go."""
    await stall(stage, "1", stalledCounter=1, attemptsMade=1, deid="d")
    await stage.redis.set(stage.keys("de:d"), "1")
    before = await stage.dump()
    await stage.snapshot()
    received = await stage.received()
    assert await bull.check_stalled(1, 30_000) == StalledResult((), ("1",))
    ending = {
        "stalledCounter": "2",
        "failedReason": "job stalled more than allowable limit",
        "finishedOn": str(now),
    }
    changes = await stage.diff()
    assert changes.pop("flowstate:journal")
    assert changes == {
        "1": before["1"] | ending,
        "active": None,
        "failed": {"1": float(now)},
        "stalled": None,
        "stalled-check": str(now),
        "de:d": None,
    }
    ((channel, event),) = await received.events()
    assert channel == "failed"
    assert json.loads(event) == {"jobId": "1", "val": "job stalled more than maxStalledCount"}


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("true", {"a", "b"}),
        ("0", {"a", "b"}),
        ('"yes"', {"a", "b"}),
        ('{"count":0}', {"a", "b"}),
        ("false", {"a", "b", "1"}),
        ("null", {"a", "b", "1"}),
        ("-1", {"a", "b", "1"}),
        ('""', {"a", "b", "1"}),
        ("{}", {"a", "b", "1"}),
        ("[]", {"a", "b", "1"}),
        ("2", {"b", "1"}),
        ('{"count":"1"}', {"1"}),
        ('{"age":30}', {"b", "1"}),
        ('{"age":true,"count":null}', {"a", "b", "1"}),
    ],
)
async def test_retention_of_the_stalled(
    stage: QueueFixture, bull: BullQueue, now: int, policy: str, kept: set[str]
) -> None:
    """Every form of removeOnFail is honoured; none wipes the whole set or loses the job."""
    await stage.put("a", "failed", at=now - 60_000)
    await stage.put("b", "failed", at=now - 10_000)
    await stall(stage, "1", opts=f'{{"removeOnFail":{policy}}}')
    assert await bull.check_stalled(0, 30_000) == StalledResult((), ("1",))
    everything = await stage.dump()
    assert set(everything["failed"]) == kept
    assert {name for name in everything if len(name) == 1} == kept


async def test_foreign_keys_do_not_stop_the_check(stage: QueueFixture, bull: BullQueue) -> None:
    """Ghosts and keys of other kinds only leave; broken options and counters count as absent."""
    await stall(stage, "1", opts="{oops", stalledCounter="many")
    await stage.redis.rpush(stage.keys("active"), "ghost", "text")
    await stage.redis.sadd(stage.keys("stalled"), "ghost", "text")
    await stage.redis.set(stage.keys("text"), "x")
    assert await bull.check_stalled(0, 30_000) == StalledResult((), ("1",))
    everything = await stage.dump()
    assert "active" not in everything
    assert "ghost" not in everything
    assert everything["1"]["stalledCounter"] == "1"
    assert everything["failed"].keys() == {"1"}


async def test_paused(stage: QueueFixture, bull: BullQueue) -> None:
    """Stalled jobs of a paused queue go to `paused`."""
    await stall(stage, "1")
    await stage.redis.set(stage.keys("meta-paused"), 1)
    await bull.check_stalled(1, 30_000)
    assert (await stage.dump())["paused"] == ["1"]


async def test_a_worker_that_dies(stage: QueueFixture, bull: BullQueue, rival: BullQueue) -> None:
    """Two checks after its lock has run out the job runs again, elsewhere."""
    await bull.add(NewJob("x", {}))
    await rival.claim(1)
    assert await bull.check_stalled(1, 1000) == StalledResult()
    await stage.redis.delete(stage.keys.lock("1"), stage.keys("stalled-check"))
    assert await bull.check_stalled(1, 1000) == StalledResult(("1",), ())
    assert [job.id for job in await bull.claim(1)] == ["1"]


async def test_the_numbers_are_checked(bull: BullQueue) -> None:
    """No negative limits, no empty interval."""
    with pytest.raises(ValueError, match="max_stalled_count"):
        await bull.check_stalled(-1, 30_000)
    with pytest.raises(ValueError, match="interval_ms"):
        await bull.check_stalled(1, 0)


async def written(stage: QueueFixture) -> list[bytes]:
    """The outcomes on their way to the ledger."""
    return [entry.encode() for entry in await stage.redis.lrange(stage.keys("flowstate:journal"), 0, -1)]


async def test_too_many_stalls_are_an_outcome(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """The journal entry is the same as that of a failed run."""
    data = '{"type":"welcome","to":"ada@mail.dev","context":{}}'
    await stall(stage, "1", stalledCounter=1, attemptsMade=2, name="welcome", timestamp=1700000000000, data=data)
    await bull.check_stalled(1, 30_000)
    [entry] = await written(stage)
    assert parse_outcome(entry) == Outcome(
        key=f"{stage.keys.base}1:1700000000000:3",
        at=now,
        job_id="1",
        kind="welcome",
        to="ada@mail.dev",
        attempt=3,
        outcome="failed",
        reason="job stalled more than allowable limit",
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"data": "{"},
        {"data": "[" * 5000},
        {"data": '{"to":["ada@mail.dev"]}'},
        {"data": '{"to":"' + "a" * 400 + '"}'},
        {"data": '{"to":"ada@mail.dev\xff"}'},
        {"data": "null", "attemptsMade": "nan", "timestamp": "inf"},
        {"data": "1", "attemptsMade": "1e300", "timestamp": "-5"},
    ],
)
async def test_hostile_jobs_that_stall_too_often_end_too(
    stage: QueueFixture, bull: BullQueue, fields: dict[str, str]
) -> None:
    """Whatever somebody has put into the job, it fails, and its outcome can be read."""
    await stall(stage, "1", stalledCounter=1, **fields)
    assert await bull.check_stalled(1, 30_000) == StalledResult((), ("1",))
    [entry] = await written(stage)
    assert parse_outcome(entry).outcome == "failed"
