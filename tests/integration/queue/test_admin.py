"""What an operator does to the queue: every key is compared, so that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.database.ledger import parse_outcome
from flowstate_daemon.queue import audit as audit_module
from flowstate_daemon.queue.admin import BulkResult, JobNotFoundError, JobStateError, PauseResult, QueueAdmin
from flowstate_daemon.queue.audit import AuditLog
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import BORN, QueueFixture
from tests.support.clock import FakeClock

FAILED = {"finishedOn": BORN, "processedOn": BORN, "failedReason": "no", "attemptsMade": 3, "stacktrace": '["no"]'}
BASICS = {"name": "welcome", "data": "{}", "opts": "{}", "timestamp": str(BORN), "delay": "0", "priority": "0"}


async def test_pause(stage: QueueFixture, operator: QueueAdmin) -> None:
    """Pausing moves the waiting jobs aside in their order, marks the queue in both of Bull's ways and says so."""
    await stage.put("1", "wait")
    await stage.put("2", "wait")
    await stage.snapshot()
    received = await stage.received()
    assert await operator.pause() == PauseResult(is_paused=True, changed=True)
    assert await stage.diff() == {
        "wait": None,
        "paused": ["2", "1"],
        "meta-paused": "1",
        "meta": {"paused": "1"},
    }
    assert await received.events() == [("paused", "paused")]


async def test_pause_of_nothing(stage: QueueFixture, operator: QueueAdmin) -> None:
    """An empty queue can be paused, and paused again without a change."""
    assert await operator.pause() == PauseResult(is_paused=True, changed=True)
    await stage.snapshot()
    assert await operator.pause() == PauseResult(is_paused=True, changed=False)
    assert await stage.diff() == {}


async def test_resume(stage: QueueFixture, operator: QueueAdmin) -> None:
    """Resuming is the reverse, and keeps other fields of `meta`."""
    await stage.put("1", "paused")
    await stage.redis.set(stage.keys("meta-paused"), 1)
    await stage.redis.hset(stage.keys("meta"), mapping={"paused": 1, "version": "x"})
    await stage.snapshot()
    received = await stage.received()
    assert await operator.resume() == PauseResult(is_paused=False, changed=True)
    assert await stage.diff() == {
        "wait": ["1"],
        "paused": None,
        "meta-paused": None,
        "meta": {"version": "x"},
    }
    assert await received.events() == [("resumed", "resumed")]
    assert await operator.resume() == PauseResult(is_paused=False, changed=False)


@pytest.mark.parametrize(("verb", "left"), [("pause", "paused"), ("resume", "wait")])
async def test_no_list_is_overwritten(stage: QueueFixture, operator: QueueAdmin, verb: str, left: str) -> None:
    """When both lists hold jobs, they become one: by priority, then those that were paused first, none lost."""
    for job_id, priority in (("l1", 0), ("l5", 5), ("l1b", 1)):
        await stage.put(job_id, "paused", priority=priority)
    for job_id, priority in (("g0", 0), ("g5", 5), ("g10", 10), ("g1", 1)):
        await stage.put(job_id, "wait", priority=priority)
    await stage.redis.delete(stage.keys("paused"), stage.keys("wait"))
    await stage.redis.rpush(stage.keys("paused"), "l1", "l5", "l1b")  # head to tail: the last runs next
    await stage.redis.rpush(stage.keys("wait"), "g0", "g10", "g5", "g1", "l1b")
    await getattr(operator, verb)()
    found = await stage.dump()
    assert {"wait", "paused"} & found.keys() == {left}
    assert found[left] == ["g0", "l1", "g10", "g5", "l5", "g1", "l1b"]


async def test_merging_many(stage: QueueFixture, operator: QueueAdmin) -> None:
    """Lists longer than Lua can unpack at once are merged whole."""
    await stage.redis.rpush(stage.keys("wait"), *(f"w{i}" for i in range(12_000)))
    await stage.redis.rpush(stage.keys("paused"), *(f"p{i}" for i in range(12_000)))
    await operator.resume()
    found = await stage.redis.lrange(stage.keys("wait"), 0, -1)
    assert found == [f"w{i}" for i in range(12_000)] + [f"p{i}" for i in range(12_000)]


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_foreign_key_stops_the_switch(stage: QueueFixture, operator: QueueAdmin, verb: str) -> None:
    """A key of the wrong type is reported and nothing is changed."""
    await stage.put("1", "wait")
    await stage.redis.set(stage.keys("paused"), "x")
    await stage.snapshot()
    with pytest.raises(JobStateError):
        await getattr(operator, verb)()
    assert await stage.diff() == {}


async def test_retry(stage: QueueFixture, operator: QueueAdmin, now: int) -> None:
    """A retried job keeps attempts and stacktrace, loses the marks of its end, and goes behind the waiting ones."""
    await stage.put("1", "failed", **FAILED)
    await stage.put("2", "wait")
    await stage.snapshot()
    received = await stage.received()
    await operator.retry("1")
    kept = {**BASICS, "attemptsMade": "3", "stacktrace": '["no"]', "retriedOn": str(now)}
    assert await stage.diff() == {"failed": None, "wait": ["1", "2"], "1": kept}
    assert await received.events() == [("waiting@t", "1")]


async def test_retry_heeds_priority(stage: QueueFixture, operator: QueueAdmin) -> None:
    """A retried one-time code runs before what is less urgent, behind its equals, and is counted as prioritised."""
    await stage.put("otp", "failed", priority=1, **FAILED)
    for job_id, priority in (("mine", 1), ("other", 5), ("none", 0)):
        await stage.put(job_id, "wait", priority=priority)
    await operator.retry("otp")
    found = await stage.dump()
    assert found["wait"] == ["none", "other", "otp", "mine"]
    assert found["priority"] == {"mine": 1, "other": 5, "otp": 1}


async def test_retry_into_a_paused_queue(stage: QueueFixture, operator: QueueAdmin) -> None:
    """While the queue is paused a retried job goes to the paused ones; `lifo` is heeded."""
    await stage.put("1", "failed", opts='{"lifo":true}', **FAILED)
    await stage.put("2", "paused")
    await stage.redis.set(stage.keys("meta-paused"), 1)
    await operator.retry("1")
    found = await stage.dump()
    assert (found["paused"], "wait" in found) == (["2", "1"], False)


@pytest.mark.parametrize("state", ["wait", "active", "delayed", "paused", "completed"])
async def test_only_failed_jobs_are_retried(stage: QueueFixture, operator: QueueAdmin, state: str) -> None:
    """A job in another state is refused and loses no field."""
    await stage.put("1", state, **FAILED)
    await stage.snapshot()
    with pytest.raises(JobStateError):
        await operator.retry("1")
    assert await stage.diff() == {}


@pytest.mark.parametrize("verb", ["retry", "remove"])
async def test_locked_jobs_are_not_changed(stage: QueueFixture, operator: QueueAdmin, verb: str) -> None:
    """A job that a worker processes can neither be retried nor removed; the reason says until when."""
    await stage.put("1", "failed", locked=True, **FAILED)
    await stage.snapshot()
    with pytest.raises(JobStateError, match="lock"):
        await getattr(operator, verb)("1")
    assert await stage.diff() == {}


@pytest.mark.parametrize("job_id", ["7", "wait", "meta", "1:lock", "1:logs", "flowstate:instance:x", "", "de:x"])
@pytest.mark.parametrize("verb", ["retry", "remove", "promote", "update_data"])
async def test_what_is_no_job_is_not_touched(stage: QueueFixture, operator: QueueAdmin, verb: str, job_id: str) -> None:
    """An unknown id, and the name of any other key of the queue, is reported and changes nothing."""
    await stage.put("1", "wait", locked=True)
    await stage.redis.hset(stage.keys("meta"), "paused", 1)
    await stage.redis.set(stage.keys("de:x"), "1")
    await stage.redis.set(stage.keys.own("instance:x"), "t")
    await stage.snapshot()
    with pytest.raises(JobNotFoundError):
        await getattr(operator, verb)(job_id, *([b"{}"] if verb == "update_data" else []))
    assert await stage.diff() == {}


async def test_retry_all(stage: QueueFixture, operator: QueueAdmin, clock: FakeClock) -> None:
    """All failed jobs are retried, oldest first, in batches; locked ones and ghosts stay and are counted."""
    for i in range(250):
        await stage.put(f"j{i}", "failed", at=BORN + i, **FAILED)
    await stage.redis.set(stage.keys.lock("j3"), "somebody")
    await stage.redis.zadd(stage.keys("failed"), {"ghost": BORN - 1, "later": clock.now_ms() + 1})
    output: list[int] = []
    assert await operator.retry_all(progress=output.append) == BulkResult(done=249, left=2)
    assert output == [100, 200, 249, 249]  # a second pass looks for jobs that the first one missed
    found = await stage.dump()
    assert found["wait"] == [f"j{i}" for i in reversed(range(250)) if i != 3]
    assert set(found["failed"]) == {"ghost", "j3", "later"}


async def test_retry_all_up_to_a_limit(stage: QueueFixture, operator: QueueAdmin) -> None:
    """A limit counts jobs retried, not jobs looked at."""
    await stage.redis.zadd(stage.keys("failed"), {f"ghost{i}": BORN - 1 for i in range(5)})
    for i in range(10):
        await stage.put(f"j{i}", "failed", at=BORN + i, **FAILED)
    assert (await operator.retry_all(limit=4)).done == 4
    assert (await stage.dump())["wait"] == ["j3", "j2", "j1", "j0"]


@pytest.mark.parametrize("state", ["wait", "active", "delayed", "paused", "completed", "failed"])
async def test_remove(stage: QueueFixture, operator: QueueAdmin, state: str) -> None:
    """Removing leaves no trace of the job, wherever it was, and touches no other."""
    await stage.put("2", state, priority=5)
    await stage.snapshot()
    await stage.put("1", state, priority=5, deid="d")
    await stage.redis.set(stage.keys("de:d"), "1")
    await stage.redis.sadd(stage.keys("stalled"), "1")
    await stage.redis.hset(stage.keys("limiter:index"), "1", stage.keys("limiter:limited"))
    await stage.redis.sadd(stage.keys("limiter:limited"), "1")
    await operator.remove("1")
    changed = await stage.diff()
    outcomes = [parse_outcome(entry.encode()) for entry in changed.pop("flowstate:journal", [])]
    assert changed == {}
    expected = [] if state == "completed" else [("1", "welcome", "removed", "removed by an operator")]
    assert [(one.job_id, one.kind, one.outcome, one.reason) for one in outcomes] == expected


async def test_remove_spares_anothers_debounce(stage: QueueFixture, operator: QueueAdmin) -> None:
    """A debounce that a later job holds stays."""
    await stage.put("1", "completed", deid="d")
    await stage.redis.set(stage.keys("de:d"), "2")
    await operator.remove("1")
    assert await stage.dump() == {"de:d": "2"}


async def test_remove_of_a_ghost(stage: QueueFixture, operator: QueueAdmin) -> None:
    """An id in a list without a hash can be removed too."""
    await stage.redis.rpush(stage.keys("wait"), "1", "2")
    await operator.remove("1")
    assert await stage.dump() == {"wait": ["2"]}


async def test_promote(stage: QueueFixture, operator: QueueAdmin) -> None:
    """A promoted job waits according to its priority and is delayed no more."""
    await stage.put("1", "delayed", at=BORN, priority=1, delay=5000)
    await stage.put("2", "delayed", at=BORN + 9)
    await stage.put("3", "wait", priority=5)
    await stage.snapshot()
    received = await stage.received()
    await operator.promote("1")
    assert await stage.diff() == {
        "delayed": {"2": (BORN + 9) * 4096},
        "wait": ["3", "1"],
        "priority": {"1": 1, "3": 5},
        "1": {**BASICS, "priority": "1"},
    }
    assert await received.events() == [("waiting@t", "1")]


@pytest.mark.parametrize("state", ["wait", "active", "paused", "completed", "failed"])
async def test_only_delayed_jobs_are_promoted(stage: QueueFixture, operator: QueueAdmin, state: str) -> None:
    """A job in another state is refused and stays as it is."""
    await stage.put("1", state)
    await stage.snapshot()
    with pytest.raises(JobStateError):
        await operator.promote("1")
    assert await stage.diff() == {}


async def test_promote_all(stage: QueueFixture, operator: QueueAdmin) -> None:
    """All delayed jobs wait, in the order of their dues; ids without a hash are dropped."""
    for i in range(150):
        await stage.put(f"j{i}", "delayed", at=BORN + i, delay=9)
    await stage.redis.zadd(stage.keys("delayed"), {"ghost": 1})
    output: list[int] = []
    assert await operator.promote_all(output.append) == BulkResult(done=150, left=0)
    found = await stage.dump()
    assert found["wait"] == [f"j{i}" for i in reversed(range(150))]
    assert "delayed" not in found
    assert found["j7"]["delay"] == "0"
    assert output[-1] == 150


async def test_update_data(stage: QueueFixture, operator: QueueAdmin) -> None:
    """New data replaces the old, byte for byte; what is not JSON is refused before."""
    await stage.put("1", "failed", **FAILED)
    await stage.snapshot()
    with pytest.raises(InvalidDataError):
        await operator.update_data("1", b"{")
    assert await stage.diff() == {}
    await operator.update_data("1", '{"to": "é"}'.encode())
    changed: dict[str, Any] = await stage.diff()
    assert list(changed) == ["1"]
    assert changed["1"]["data"] == '{"to": "é"}'


MAYBE_SENT = {
    "parked": {"failedReason": "parked: the request that contained this email is no longer known, and more"},
    "marked": {"maybeSent": 1},
    "expired": {"storedRequest": "gone"},
}


async def test_retry_all_leaves_out_what_may_have_been_sent(stage: QueueFixture, operator: QueueAdmin) -> None:
    """Set aside, now or by an older version, or failed with a request that has expired since."""
    for job_id, fields in MAYBE_SENT.items():
        await stage.put(job_id, "failed", **{**FAILED, **fields})
    await stage.redis.hset(stage.keys.own("request:kept"), "body", "x")
    await stage.put("stored", "failed", **FAILED, storedRequest="kept")
    await stage.put("plain", "failed", **FAILED)
    assert await operator.retry_all() == BulkResult(done=2, left=3, maybe_sent=3)
    found = await stage.dump()
    assert set(found["wait"]) == {"plain", "stored"}
    assert set(found["failed"]) == set(MAYBE_SENT)
    assert await operator.retry_all(limit=1) == BulkResult(done=0, left=3, maybe_sent=3)


async def test_what_may_have_been_sent_is_retried_when_asked_for(stage: QueueFixture, operator: QueueAdmin) -> None:
    """By its id, or with all others; nothing of the mark stays."""
    for job_id, fields in MAYBE_SENT.items():
        await stage.put(job_id, "failed", **{**FAILED, **fields})
    await operator.retry("marked")
    assert await operator.retry_all(maybe_sent=True) == BulkResult(done=2, left=0)
    found = await stage.dump()
    assert set(found["wait"]) == set(MAYBE_SENT)
    for job_id in MAYBE_SENT:
        assert not {"maybeSent", "failedReason", "storedRequest"} & set(found[job_id])


async def test_every_action_leaves_a_trace(
    stage: QueueFixture, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """Who, what, how many, when; an action that was refused leaves none."""
    audit = AuditLog(connection, keys, clock, actor="ada on vm-1")
    operator = QueueAdmin(connection, keys, clock, token="t", audit=audit)
    for job_id in ("1", "2", "3"):
        await stage.put(job_id, "failed", **FAILED)
    for job_id in ("4", "5"):
        await stage.put(job_id, "delayed")
    await operator.pause()
    await operator.resume()
    await operator.resume()
    await operator.retry("1")
    await operator.retry_all()
    await operator.promote("4")
    await operator.promote_all()
    await operator.update_data("5", b"{}")
    await operator.remove("5")
    await operator.clean("wait", 0)
    with pytest.raises(JobNotFoundError):
        await operator.remove("no such job")
    actions = list(reversed(await audit.newest(100)))
    assert {(one.at, one.actor) for one in actions} == {(clock.now_ms(), "ada on vm-1")}
    assert [(one.action, one.target, one.count) for one in actions] == [
        ("queue pause", "queue", 1),
        ("queue resume", "queue", 1),
        ("queue resume", "queue", 0),
        ("queue retry", "job 1", 1),
        ("queue retry", "all failed jobs", 2),
        ("queue promote", "job 4", 1),
        ("queue promote", "all delayed jobs", 1),
        ("queue update", "job 5", 1),
        ("queue remove", "job 5", 1),
        ("queue clean", "wait jobs older than 0 s", 4),
    ]
    entries = await stage.redis.lrange(keys.own("journal"), 0, -1)
    assert {parse_outcome(entry.encode()).reason for entry in entries} == {"removed by ada on vm-1"}


async def test_interrupted_action_records_what_was_done(
    stage: QueueFixture, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """Ctrl-C after the first hundred jobs."""
    audit = AuditLog(connection, keys, clock, actor="ada on vm-1")
    operator = QueueAdmin(connection, keys, clock, token="t", audit=audit)
    for number in range(150):
        await stage.put(str(number), "failed", **FAILED)

    def interrupt(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await operator.retry_all(progress=interrupt)
    assert [one.count for one in await audit.newest(10)] == [100]


async def test_trace_is_bounded_and_skips_what_is_foreign(
    connection: Connection, keys: Keys, clock: FakeClock, stage: QueueFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest entries stay; one that another program wrote is not shown."""
    monkeypatch.setattr(audit_module, "MAX_ENTRIES", 3)
    audit = AuditLog(connection, keys, clock, actor="ada on vm-1")
    await stage.redis.rpush(keys.own("audit"), "nonsense")
    for number in range(2):
        await audit.record("queue retry", f"job {number}", 1)
    assert [one.target for one in await audit.newest(10)] == ["job 1", "job 0"]
    await audit.record("queue retry", "job 2", 1)
    assert await stage.redis.llen(keys.own("audit")) == 3
