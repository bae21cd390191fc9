"""What each of the provider's answers means for the mails of a request: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import PermanentError, RetryableError
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.queue.job import Job
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending import batch_sender as batch_sender_module
from flowstate_daemon.sending.batch import OUTCOME_UNKNOWN, idempotency_key
from flowstate_daemon.sending.batch_sender import ALREADY_ACCEPTED_ID
from flowstate_daemon.sending.request_store import TTL_MS, StoredRequest
from flowstate_daemon.sending.send_gate import MIN_PROBE_INTERVAL_S
from tests.support.clock import FakeClock
from tests.support.dispatcher_harness import CODE, DispatcherHarness, mail_of, wait_for_results
from tests.support.fake_resend import Answer, FakeResend, ReceivedRequest, error
from tests.support.waiting import eventually

BAD = {"to": "nobody"}


def address(job: Job) -> str:
    return f"person{job.id}@mail.dev"


def got(fake: FakeResend) -> list[str]:
    return [accepted.to[0] for accepted in fake.accepted]


def one_request(seen: list[ReceivedRequest]) -> bool:
    """Were all requests the same bytes under the same key?"""
    return len({(incoming.path, incoming.key, incoming.body) for incoming in seen}) == 1


async def bound(harness: DispatcherHarness, redis: Redis, job: Job) -> str | None:
    return await redis.hget(harness.keys.job(job.id), "storedRequest")


async def test_partial_refusals_are_settled_one_by_one(
    harness: DispatcherHarness, fake: FakeResend, redis: Redis
) -> None:
    """The refused fail with the provider's words and are free for a new request; the others are sent."""
    jobs = await harness.jobs(5)
    results = await wait_for_results([harness.post(job, **(BAD if job in jobs[1:3] else {})) for job in jobs])
    assert [type(result) for result in results] == [Accepted, PermanentError, PermanentError, Accepted, Accepted]
    assert "Invalid `to` field" in str(results[1])
    assert got(fake) == [address(jobs[place]) for place in (0, 3, 4)]
    assert [await bound(harness, redis, job) is None for job in jobs] == [False, True, True, False, False]
    assert fake.requests == {"POST /emails/batch": 1}


async def test_a_refused_mail_is_free_although_another_worker_has_its_neighbour(
    harness: DispatcherHarness, fake: FakeResend, redis: Redis
) -> None:
    """Whose lock is lost is left to the other worker; a person who retries the other one wants a new request."""
    jobs = await harness.jobs(3)
    fake.hold()
    tasks = [harness.post(job, **(BAD if job in jobs[1:] else {})) for job in jobs]
    await eventually(lambda: _is(bool(fake.memory.under_way)), "the request")
    await redis.set(harness.keys.lock(jobs[2].id), "another/worker")
    fake.release()
    assert [type(result) for result in await wait_for_results(tasks)] == [Accepted, PermanentError, PermanentError]
    assert [await bound(harness, redis, job) is None for job in jobs] == [False, True, False]


async def test_a_batch_refused_mail_by_mail_is_tried_by_one(harness: DispatcherHarness, fake: FakeResend) -> None:
    """When all are refused, one goes alone; refused too, it speaks for the others."""
    jobs = await harness.jobs(10)
    results = await wait_for_results([harness.post(job, **BAD) for job in jobs])
    assert all(isinstance(result, PermanentError) for result in results)
    assert fake.requests == {"POST /emails/batch": 1, "POST /emails": 1}


async def test_an_account_refused_mail_by_mail_burns_nobody(harness: DispatcherHarness, fake: FakeResend) -> None:
    """The one that goes alone may find that the account is at fault: then the lane closes, and all are sent later."""
    jobs = await harness.jobs(10)
    errors = [{"index": place, "message": "The domain is not verified."} for place in range(10)]
    fake.script(Answer(200, {"data": [], "errors": errors}, {"content-type": "application/json"}))
    fake.script(error(403, "validation_error", "The domain is not verified."))
    tasks = [harness.post(job) for job in jobs]
    await eventually(lambda: _is(harness.gate.refusal is not None), "the lane closed")
    assert not any(task.done() for task in tasks)
    harness.gate_clock.advance(MIN_PROBE_INTERVAL_S + 1)
    harness.dispatcher._wake_up.set()
    assert all(isinstance(result, Accepted) for result in await wait_for_results(tasks))
    assert sorted(got(fake)) == sorted(address(job) for job in jobs)


async def test_a_strict_provider_costs_a_few_requests_more(
    harness: DispatcherHarness, fake: FakeResend, redis: Redis
) -> None:
    """Where one bad mail has the whole batch refused, halves find it, and all others are sent once."""
    fake.permissive_known = False
    jobs = await harness.jobs(32)
    results = await wait_for_results([harness.post(job, **(BAD if job is jobs[13] else {})) for job in jobs])
    assert [isinstance(result, PermanentError) for result in results] == [job is jobs[13] for job in jobs]
    assert sorted(got(fake)) == sorted(address(job) for job in jobs if job is not jobs[13])
    assert sum(fake.requests.values()) == 1 + 2 * 5
    assert await bound(harness, redis, jobs[13]) is None


async def test_a_409_about_another_body_means_accepted_earlier(harness: DispatcherHarness, fake: FakeResend) -> None:
    """The provider holds the key: the mails have gone, and never go again."""
    jobs = await harness.jobs(3)
    fake.script(error(409, "invalid_idempotent_request"))
    results = await wait_for_results([harness.post(job) for job in jobs])
    assert results == [Accepted(ALREADY_ACCEPTED_ID, "resend")] * 3
    assert sum(fake.requests.values()) == 1


async def test_a_409_about_a_request_under_way_asks_again(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """Not an attempt: the same request a little later gets the answer."""
    fake.script(error(409, "concurrent_idempotent_requests"))
    results = await wait_for_results([harness.post(job) for job in await harness.jobs(3)])
    assert all(isinstance(result, Accepted) for result in results)
    assert len(seen) == 2
    assert one_request(seen)


async def test_a_429_is_obeyed_and_no_attempt(
    connection: Connection, keys: Keys, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """After `retry-after` the same bytes go under the same key, and a code takes the slot before them."""
    fake.script(error(429, "rate_limit_exceeded", retry_after="1"))
    async with DispatcherHarness(connection, keys, fake, assumed_rate=4) as harness:
        started = harness.clock.monotonic()
        tasks = [harness.post(job) for job in await harness.jobs(3)]
        await eventually(lambda: _is(fake.answered[429] == 1), "the refusal")
        [code] = await harness.jobs(1, CODE)
        results = await wait_for_results([*tasks, harness.post(code)])
        assert harness.clock.monotonic() - started >= 1.0
    assert all(isinstance(result, Accepted) for result in results)
    assert got(fake)[0] == address(code)
    assert one_request([seen[0], seen[2]])


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {"statusCode": 500, "name": "application_error", "message": "x"}, accept=True),
        Answer(200, "<html>", {"content-type": "text/html"}, accept=True),
        Answer(200, {"data": []}, accept=True),
        Answer(502, "", accept=True),
        Answer(cut=True),
        Answer(drop=True),
        Answer(drop=True, status=200),
    ],
)
@pytest.mark.parametrize("count", [1, 4])
async def test_a_reply_that_says_nothing_leads_to_the_same_request(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest], answer: Answer, count: int
) -> None:
    """Each job's attempt fails; the next try sends the same bytes under the same key, and nobody gets it twice."""
    fake.script(answer)
    jobs = await harness.jobs(count)
    assert all(
        isinstance(result, RetryableError) for result in await wait_for_results([harness.post(job) for job in jobs])
    )
    again = await harness.released(jobs)
    results = await wait_for_results([harness.post(job, subject="a mail that has changed meanwhile") for job in again])
    assert results == [Accepted(accepted.id, "resend") for accepted in fake.accepted]
    assert got(fake) == [address(job) for job in jobs]
    assert one_request(seen)


async def test_members_settle_from_the_kept_answer(harness: DispatcherHarness, fake: FakeResend, redis: Redis) -> None:
    """Jobs that come back after the provider has answered end without another request, each by its own result."""
    jobs = await harness.jobs(3)
    first = await wait_for_results([harness.post(job, **(BAD if job is jobs[1] else {})) for job in jobs])
    await redis.hset(harness.keys.job(jobs[1].id), "storedRequest", await bound(harness, redis, jobs[0]) or "")
    again = await wait_for_results([harness.post(job) for job in await harness.released(jobs)])
    assert [again[0], again[2]] == [first[0], first[2]]
    assert isinstance(again[1], PermanentError)
    assert sum(fake.requests.values()) == 1


async def test_members_may_come_back_one_after_the_other(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """Whoever comes first brings the whole request on its way again; the others find the answer."""
    fake.script(Answer(502, "", accept=True))
    jobs = await harness.jobs(3)
    await wait_for_results([harness.post(job) for job in jobs])
    again = await harness.released(jobs)
    for job in again:
        await wait_for_results([harness.post(job)])
    assert len(seen) == 2
    assert one_request(seen)
    assert len(fake.accepted) == 3


async def test_a_job_without_its_envelope_is_parked(harness: DispatcherHarness, fake: FakeResend, redis: Redis) -> None:
    """What may have been sent and can no longer be proved is left to a human, not sent again."""
    fake.script(Answer(502, "", accept=True))
    jobs = await harness.jobs(2)
    await wait_for_results([harness.post(job) for job in jobs])
    await redis.delete(harness.keys.own(f"request:{await bound(harness, redis, jobs[0])}"))
    results = await wait_for_results([harness.post(job) for job in await harness.released(jobs)])
    assert [str(result) for result in results] == [OUTCOME_UNKNOWN, OUTCOME_UNKNOWN]
    assert len(fake.accepted) == 2
    assert sum(fake.requests.values()) == 1


async def test_a_closed_lane_keeps_the_mails_and_lets_codes_go_first(
    harness: DispatcherHarness, fake: FakeResend, redis: Redis
) -> None:
    """A refused key costs no attempt; nothing stays sealed, so what leaves first is decided when the provider
    retrys.
    """
    harness.fake.api_key = "re_Another0_abcdefghijklmnop"
    jobs = await harness.jobs(4)
    tasks = [harness.post(job) for job in jobs]
    await eventually(lambda: _is(harness.gate.refusal is not None), "the lane closed")
    await eventually(lambda: _free(harness, redis, jobs), "the jobs unsealed")
    [code] = await harness.jobs(1, CODE)
    tasks.append(harness.post(code))
    fake.api_key = "re_Fake0000_abcdefghijklmnop"
    harness.gate_clock.advance(MIN_PROBE_INTERVAL_S + 1)
    harness.dispatcher._wake_up.set()
    assert all(isinstance(result, Accepted) for result in await wait_for_results(tasks))
    assert got(fake)[0] == address(code)
    assert harness.health.problems() == {}


async def test_a_used_up_quota_stops_bulk_and_lets_codes_try(
    harness: DispatcherHarness, fake: FakeResend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bulk asks once and then waits; a code still tries, and leaves as soon as there is quota for it."""
    monkeypatch.setattr(batch_sender_module, "QUOTA_RETRY_S", 0.05)
    fake.quotas.daily = 0
    bulk = [harness.post(job) for job in await harness.jobs(3)]
    await eventually(lambda: _is("quota" in harness.health.problems()), "health red")
    [code] = await harness.jobs(1, CODE)
    task = harness.post(code)
    await eventually(lambda: _is(fake.requests["POST /emails"] >= 2), "the code's tries")
    fake.quotas.daily = 1
    assert isinstance((await wait_for_results([task]))[0], Accepted)
    assert fake.requests["POST /emails/batch"] == 1
    assert not any(one.done() for one in bulk)
    fake.quotas.daily = None
    await harness.rate_limiter.pause_bulk(0, "")
    harness.dispatcher._wake_up.set()
    assert all(isinstance(result, Accepted) for result in await wait_for_results(bulk))
    assert harness.health.problems() == {}


async def test_what_is_in_doubt_is_never_broken_up(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest], redis: Redis
) -> None:
    """A request that may have been taken before stays as it is when the account is refused at its next try."""
    fake.script(Answer(502, "", accept=True))
    jobs = await harness.jobs(3)
    await wait_for_results([harness.post(job) for job in jobs])
    fake.script(error(403, "invalid_api_key"))
    tasks = [harness.post(job) for job in await harness.released(jobs)]
    await eventually(lambda: _is(harness.gate.refusal is not None), "the lane closed")
    assert all([await bound(harness, redis, job) for job in jobs])
    harness.gate_clock.advance(MIN_PROBE_INTERVAL_S + 1)
    harness.dispatcher._wake_up.set()
    assert all(isinstance(result, Accepted) for result in await wait_for_results(tasks))
    assert one_request(seen)
    assert len(fake.accepted) == 3


async def test_what_another_worker_holds_a_part_of_is_never_broken_up(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest], redis: Redis
) -> None:
    """Its other holder may send the sealed bytes, and a second request with our part would be second mails."""
    jobs = await harness.jobs(3)
    fake.hold()
    tasks = [harness.post(job) for job in jobs]
    await eventually(lambda: _is(bool(fake.memory.under_way)), "the request")
    await redis.set(harness.keys.lock(jobs[2].id), "another/worker")
    harness.fake.verified = {"another.dev"}
    fake.release()
    await eventually(lambda: _is(harness.gate.refusal is not None), "the lane closed")
    await asyncio.sleep(0.05)
    assert all([await bound(harness, redis, job) for job in jobs])
    harness.fake.verified = None
    harness.gate_clock.advance(MIN_PROBE_INTERVAL_S + 1)
    harness.dispatcher._wake_up.set()
    await wait_for_results(tasks)
    assert one_request(seen)
    assert (len(fake.accepted), fake.duplicates()) == (3, [])


async def test_the_same_group_sealed_anew_is_the_same_request(
    harness: DispatcherHarness, fake: FakeResend, redis: Redis, seen: list[ReceivedRequest]
) -> None:
    """A Redis that has forgotten its last second leads to the same key and bytes, which the provider knows."""
    jobs = await harness.jobs(5)
    first = await wait_for_results([harness.post(job) for job in jobs])
    for job in jobs:
        await redis.hdel(harness.keys.job(job.id), "storedRequest")
    assert await wait_for_results([harness.post(job) for job in await harness.released(jobs)]) == first
    assert one_request(seen)
    assert len(fake.accepted) == 5


@pytest.mark.parametrize(
    ("answer", "fate"),
    [(error(429, "rate_limit_exceeded"), Accepted), (error(409, "concurrent_idempotent_requests"), PermanentError)],
)
async def test_the_provider_is_asked_nothing_that_it_may_have_forgotten(
    connection: Connection, keys: Keys, fake: FakeResend, answer: Answer, fate: type
) -> None:
    """A sealed request that was held back for a day goes as a new one if it was never processed, else it is parked."""
    clock, held = FakeClock(), list[Callable[[], None]]()
    fake.script(answer)
    async with DispatcherHarness(connection, keys, fake, clock=clock) as harness:
        harness.dispatcher._later = lambda _seconds, enter: held.append(enter)  # type: ignore[method-assign]
        tasks = [harness.post(job) for job in await harness.jobs(2)]
        await eventually(lambda: _is(bool(held)), "the request back")
        del harness.dispatcher._later
        clock.advance(TTL_MS / 1000 + 1)
        held[0]()
        assert [type(result) for result in await wait_for_results(tasks)] == [fate] * 2


async def test_a_stranger_in_the_envelope_is_parked(harness: DispatcherHarness, fake: FakeResend, redis: Redis) -> None:
    """A job that names an envelope in which it is not was sent, or not, by nobody knows whom."""
    jobs = await harness.jobs(2)
    path, body = harness.gateway.build_request([harness.gateway.encode(mail_of(jobs[0]))])
    members = ((jobs[0].id, jobs[0].timestamp),)
    await harness.request_store.save(StoredRequest("e1", path, body, idempotency_key(path, body, members), members))
    await redis.hset(harness.keys.job(jobs[1].id), "storedRequest", "e1")
    results = await wait_for_results([harness.post(job) for job in await harness.released(jobs)])
    assert isinstance(results[0], Accepted)
    assert str(results[1]) == OUTCOME_UNKNOWN
    assert msgspec.json.decode(body)["to"] == got(fake)


async def _is(condition: bool) -> bool:
    return condition


async def _free(harness: DispatcherHarness, redis: Redis, jobs: list[Job]) -> bool:
    return not any([await bound(harness, redis, job) for job in jobs])
