"""Stored requests whose jobs finish: each job is counted once, a retry keeps the request, an expired one is dropped."""

from __future__ import annotations

import asyncio

from flowstate_daemon.queue.admin import QueueAdmin
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import JobFailed, JobRetried, JobSucceeded, NewJob, WriteResult
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.request_store import RequestStore
from tests.integration.queue.queue_fixture import QueueFixture
from tests.integration.queue.stored_requests import bound, left, take, template
from tests.support.clock import FakeClock


async def test_the_last_member_takes_it_along(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore
) -> None:
    """Completed jobs are counted in the call that completes them; retried and failed ones keep their request."""
    first, second, third, fourth = await take(stage, bull, "1", "2", "3", "4", opts='{"attempts":3}')
    await request_store.save(template([first, second, third, fourth]))
    assert await bull.complete([JobSucceeded(first), JobSucceeded(second), JobSucceeded(second)]) == [
        WriteResult.OK,
        WriteResult.OK,
        WriteResult.NOT_ACTIVE,
    ]
    assert await left(stage) == "2"
    await bull.complete([JobSucceeded(first)])
    await bull.retry([JobRetried(third, "no", b"[]")])
    await bull.fail([JobFailed(fourth, "no", b"[]")])
    assert await left(stage) == "2"
    assert await bound(stage, "3", "4") == ["e1", "e1"]
    (again,) = await bull.claim(1)
    assert (again.id, again.stored_request_id) == ("3", "e1")
    await bull.complete([JobSucceeded(again)])
    assert await left(stage) == "1"
    await stage.redis.lpush(stage.keys("active"), "4")
    await stage.redis.set(stage.keys.lock("4"), "me/2")
    await bull.complete([JobSucceeded(fourth)])
    assert not [name for name in await stage.dump() if "storedRequest" in name]


async def test_a_failed_job_that_is_not_kept(stage: QueueFixture, bull: BullQueue, request_store: RequestStore) -> None:
    """It cannot be retried, so its reference to the request is counted down."""
    jobs = await take(stage, bull, "1", "2", opts='{"removeOnFail":true}')
    await request_store.save(template(jobs))
    await bull.fail([JobFailed(jobs[0], "no", b"[]")])
    assert await left(stage) == "1"
    await bull.fail([JobFailed(jobs[1], "no", b"[]")])
    assert (await stage.dump()).keys() == {"flowstate:last-added"}


async def test_a_parked_job_is_free(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore, operator: QueueAdmin
) -> None:
    """A failed job is retried with its stored request; without one, it is sent in a new request."""
    parked, kept = await take(stage, bull, "1", "2")
    await request_store.save(template([parked]))
    await request_store.save(template([kept], eid="e2"))
    await stage.redis.delete(stage.keys.own("request:e1"))
    await bull.fail([JobFailed(job, "no", b"[]") for job in (parked, kept)])
    assert await bound(stage, "1", "2") == [None, "e2"]
    await operator.retry("2")
    assert [job.stored_request_id for job in await bull.claim(5)] == ["e2"]


async def test_a_job_that_may_have_been_sent_is_free_for_a_new_request(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore, operator: QueueAdmin
) -> None:
    """It counts all requests that contained it, known to Redis or not; a retry of all leaves it out."""
    bound_job, free = await take(stage, bull, "1", "2")
    await request_store.save(template([bound_job]))
    await bull.fail([JobFailed(job, "parked: …", b"[]", requests=3) for job in (bound_job, free)])
    assert await bound(stage, "1", "2") == [None, None]
    assert await request_store.load("e1") is None
    assert (await operator.retry_all()).maybe_sent == 2
    await operator.retry_all(maybe_sent=True)
    assert [job.requests for job in await bull.claim(5)] == [3, 3]


async def test_a_stored_request_that_expired_before_the_retry(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore, operator: QueueAdmin
) -> None:
    """A person who retries a failed job a day later wants it sent, not parked again."""
    jobs = await take(stage, bull, "1", "2")
    await request_store.save(template(jobs))
    await bull.fail([JobFailed(job, "no", b"[]") for job in jobs])
    await stage.redis.delete(stage.keys.own("request:e1"))
    await operator.retry("1")
    await operator.retry_all(maybe_sent=True)
    assert [job.stored_request_id for job in await bull.claim(5)] == [None, None]


async def test_new_data_is_sent_afresh(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore, operator: QueueAdmin
) -> None:
    """After the data of a job was changed, the stored bytes are not used for it."""
    (job,) = await take(stage, bull, "1", opts='{"attempts":3}')
    await request_store.save(template([job]))
    await bull.retry([JobRetried(job, "no", b"[]")])
    await operator.update_data("1", b'{"a":1}')
    assert [job.stored_request_id for job in await bull.claim(1)] == [None]


async def test_foreign_keys_under_the_name_of_a_stored_request(
    stage: QueueFixture, bull: BullQueue, request_store: RequestStore
) -> None:
    """A key of another kind, or a count that is none, does not stop an ending."""
    jobs = await take(stage, bull, "1", "2")
    await stage.redis.hset(stage.keys("1"), "storedRequest", "text")
    await stage.redis.set(stage.keys.own("request:text"), "x")
    await request_store.save(template(jobs[1:]))
    await stage.redis.hset(stage.keys.own("request:e1"), "left", "many")
    assert await bull.complete([JobSucceeded(job) for job in jobs]) == [WriteResult.OK] * 2


async def test_two_finish_members_of_one_request(
    connection: Connection, elsewhere: Connection, stage: QueueFixture, keys: Keys, clock: FakeClock
) -> None:
    """Members that end in two daemons at once are counted once each, also when both try to end the same ones."""
    mine = BullQueue(connection, keys, clock, token="me/2")
    same = BullQueue(elsewhere, keys, clock, token="me/2")
    for _ in range(10):
        await mine.add_many([NewJob("x", {}) for _ in range(20)])
        jobs = await mine.claim(20)
        await RequestStore(connection, keys, clock, token="me/2").save(template(jobs))
        results = await asyncio.gather(
            *(bull.complete([JobSucceeded(job)]) for job in jobs[:19] for bull in (mine, same)),
        )
        assert [result[0] for result in results].count(WriteResult.OK) == 19
        assert await left(stage) == "1"
        await same.complete([JobSucceeded(jobs[19])])
        assert await left(stage) is None
