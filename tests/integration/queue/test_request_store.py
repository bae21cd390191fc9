"""Stored requests: saved completely or not at all, the same bytes for every process, deleted with their last job."""

from __future__ import annotations

import asyncio
import json
import zlib
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.dev.embedded import EmbeddedValkey
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Job, JobRetried, JobSucceeded, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.batch import encode_results
from flowstate_daemon.sending.request_store import COMPRESS_OFF_THREAD_BYTES, TTL_MS, RequestStore
from flowstate_daemon.sending.stored_request import JobRef, StoredRequest
from tests.integration.queue.queue_fixture import BORN, QueueFixture
from tests.integration.queue.stored_requests import BODY, bound, left, take, template
from tests.support.clock import FakeClock


def detached(request_ids: str, jobs: list[Job]) -> dict[JobRef, list[str]]:
    """What a run tells that has detached the jobs from these requests."""
    return {(job.id, job.timestamp): request_ids.split() for job in jobs}


async def test_save_and_load(stage: QueueFixture, bull: BullQueue, request_store: RequestStore, now: int) -> None:
    """Bytes, key and members are written with a time to live, each member is bound, nothing else changes."""
    jobs = await take(stage, bull, "1", 'b"é')
    before = await stage.dump()
    await stage.snapshot()
    stored = template(jobs)
    assert await request_store.save(stored) == set()
    changed = await stage.diff()
    written = changed.pop("flowstate:request:e1")
    assert written.pop("body")
    assert written == {
        "key": "key-1",
        "path": "/emails/batch",
        "members": json.dumps([["1", BORN], ['b"é', BORN]], separators=(",", ":"), ensure_ascii=False),
        "numbers": "[1,1]",
        "saved_at": str(now),
        "left": "2",
    }
    assert changed == {job.id: before[job.id] | {"storedRequest": "e1", "requests": "1"} for job in jobs}
    assert TTL_MS - 5_000 < await stage.redis.pttl(stage.keys.own("request:e1")) <= TTL_MS
    opened = await request_store.load("e1")
    assert opened == StoredRequest("e1", "/emails/batch", BODY, "key-1", stored.members, None, now, (1, 1))
    assert '"to"' not in repr(opened)
    assert await request_store.load("e2") is None


@pytest.mark.parametrize("what", ["lost", "taken", "gone", "other", "text"])
async def test_nothing_is_saved_for_a_lost_job(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore, what: str
) -> None:
    """If one member is not ours any more, its id comes back and not a single key has changed."""
    jobs = await take(stage, bull, "1", "2", "3")
    await stage.make_foreign("2", what)
    await stage.snapshot()
    assert await request_store.save(template(jobs)) == {"2"}
    assert await stage.diff() == {}
    assert await request_store.save(template([jobs[0], jobs[2]])) == set()
    assert await left(stage) == "2"


async def test_a_job_is_in_one_request_at_a_time(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore
) -> None:
    """A failover may give a job back to its own worker, whose earlier run is still trying to save a request.

    A run may have detached it from several requests, and Redis may have lost that.
    """
    jobs = await take(stage, bull, "1", "2", "3")
    assert await request_store.save(template(jobs[:2], eid="later")) == set()
    await stage.snapshot()
    for numbers in [(1, 1, 1), (9, 9, 9)]:  # Redis may have lost the number of either run
        earlier = replace(template(jobs, eid="earlier"), numbers=numbers)
        assert await request_store.save(earlier) == {"1", "2"}
        assert await request_store.save(earlier, detached("other", jobs)) == {"1", "2"}
        assert await request_store.save(earlier, detached("later", jobs[:1])) == {"2"}
    assert await stage.diff() == {}
    assert await request_store.save(template(jobs[:2], eid="later")) == set()  # its own reply may have been lost
    following = replace(template(jobs, eid="next"), numbers=(2, 2, 1))
    assert await request_store.save(following, detached("first later", jobs)) == set()
    assert await bound(stage, "1", "2", "3") == ["next"] * 3
    for job in jobs:
        await stage.redis.hset(stage.keys.job(job.id), "storedRequest", "")  # as if there were none, as at a claim
    assert await request_store.save(template(jobs)) == set()


async def test_save_again_replaces_the_request(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore
) -> None:
    """The same id again replaces all of it, an old answer too."""
    jobs = await take(stage, bull, "1", "2")
    await request_store.save(template(jobs))
    await request_store.save_response("e1", b"{}")
    await request_store.save(template(jobs[:1], body=b"x"))
    opened = await request_store.load("e1")
    assert opened is not None
    assert (opened.body, opened.response, opened.members) == (b"x", None, (("1", BORN),))


async def test_odd_timestamps_are_the_same_job(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore
) -> None:
    """What a careless producer wrote as time does not keep a job from being sent."""
    for job_id, stamp in [("1", "1772000000000.5"), ("2", "soon"), ("3", "")]:
        await stage.put(job_id, "wait")
        await stage.redis.hset(stage.keys(job_id), "timestamp", stamp)
    assert await request_store.save(template(await bull.claim(3))) == set()


@pytest.mark.parametrize("count", [0, 101])
async def test_the_number_is_checked(request_store: RequestStore, count: int) -> None:
    """Between 1 and 100 emails a request."""
    members = tuple((str(number), BORN) for number in range(count))
    with pytest.raises(ValueError, match="between 1 and 100"):
        await request_store.save(StoredRequest("e1", "/emails", b"", "k", members))


async def test_an_answer_is_kept(stage: QueueFixture, bull: BullQueue, request_store: RequestStore) -> None:
    """The next load returns it; saving a response creates no request."""
    await request_store.save(template(await take(stage, bull, "1")))
    response = encode_results([Accepted("id", "resend")])
    assert await request_store.save_response("e1", response) is True
    opened = await request_store.load("e1")
    assert opened is not None
    assert opened.response == response
    await stage.snapshot()
    assert await request_store.save_response("e2", b"{}") is False
    assert await stage.diff() == {}


async def test_detach(stage: QueueFixture, bull: BullQueue, request_store: RequestStore) -> None:
    """Rejected jobs are detached, the others keep the request; a repeated call changes nothing; the last deletes it."""
    jobs = await take(stage, bull, "1", "2", "3")
    await request_store.save(template(jobs))
    before = await stage.dump()
    await stage.snapshot()
    assert await request_store.detach("e1", ["1"]) is True
    one = {name: value for name, value in before["1"].items() if name != "storedRequest"}
    assert await stage.diff() == {
        "1": one,
        "flowstate:request:e1": before["flowstate:request:e1"] | {"left": "2"},
    }
    assert await request_store.detach("e1", ["1"]) is True
    assert await request_store.detach("e1", []) is True
    assert await left(stage) == "2"
    assert await request_store.detach("e1", ["2", "3"]) is True
    assert await bound(stage, "1", "2", "3") == [None] * 3
    assert await left(stage) is None


async def test_detach_keeps_references_to_other_requests(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore
) -> None:
    """A job that is in another request by now stays there."""
    jobs = await take(stage, bull, "1", "2")
    await request_store.save(template(jobs))
    assert await request_store.save(template(jobs[:1], eid="e2"), detached("e1", jobs)) == set()
    assert await request_store.detach("e1", ["1", "2"]) is True
    assert await bound(stage, "1", "2") == ["e2", None]
    assert (await left(stage), await left(stage, "e2")) == ("1", "1")


@pytest.mark.parametrize("holder", [None, "you/1"])
async def test_detach_requires_all_locks(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore, holder: str | None
) -> None:
    """If another worker may hold one of them, nothing is detached: it may send the stored bytes."""
    await request_store.save(template(await take(stage, bull, "1", "2")))
    await stage.redis.delete(stage.keys.lock("2"))
    if holder:
        await stage.redis.set(stage.keys.lock("2"), holder)
    await stage.snapshot()
    assert await request_store.detach("e1", ["1", "2"]) is False
    assert await stage.diff() == {}


async def test_detach_of_an_aborted_run(stage: QueueFixture, bull: BullQueue, request_store: RequestStore) -> None:
    """If this worker has claimed the job again, its new run may send the request."""
    await request_store.save(template(await take(stage, bull, "1", "2")))
    await stage.snapshot()
    assert await request_store.detach("e1", ["1", "2"], {"2"}) is False
    assert await stage.diff() == {}
    assert await request_store.detach("e1", ["1", "2"]) is True
    assert await request_store.detach("e1", ["1", "2"], {"2"}) is True  # the reply was lost
    assert await bound(stage, "1", "2") == [None, None]


@pytest.mark.parametrize("field", ["body", "members", "saved_at", "path"])
async def test_what_cannot_be_read_is_none(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore, field: str
) -> None:
    """A damaged request is treated as missing: its jobs are parked, no daemon crashes."""
    await request_store.save(template(await take(stage, bull, "1")))
    key = stage.keys.own("request:e1")
    if field == "path":
        await stage.redis.hdel(key, field)
    else:
        await stage.redis.hset(key, field, "oops")
    assert await request_store.load("e1") is None


async def test_two_workers_never_save_one_job_twice(
    connection: Connection, elsewhere: Connection, stage: QueueFixture, keys: Keys, clock: FakeClock
) -> None:
    """While locks change holders at random, no request is saved with a job that another worker has locked."""
    random = Random(3)
    bull = BullQueue(connection, keys, clock, token="me/2")
    await bull.add_many([NewJob("x", {}) for _ in range(40)])
    jobs = await bull.claim(40)
    hands = {"me/2": connection, "you/1": elsewhere}
    stored: dict[str, list[tuple[str, ...]]] = {token: [] for token in hands}
    anywhere = detached(" ".join(f"{name}{turn}" for name in "my" for turn in range(30)), jobs)

    async def steal() -> None:
        for _ in range(60):
            await stage.redis.set(keys.lock(random.choice(jobs).id), random.choice(list(hands)))

    async def work(token: str, mine: Connection) -> None:
        request_store = RequestStore(mine, keys, clock, token=token)
        for turn in range(30):
            some = random.sample(jobs, 5)
            while some and (lost := await request_store.save(template(some, f"{token[0]}{turn}"), anywhere)):
                some = [job for job in some if job.id not in lost]
            stored[token].append(tuple(job.id for job in some))

    await asyncio.gather(steal(), *(work(token, mine) for token, mine in hands.items()))
    for token in hands:
        assert any(stored[token])
        for turn, ids in enumerate(stored[token]):
            assert await left(stage, f"{token[0]}{turn}") == (str(len(ids)) if ids else None)
    # From here on no lock changes: a worker can save exactly the jobs whose locks it holds.
    for token, mine in hands.items():
        request_store = RequestStore(mine, keys, clock, token=token)
        other = {job.id for job in jobs if await stage.redis.get(keys.lock(job.id)) != token}
        assert await request_store.save(template(jobs), anywhere) == other


async def test_a_restart_of_redis(keys: Keys, clock: FakeClock) -> None:
    """After kill -9 of an append-only server the request, its response and the references still exist."""
    async with EmbeddedValkey(appendonly=True) as daemon:
        connection = Connection(daemon.url, client_name="x")
        bull = BullQueue(connection, keys, clock, token="me/2")
        request_store = RequestStore(connection, keys, clock, token="me/2")
        await bull.add_many([NewJob("x", {}, attempts=3) for _ in range(3)])
        jobs = await bull.claim(3)
        stored = template(jobs, body=_noise(100_000))
        await request_store.save(stored)
        response = encode_results([Accepted(str(number), "resend") for number in range(3)])
        await request_store.save_response("e1", response)
        await daemon.kill()
        await daemon.start()
        opened: Any = None
        async with asyncio.timeout(10):
            while opened is None:
                opened = await _load_if_reachable(request_store)
        assert opened == StoredRequest(
            "e1", stored.path, stored.body, stored.key, stored.members, response, clock.now_ms(), (1, 1, 1)
        )
        await bull.retry([JobRetried(job, "no", b"[]") for job in jobs])
        assert [job.stored_request_id for job in await bull.claim(3)] == ["e1"] * 3
        await bull.complete([JobSucceeded(job) for job in jobs])
        assert await request_store.load("e1") is None
        await connection.close()


@pytest.mark.parametrize("repeats", [1, 1 + COMPRESS_OFF_THREAD_BYTES // 1_000_000])
async def test_a_long_body(stage: QueueFixture, bull: BullQueue, request_store: RequestStore, repeats: int) -> None:
    """Megabytes of similar emails are compressed, and loaded with the same bytes; earlier versions can read them."""
    body = b"[" + b",".join(_mail(number) for number in range(100)) * repeats + b"]"
    jobs = await take(stage, bull, *(str(number) for number in range(1, 101)))
    await request_store.save(template(jobs, body=body))
    stored = await request_store._connection.execute("HGET", stage.keys.own("request:e1"), "body")
    opened = await request_store.load("e1")
    assert opened is not None
    assert opened.body == body
    assert len(stored) < len(body) / 5
    assert zlib.decompress(stored) == body


async def test_a_body_of_an_earlier_version(stage: QueueFixture, bull: BullQueue, request_store: RequestStore) -> None:
    """Which compressed with another library."""
    await request_store.save(template(await take(stage, bull, "1")))
    await stage.redis.hset(stage.keys.own("request:e1"), "body", zlib.compress(b"{}", 3))
    opened = await request_store.load("e1")
    assert opened is not None
    assert opened.body == b"{}"


def _mail(number: int) -> bytes:
    text = Random(0).choices(["focus", "rappel", "<td style='padding:8px'>", "tâche", "</td>", "semaine"], k=700)
    return json.dumps({"to": f"{number}@example.test", "html": f"{number} " + " ".join(text)}).encode()


def _noise(size: int) -> bytes:
    return Random(5).randbytes(size)


async def _load_if_reachable(request_store: RequestStore) -> StoredRequest | None:
    """The request, once the server replies again."""
    try:
        return await request_store.load("e1")
    except StoreUnavailableError:
        return None


async def test_numbers_are_stored_and_taken_back(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore
) -> None:
    """Each job counts the requests that contain it; a request that was never sent takes its numbers back."""
    jobs = await take(stage, bull, "1", "2")
    assert await request_store.save(replace(template(jobs), numbers=(3, 7))) == set()
    assert [await stage.redis.hget(stage.keys(job.id), "requests") for job in jobs] == ["3", "7"]
    opened = await request_store.load("e1")
    assert opened is not None
    assert [opened.number_of(job) for job in [*opened.members, ("9", BORN)]] == [3, 7, None]
    assert await request_store.withdraw(opened, {opened.members[0]: 2, opened.members[1]: 7}) == set()
    assert [await stage.redis.hget(stage.keys(job.id), "requests") for job in jobs] == ["2", "7"]
    await bull.release(jobs)
    assert [job.requests for job in await bull.claim(2)] == [2, 7]


async def test_withdrawn_request_is_gone(stage: QueueFixture, bull: BullQueue, request_store: RequestStore) -> None:
    """Its jobs are as before it was saved; a repeated call changes nothing more."""
    jobs = await take(stage, bull, "1", "2")
    await stage.snapshot()
    stored = template(jobs)
    await request_store.save(stored)
    for _ in range(2):
        assert await request_store.withdraw(stored, dict.fromkeys(stored.members, 0)) == set()
        assert await request_store.is_withdrawn("e1")
    changed = await stage.diff()
    del changed["flowstate:withdrawn:e1"]
    assert {name: value["requests"] for name, value in changed.items()} == {"1": "0", "2": "0"}
    assert await bound(stage, "1", "2") == [None, None]


@pytest.mark.parametrize("holder", [None, "you/1", "me/2"])
async def test_request_that_another_worker_may_send_is_kept(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore, holder: str | None
) -> None:
    """Also if this worker has lost the job, and claimed it again: only the mark is written."""
    stored = template(await take(stage, bull, "1", "2"))
    await request_store.save(stored)
    await stage.redis.delete(stage.keys.lock("2"))
    if holder:
        await stage.redis.set(stage.keys.lock("2"), holder)
    await stage.snapshot()
    assert await request_store.withdraw(stored, {stored.members[0]: 0}) is None
    assert set(await stage.diff()) == {"flowstate:withdrawn:e1"}


@pytest.mark.parametrize("holder", [None, "you/1"])
async def test_request_is_withdrawn_although_redis_has_lost_a_claim(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore, holder: str | None
) -> None:
    """A job that does not refer to the request is left as it is, whoever has it."""
    stored = template(await take(stage, bull, "1", "2", "3"))
    await request_store.save(stored)
    await stage.redis.hdel(stage.keys("2"), "storedRequest")
    await stage.redis.delete(stage.keys.lock("2"))
    if holder:
        await stage.redis.set(stage.keys.lock("2"), holder)
    await stage.redis.delete(stage.keys("3"), stage.keys.lock("3"))
    before = await stage.dump()
    assert await request_store.withdraw(stored, dict.fromkeys(stored.members, 0)) == {"2", "3"}
    after = await stage.dump()
    assert after["2"] == before["2"]
    assert "3" not in after
    assert await bound(stage, "1") == [None]
    assert await left(stage) is None


async def test_adopt_binds_a_job_again(stage: QueueFixture, bull: BullQueue, request_store: RequestStore) -> None:
    """The request is saved again with the rest of its time to live, and deleted with its last bound job."""
    jobs = await take(stage, bull, "1", "2")
    stored = replace(template(jobs), numbers=(1, 1), saved_at=request_store._clock.now_ms() - 1_000_000)
    await stage.snapshot()
    assert await request_store.adopt(stored, jobs[0], 1) is True
    changed = await stage.diff()
    request = changed.pop("flowstate:request:e1")
    assert (request["left"], request["key"], request["numbers"]) == ("1", "key-1", "[1,1]")
    assert set(changed) == {"1"}
    assert changed["1"]["storedRequest"] == "e1"
    assert changed["1"]["requests"] == "1"
    assert await stage.redis.pttl(stage.keys.own("request:e1")) <= TTL_MS - 1_000_000
    assert await request_store.adopt(stored, jobs[0], 1) is True
    assert await left(stage) == "1"
    assert await request_store.adopt(stored, jobs[1], 1) is True
    assert await left(stage) == "2"
    opened = await request_store.load("e1")
    assert opened == stored
    await bull.complete([JobSucceeded(job) for job in jobs])
    assert await request_store.load("e1") is None


@pytest.mark.parametrize("what", ["lost", "taken", "gone"])
async def test_job_of_another_worker_is_not_adopted(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore, what: str
) -> None:
    """Nothing is written."""
    (job,) = await take(stage, bull, "1")
    await stage.make_foreign("1", what)
    await stage.snapshot()
    assert await request_store.adopt(replace(template([job]), numbers=(1,)), job, 1) is False
    assert await stage.diff() == {}


async def test_lost_request_is_found_in_memory(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore
) -> None:
    """With its bytes, later with its response instead; another process does not find it."""
    jobs = await take(stage, bull, "1", "2")
    await request_store.save(template(jobs))
    await stage.redis.delete(stage.keys.own("request:e1"))
    found = await request_store.find("e1")
    assert found is not None
    assert (found.body, found.key, found.numbers) == (BODY, "key-1", (1, 1))
    request_store.recent.settle("e1", b"[1]")
    found = await request_store.find("e1")
    assert found is not None
    assert (found.body, found.response) == (b"", b"[1]")
    assert await request_store.load("e1") is None
    assert await request_store.find("e2") is None
