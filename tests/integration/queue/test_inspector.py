"""The inspector: correct, complete, one command a call, and no key changes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.redaction import REDACTED
from flowstate_daemon.queue.inspector import Inspector, Snapshot
from flowstate_daemon.queue.job import State
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import BORN, QueueFixture
from tests.support.redis_flavours import Flavour

STATES: list[State] = ["wait", "active", "delayed", "paused", "completed", "failed"]


@pytest.fixture
def inspector(connection: Connection, keys: Keys) -> Inspector:
    return Inspector(connection, keys)


@pytest.fixture(autouse=True)
async def reads_only(stage: QueueFixture) -> AsyncIterator[None]:
    """Nothing that an inspector does makes a key of its own."""
    yield
    assert not [name for name in await stage.dump() if "flowstate" in name]


async def test_empty_queue(inspector: Inspector) -> None:
    """A queue that was never used is empty."""
    assert await inspector.snapshot() == Snapshot(0, 0, 0, 0, 0, 0, False, None, None, 0, None)
    assert await inspector.job("1") is None
    assert await inspector.state("1") is None
    assert await inspector.logs("1") == []
    for state in STATES:
        assert await inspector.jobs(state) == []


async def test_snapshot(stage: QueueFixture, inspector: Inspector) -> None:
    """Every state is counted, and the next due job and the oldest waiting one are found."""
    for number, state in enumerate(STATES, start=1):
        for i in range(number):
            await stage.put(f"{state}{i}", state, at=BORN + 100 * number + i)
    await stage.redis.set(stage.keys("meta-paused"), 1)
    await stage.snapshot()
    seen = await inspector.snapshot()
    assert seen == Snapshot(1, 2, 3, 4, 5, 6, True, BORN + 100, BORN + 300, 0, None)
    assert await inspector.counts() == seen
    assert await inspector.is_paused() is True
    assert await stage.diff() == {}


@pytest.mark.parametrize("oldest", ["urgent", "middle", "lazy", "none"])
@pytest.mark.parametrize("state", ["wait", "paused"])
async def test_oldest_waiting_whatever_its_priority(
    stage: QueueFixture, inspector: Inspector, oldest: str, state: str
) -> None:
    """The longest waiting job is found behind any number of more urgent ones, also while paused."""
    tail: list[str] = []
    for name, priority in (("urgent", 1), ("middle", 5), ("lazy", 10), ("none", 0)):
        await stage.put(name, state, at=BORN - (name == oldest), priority=priority)
        await stage.put(f"{name}2", state, at=BORN + 5, priority=priority)
        tail = [f"{name}2", name, *tail]
    await stage.redis.delete(stage.keys(state))
    await stage.redis.rpush(stage.keys(state), *tail)
    assert (await inspector.snapshot()).oldest_waiting_ms == BORN - 1


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
async def test_oldest_waiting_whatever_the_unit_of_its_time(
    stage: QueueFixture, inspector: Inspector, unit: str
) -> None:
    """A producer that writes seconds does not make its jobs 57 years old, nor one of nanoseconds its jobs new."""
    added = 1_796_000_000
    text = {"s": f"{added}", "us": f"{added}000000", "ns": f"{added}000000000"}[unit]
    await stage.put("7", "wait", at=BORN)
    await stage.redis.hset(stage.keys.job("7"), "timestamp", text)
    assert (await inspector.snapshot()).oldest_waiting_ms == added * 1000
    job = await inspector.job("7")
    assert job is not None
    assert job.added_ms == (None if unit == "ns" else added * 1000)  # not exact in JavaScript


@pytest.mark.parametrize("time", ["", "0", "-5", "NaN", "Infinity", "1e400", "2026-11-29"])
async def test_job_without_a_time_has_no_age(stage: QueueFixture, inspector: Inspector, time: str) -> None:
    """It is not as old as Unix."""
    await stage.put("7", "wait", at=BORN)
    await stage.redis.hset(stage.keys.job("7"), "timestamp", time)
    assert (await inspector.snapshot()).oldest_waiting_ms is None
    job = await inspector.job("7")
    assert job is not None
    assert job.added_ms is None


async def test_last_added_is_the_newest_of_claimed_and_waiting_jobs(stage: QueueFixture, inspector: Inspector) -> None:
    """Bull's counter finds a job that still waits, for example in a paused queue; a claimed one was remembered."""
    await stage.put("7", "paused", at=BORN)
    await stage.put("8", "delayed", at=BORN + 5)
    assert (await inspector.snapshot()).last_added_ms is None  # no counter: the jobs are not the backend's
    await stage.redis.set(stage.keys("id"), 8)
    assert (await inspector.snapshot()).last_added_ms == BORN + 5
    await stage.redis.set(stage.keys("id"), 9)  # sent and deleted
    assert (await inspector.snapshot()).last_added_ms is None


@pytest.mark.parametrize("wrong", ["noon", "-1", "1e400", ["list"]])
async def test_last_added_is_unknown_for_what_is_no_time(
    stage: QueueFixture, inspector: Inspector, wrong: str | list[str]
) -> None:
    """Neither a wrong counter nor a wrong hash makes a snapshot fail."""
    await stage.put("7", "delayed", at=BORN)
    await stage.redis.hset(stage.keys.job("7"), "timestamp", str(wrong))
    for counter in ("7", wrong):
        await stage.redis.delete(stage.keys("id"))
        if isinstance(counter, list):
            await stage.redis.rpush(stage.keys("id"), *counter)
        else:
            await stage.redis.set(stage.keys("id"), counter)
        assert (await inspector.snapshot()).last_added_ms is None


async def test_snapshot_survives_ghosts(stage: QueueFixture, inspector: Inspector) -> None:
    """An id without a hash, with a wrong key or without a timestamp has no age."""
    await stage.redis.rpush(stage.keys("wait"), "ghost", "wait")
    assert (await inspector.snapshot()).oldest_waiting_ms is None


async def test_snapshot_is_one_command(stage: QueueFixture, inspector: Inspector, redis: Redis) -> None:
    """Hosted Redis bills by the command: a snapshot costs one."""
    await inspector.snapshot()

    async def calls() -> int:
        stats = await redis.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))

    before = await calls()
    await inspector.snapshot()
    assert await calls() == before + 1


@pytest.mark.parametrize("state", STATES)
async def test_one_job(stage: QueueFixture, inspector: Inspector, state: State) -> None:
    """A job is found in whatever state it is, with lock, log and data; looking changes nothing."""
    await stage.put("1", state, data='{"context":{"otpCode":"123456"}}', locked=True, surprise="x")
    await stage.snapshot()
    job = await inspector.job("1")
    assert job is not None
    assert (job.id, job.state, job.locked, job.log_count, job.notes) == ("1", state, True, 2, ())
    assert job.due_at == (BORN if state == "delayed" else None)
    assert job.data == {"context": {"otpCode": "123456"}}
    assert "123456" not in str(job.to_dict())
    assert job.to_dict()["extra_fields"] == {"surprise": REDACTED}
    assert job.to_dict(reveal=True)["extra_fields"] == {"surprise": "x"}
    assert await inspector.state("1") == state
    assert await inspector.logs("1") == ["a", "b"]
    assert await stage.diff() == {}


async def test_stuck_job(stage: QueueFixture, inspector: Inspector) -> None:
    """A hash that is in no list is shown, in no state, as Bull calls it stuck."""
    await stage.redis.hset(stage.keys.job("1"), "name", "otp")
    job = await inspector.job("1")
    assert job is not None
    assert (job.name, job.state) == ("otp", None)
    assert await inspector.state("1") is None


async def test_ghost(stage: QueueFixture, inspector: Inspector) -> None:
    """An id without a hash is shown with a note."""
    await stage.redis.rpush(stage.keys("wait"), "1")
    job = await inspector.job("1")
    assert job is not None
    assert (job.state, job.notes) == ("wait", ("the job has no hash",))
    assert await inspector.jobs("wait") == [job]


@pytest.mark.parametrize("job_id", ["meta", "wait", "limiter:index", "flowstate:x", ""])
async def test_other_keys_are_no_jobs(stage: QueueFixture, inspector: Inspector, job_id: str) -> None:
    """The queue's own keys are never taken for jobs."""
    await stage.redis.hset(stage.keys("meta"), "paused", 1)
    await stage.redis.hset(stage.keys("limiter:index"), "a", "b")
    assert await inspector.job(job_id) is None


@pytest.mark.parametrize("state", STATES)
async def test_pages(stage: QueueFixture, inspector: Inspector, state: State) -> None:
    """Pages are cut and ordered alike for lists and sets, from both ends, also beyond one script's share."""
    names = [f"j{i}" for i in range(450)]
    pipe = stage.redis.pipeline()
    for i, name in enumerate(names):
        pipe.hset(stage.keys.job(name), mapping={"name": "x", "timestamp": BORN + i})
        if state in ("delayed", "completed", "failed"):
            pipe.zadd(stage.keys(state), {name: BORN + i})
        else:
            pipe.lpush(stage.keys(state), name)
    await pipe.execute()

    async def ids(start: int, stop: int, *, newest_first: bool) -> list[str]:
        return [job.id for job in await inspector.jobs(state, start, stop, newest_first=newest_first)]

    newest = names[::-1]
    assert await ids(0, -1, newest_first=True) == newest
    assert await ids(0, -1, newest_first=False) == names
    assert await ids(0, 1, newest_first=True) == newest[:2]
    assert await ids(3, 4, newest_first=False) == names[3:5]
    assert await ids(190, 410, newest_first=False) == names[190:411]
    assert await ids(190, 410, newest_first=True) == newest[190:411]
    assert await ids(440, 900, newest_first=True) == newest[440:]
    assert await ids(450, 460, newest_first=False) == []


async def test_broken_jobs_do_not_hide_others(stage: QueueFixture, inspector: Inspector) -> None:
    """A job with broken JSON is listed like all others."""
    await stage.put("1", "failed", data="{broken", opts="{", stacktrace="?", returnvalue="x", progress="y")
    await stage.put("2", "failed", at=BORN + 1)
    found = await inspector.jobs("failed")
    assert [job.id for job in found] == ["2", "1"]
    assert len(found[1].notes) == 5


async def test_workers(flavour: Flavour, keys: Keys) -> None:
    """Workers are the named connections of this queue, not those of a queue whose name merely begins alike."""
    connection = Connection(flavour.login_url, client_name=keys.client_name)
    inspector = Inspector(connection, keys)
    assert len(await inspector.workers()) == 0
    await connection.execute_blocking("PING")
    other = Connection(flavour.login_url, client_name=f"{keys.client_name}QQ")
    await other.execute_blocking("PING")
    own = Connection(flavour.login_url, client_name=f"{keys.client_name}:vm1/abc")
    await own.execute_blocking("PING")
    names = sorted(worker.name for worker in await inspector.workers())
    assert names == [keys.client_name, f"{keys.client_name}:vm1/abc"]
    for each in (connection, other, own):
        await each.close()


async def test_workers_unknown(redis: Redis, keys: Keys, flavour: Flavour) -> None:
    """A server that refuses CLIENT LIST is no error: the answer is empty and says why."""
    await redis.execute_command(
        "ACL", "SETUSER", "blind", "on", ">pw", "~*", "&*", "+@all", "-client", "+client|setname"
    )
    connection = Connection(flavour.url_for("blind", "pw"), client_name="x")
    found = await Inspector(connection, keys).workers()
    assert len(found) == 0
    assert found.note is not None
    await connection.close()
    await redis.execute_command("ACL", "DELUSER", "blind")
