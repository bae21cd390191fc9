"""Adding jobs: every key is compared, so that nothing else changes."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import REMOVE, AddResult, Backoff, NewJob
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture

WELCOME = {"type": "welcome", "to": "ada@example.org", "context": {"name": "Zoë 🙂"}}


def stored(now: int, data: str = "{}", priority: int = 0, **opts: object) -> dict[str, str]:
    """The hash of a job after an ordinary add."""
    known = {"attempts": 1, "removeOnComplete": False, "removeOnFail": False, **opts, "delay": 0, "timestamp": now}
    return {
        "name": "welcome",
        "data": data,
        "opts": json.dumps(known, separators=(",", ":")),
        "timestamp": str(now),
        "delay": "0",
        "priority": str(priority),
    }


async def test_add_as_flowstate_does(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """Hash, list, priority and counter are as Bull writes them, and events are published."""
    received = await stage.received()
    backoff = Backoff("exponential", 2000)
    job = NewJob("welcome", WELCOME, priority=5, attempts=4, backoff=backoff, remove_on_complete=REMOVE)
    assert await bull.add(job) == AddResult("1")
    opts = (
        '{"attempts":4,"backoff":{"type":"exponential","delay":2000},"removeOnComplete":true,"removeOnFail":false,'
        f'"priority":5,"delay":0,"timestamp":{now}}}'
    )
    data = json.dumps(WELCOME, separators=(",", ":"), ensure_ascii=False)
    assert await stage.dump() == {
        "id": "1",
        "1": stored(now, data, 5) | {"opts": opts},
        "wait": ["1"],
        "priority": {"1": 5.0},
    }
    assert await received.events() == [("waiting@me/2", "1")]


async def test_add_delayed(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """The score is the due time and the counter's low bits; the smallest due time is announced once."""
    await stage.redis.set(stage.keys("id"), 4095)
    received = await stage.received()
    jobs = [NewJob("welcome", {}, delay_ms=700), NewJob("welcome", {}, delay_ms=500, job_id="mine")]
    assert [added.id for added in await bull.add_many(jobs)] == ["4096", "mine"]
    everything = await stage.dump()
    assert everything["delayed"] == {"4096": (now + 700) * 4096.0, "mine": (now + 500) * 4096.0 + 1}
    assert everything["4096"]["delay"] == "700"
    assert json.loads(everything["mine"]["opts"])["jobId"] == "mine"
    assert set(everything) == {"id", "4096", "mine", "delayed"}
    assert await received.events() == [("delayed", str(now + 500))]


async def test_an_old_timestamp_is_due_at_its_own_time(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """The delay counts from the job's time, not from now."""
    await bull.add(NewJob("welcome", {}, delay_ms=500, timestamp=now - 10_000))
    assert await stage.redis.zscore(stage.keys("delayed"), "1") == (now - 9_500) * 4096 + 1


async def test_add_while_paused(stage: QueueFixture, bull: BullQueue) -> None:
    """Jobs of a paused queue wait in `paused`, in the same order."""
    await stage.redis.set(stage.keys("meta-paused"), 1)
    await bull.add_many([NewJob("a", {}), NewJob("b", {}, priority=3), NewJob("c", {}, lifo=True)])
    everything = await stage.dump()
    assert everything["paused"] == ["1", "2", "3"]
    assert "wait" not in everything


async def test_priorities_stand_as_bull_puts_them(redis: Redis, bull: BullQueue, keys: Keys) -> None:
    """The order of Bull's own list: tail first, small numbers first, first come first served within a number."""
    order = [
        ("n1", 0),
        ("n2", 0),
        ("p10a", 10),
        ("p1a", 1),
        ("p5a", 5),
        ("p1b", 1),
        ("p10b", 10),
        ("n3", 0),
        ("p5b", 5),
    ]
    expected = ["n3", "n2", "n1", "p10b", "p10a", "p5b", "p5a", "p1b", "p1a"]
    for job_id, priority in order:
        await bull.add(NewJob("x", {}, priority=priority, job_id=job_id))
    assert await redis.lrange(keys("wait"), 0, -1) == expected
    await redis.delete(keys("wait"), keys("priority"), *(keys(job_id) for job_id, _ in order))
    await bull.add_many([NewJob("x", {}, priority=priority, job_id=job_id) for job_id, priority in order])
    assert await redis.lrange(keys("wait"), 0, -1) == expected


async def test_an_urgent_job_passes_a_long_line(redis: Redis, bull: BullQueue, keys: Keys) -> None:
    """The same order comes out where the list is long, whichever end is nearer."""
    urgent = [NewJob("x", {}, priority=1, job_id=f"u{n}") for n in range(5)]
    early = [NewJob("x", {}, priority=5, job_id=f"b{n}") for n in range(300)]
    late = [NewJob("x", {}, priority=p, job_id=f"l{p}-{n}") for n in range(3) for p in (1, 4, 5, 9)]
    await bull.add_many([*early, *urgent, NewJob("x", {}, job_id="n"), *late])
    found = (await redis.lrange(keys("wait"), 0, -1))[::-1]
    ones, fives = [job.job_id for job in urgent], [job.job_id for job in early]
    assert found == [
        *ones, "l1-0", "l1-1", "l1-2", "l4-0", "l4-1", "l4-2", *fives, "l5-0", "l5-1", "l5-2",
        "l9-0", "l9-1", "l9-2", "n",
    ]  # fmt: skip


async def test_a_known_id_is_a_duplicate(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """Nothing changes but the counter; the producer gets the same id, and an event is published."""
    assert await bull.add(NewJob("welcome", {"n": 1}, job_id="slot")) == AddResult("slot")
    await stage.snapshot()
    received = await stage.received()
    assert await bull.add(NewJob("welcome", {"n": 2}, job_id="slot")) == AddResult("slot", "duplicated")
    assert await stage.diff() == {"id": "2"}
    assert await received.events() == [("duplicated@me/2", "slot")]


async def test_a_duplicate_within_one_call(redis: Redis, bull: BullQueue, keys: Keys) -> None:
    """The second of two equal ids in one batch is a duplicate."""
    outcomes = [added.outcome for added in await bull.add_many([NewJob("x", {}, job_id="a")] * 2)]
    assert outcomes == ["added", "duplicated"]
    assert await redis.lrange(keys("wait"), 0, -1) == ["a"]


async def test_a_taken_number_is_passed_over(stage: QueueFixture, bull: BullQueue) -> None:
    """A custom id that is a number keeps its job when the counter reaches it; Bull would overwrite it."""
    await bull.add_many([NewJob("x", {"mine": 1}, job_id="3"), NewJob("x", {}), NewJob("x", {})])
    everything = await stage.dump()
    assert everything["wait"] == ["4", "2", "3"]
    assert everything["3"]["data"] == '{"mine":1}'
    assert everything["id"] == "4"


async def test_debounce(stage: QueueFixture, bull: BullQueue, now: int) -> None:
    """The second job with the same debounce id is not stored; its producer gets the first one's id."""
    assert await bull.add(NewJob("welcome", {}, debounce_id="d")) == AddResult("1")
    assert (await stage.dump())["1"] == stored(now, debounce={"id": "d"}) | {"deid": "d"}
    await stage.snapshot()
    received = await stage.received()
    assert await bull.add(NewJob("welcome", {}, debounce_id="d")) == AddResult("1", "debounced")
    assert await stage.diff() == {"id": "2"}
    assert await received.events() == [("debounced@me/2", "1")]
    assert await stage.redis.pttl(stage.keys("de:d")) == -1


async def test_debounce_for_a_time(stage: QueueFixture, bull: BullQueue) -> None:
    """With a time, the debounce outlives its job, and ends by itself."""
    await bull.add(NewJob("welcome", {}, debounce_id="d", debounce_ms=60_000))
    await stage.redis.delete(stage.keys("1"))
    assert await bull.add(NewJob("welcome", {}, debounce_id="d", debounce_ms=60_000)) == AddResult("1", "debounced")
    assert 50_000 < await stage.redis.pttl(stage.keys("de:d")) <= 60_000


async def test_debounce_of_an_obliterated_job(stage: QueueFixture, bull: BullQueue) -> None:
    """`obliterate` leaves debounces behind; without the job, the next one is let in."""
    await stage.redis.set(stage.keys("de:d"), "77")
    assert await bull.add(NewJob("welcome", {}, debounce_id="d")) == AddResult("1")
    assert await stage.redis.get(stage.keys("de:d")) == "1"


async def test_more_jobs_than_a_call_takes(redis: Redis, bull: BullQueue, keys: Keys) -> None:
    """Any number of jobs gets numbers and places in its own order."""
    added = await bull.add_many([NewJob("x", n) for n in range(250)])
    assert [int(each.id) for each in added] == list(range(1, 251))
    found = (await redis.lrange(keys("wait"), 0, -1))[::-1]
    assert found == [each.id for each in added]
    assert all(int(one) + 1 == int(other) for one, other in pairwise(found))
    assert await bull.add_many([]) == []


@pytest.mark.parametrize("data", [None, "", 0, 0.0, False])
async def test_nothing_is_stored_as_an_empty_object(redis: Redis, bull: BullQueue, keys: Keys, data: object) -> None:
    """What JavaScript takes for nothing becomes {}, as in Bull."""
    added = await bull.add(NewJob("x", data))
    assert await redis.hget(keys.job(added.id), "data") == "{}"


@pytest.mark.parametrize(
    "job",
    [
        NewJob("x", {"n": float("nan")}),
        NewJob("x", {"n": 2**53}),
        NewJob("x", "\ud800"),
        NewJob("x", {}, job_id="wait"),
        NewJob("x", {}, job_id="7:lock"),
        NewJob("x", {}, priority=-1),
        NewJob("x", {}, delay_ms=-1),
        NewJob("x", {}, delay_ms=2**50),
        NewJob("x", {}, attempts=0),
        NewJob("x", {}, debounce_id=""),
        NewJob("x", "y" * 2_000_000),
    ],
    ids=lambda job: str(job)[:40],
)
async def test_what_cannot_work_is_refused(stage: QueueFixture, bull: BullQueue, job: NewJob) -> None:
    """A job that no worker could use is refused with its whole call, before anything is written."""
    with pytest.raises(InvalidDataError):
        await bull.add_many([*[NewJob("x", {})] * 100, job])
    assert await stage.dump() == {}
