"""What each response of the provider means for the emails of a request: nothing lost, nothing sent twice."""

from __future__ import annotations

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
from flowstate_daemon.sending.recent_requests import RecentRequests
from flowstate_daemon.sending.request_store import TTL_MS
from flowstate_daemon.sending.send_gate import MIN_PROBE_INTERVAL_S
from flowstate_daemon.sending.stored_request import StoredRequest
from tests.support.clock import FakeClock
from tests.support.dispatcher_harness import CODE, DispatcherHarness, mail_of, wait_for_results
from tests.support.fake_resend import Answer, FakeResend, ReceivedRequest, error
from tests.support.older_redis import lose_writes, remember_state
from tests.support.waiting import eventually

BAD = {"to": "nobody"}


def address(job: Job) -> str:
    return f"person{job.id}@mail.dev"


def accepted_addresses(fake: FakeResend) -> list[str]:
    return [accepted.to[0] for accepted in fake.accepted]


def one_request(seen: list[ReceivedRequest]) -> bool:
    """Whether all requests were the same bytes with the same key."""
    return len({(incoming.path, incoming.key, incoming.body) for incoming in seen}) == 1


async def stored_request_of(harness: DispatcherHarness, redis: Redis, job: Job) -> str | None:
    return await redis.hget(harness.keys.job(job.id), "storedRequest")


async def test_rejected_mails_of_a_batch_fail_alone(harness: DispatcherHarness, fake: FakeResend, redis: Redis) -> None:
    """They fail with the provider's message and are free for a new request; the others are sent."""
    jobs = await harness.jobs(5)
    results = await wait_for_results([harness.post(job, **(BAD if job in jobs[1:3] else {})) for job in jobs])
    assert [type(result) for result in results] == [Accepted, PermanentError, PermanentError, Accepted, Accepted]
    assert "Invalid `to` field" in str(results[1])
    assert accepted_addresses(fake) == [address(jobs[index]) for index in (0, 3, 4)]
    assert [await stored_request_of(harness, redis, job) is None for job in jobs] == [False, True, True, False, False]
    assert fake.requests == {"POST /emails/batch": 1}


async def test_rejected_mail_is_detached_if_another_worker_owns_a_member(
    harness: DispatcherHarness, fake: FakeResend, redis: Redis
) -> None:
    """The lost job is left to the other worker; a manual retry of the rejected one makes a new request."""
    jobs = await harness.jobs(3)
    fake.hold()
    tasks = [harness.post(job, **(BAD if job in jobs[1:] else {})) for job in jobs]
    await eventually(lambda: bool(fake.memory.in_progress), "the request")
    await redis.set(harness.keys.lock(jobs[2].id), "another/worker")
    fake.release()
    assert [type(result) for result in await wait_for_results(tasks)] == [Accepted, PermanentError, PermanentError]
    assert [await stored_request_of(harness, redis, job) is None for job in jobs] == [False, True, False]


async def test_fully_rejected_batch_sends_one_sample(harness: DispatcherHarness, fake: FakeResend) -> None:
    """When all emails are rejected, one is sent alone; if it is rejected too, the others fail."""
    jobs = await harness.jobs(10)
    results = await wait_for_results([harness.post(job, **BAD) for job in jobs])
    assert all(isinstance(result, PermanentError) for result in results)
    assert fake.requests == {"POST /emails/batch": 1, "POST /emails": 1}


async def test_refused_account_in_a_batch_response_uses_no_attempt(
    harness: DispatcherHarness, fake: FakeResend
) -> None:
    """The sample may reveal that the account is refused: then all emails wait and are sent later."""
    jobs = await harness.jobs(10)
    errors = [{"index": index, "message": "The domain is not verified."} for index in range(10)]
    fake.script(Answer(200, {"data": [], "errors": errors}, {"content-type": "application/json"}))
    fake.script(error(403, "validation_error", "The domain is not verified."))
    tasks = [harness.post(job) for job in jobs]
    await eventually(lambda: harness.gate.refusal is not None, "the account is refused")
    assert not any(task.done() for task in tasks)
    harness.gate_clock.advance(MIN_PROBE_INTERVAL_S + 1)
    harness.dispatcher._wake_up.set()
    assert all(isinstance(result, Accepted) for result in await wait_for_results(tasks))
    assert sorted(accepted_addresses(fake)) == sorted(address(job) for job in jobs)


async def test_rejected_batch_is_halved_until_the_invalid_mail_is_found(
    harness: DispatcherHarness, fake: FakeResend, redis: Redis
) -> None:
    """If one invalid email makes the provider reject the batch, halves find it, and all others are sent once."""
    fake.permissive_known = False
    jobs = await harness.jobs(32)
    results = await wait_for_results([harness.post(job, **(BAD if job is jobs[13] else {})) for job in jobs])
    assert [isinstance(result, PermanentError) for result in results] == [job is jobs[13] for job in jobs]
    assert sorted(accepted_addresses(fake)) == sorted(address(job) for job in jobs if job is not jobs[13])
    assert sum(fake.requests.values()) == 1 + 2 * 5
    assert await stored_request_of(harness, redis, jobs[13]) is None


async def test_key_used_with_another_body_counts_as_accepted(harness: DispatcherHarness, fake: FakeResend) -> None:
    """The provider has the key: the emails were sent, and are never sent again."""
    jobs = await harness.jobs(3)
    fake.script(error(409, "invalid_idempotent_request"))
    results = await wait_for_results([harness.post(job) for job in jobs])
    assert results == [Accepted(ALREADY_ACCEPTED_ID, "resend")] * 3
    assert sum(fake.requests.values()) == 1


async def test_request_in_progress_is_sent_again(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """Not an attempt: the same request a little later gets the response."""
    fake.script(error(409, "concurrent_idempotent_requests"))
    results = await wait_for_results([harness.post(job) for job in await harness.jobs(3)])
    assert all(isinstance(result, Accepted) for result in results)
    assert len(seen) == 2
    assert one_request(seen)


async def test_rate_limited_request_is_not_an_attempt(
    connection: Connection, keys: Keys, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """After `retry-after` the same bytes are sent with the same key, and a code gets the token before them."""
    fake.script(error(429, "rate_limit_exceeded", retry_after="1"))
    async with DispatcherHarness(connection, keys, fake, initial_rate=4) as harness:
        started = harness.clock.monotonic()
        tasks = [harness.post(job) for job in await harness.jobs(3)]
        await eventually(lambda: fake.answered[429] == 1, "the refusal")
        [code] = await harness.jobs(1, CODE)
        results = await wait_for_results([*tasks, harness.post(code)])
        assert harness.clock.monotonic() - started >= 1.0
    assert all(isinstance(result, Accepted) for result in results)
    assert accepted_addresses(fake)[0] == address(code)
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
async def test_unknown_outcome_repeats_the_same_request(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest], answer: Answer, count: int
) -> None:
    """Each job's attempt fails; the next one sends the same bytes with the same key, and nothing is sent twice."""
    fake.script(answer)
    jobs = await harness.jobs(count)
    for result in await wait_for_results([harness.post(job) for job in jobs]):
        assert isinstance(result, RetryableError)
        assert result.outcome_unknown
    again = await harness.released(jobs)
    results = await wait_for_results([harness.post(job, subject="an email that has changed") for job in again])
    assert results == [Accepted(accepted.id, "resend") for accepted in fake.accepted]
    assert accepted_addresses(fake) == [address(job) for job in jobs]
    assert one_request(seen)


async def test_members_are_settled_from_the_stored_response(
    harness: DispatcherHarness, fake: FakeResend, redis: Redis
) -> None:
    """Jobs that come back after the response end without another request, each by its own result."""
    jobs = await harness.jobs(3)
    first = await wait_for_results([harness.post(job, **(BAD if job is jobs[1] else {})) for job in jobs])
    await redis.hset(
        harness.keys.job(jobs[1].id), "storedRequest", await stored_request_of(harness, redis, jobs[0]) or ""
    )
    again = await wait_for_results([harness.post(job) for job in await harness.released(jobs)])
    assert [again[0], again[2]] == [first[0], first[2]]
    assert isinstance(again[1], PermanentError)
    assert sum(fake.requests.values()) == 1


async def test_first_returning_member_sends_the_whole_request(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """The other members find the stored response."""
    fake.script(Answer(502, "", accept=True))
    jobs = await harness.jobs(3)
    await wait_for_results([harness.post(job) for job in jobs])
    again = await harness.released(jobs)
    for job in again:
        await wait_for_results([harness.post(job)])
    assert len(seen) == 2
    assert one_request(seen)
    assert len(fake.accepted) == 3


async def test_job_without_its_stored_request_is_parked(
    harness: DispatcherHarness, fake: FakeResend, redis: Redis
) -> None:
    """What may have been sent and cannot be proved is left to an operator, not sent again."""
    fake.script(Answer(502, "", accept=True))
    jobs = await harness.jobs(2)
    await wait_for_results([harness.post(job) for job in jobs])
    harness.request_store.recent = RecentRequests()  # as in another process
    await redis.delete(harness.keys.own(f"request:{await stored_request_of(harness, redis, jobs[0])}"))
    results = await wait_for_results([harness.post(job) for job in await harness.released(jobs)])
    assert [str(result) for result in results] == [OUTCOME_UNKNOWN, OUTCOME_UNKNOWN]
    assert len(fake.accepted) == 2
    assert sum(fake.requests.values()) == 1


async def test_refused_account_keeps_mails_and_sends_codes_first(
    harness: DispatcherHarness, fake: FakeResend, redis: Redis
) -> None:
    """A refused key uses no attempt. No request stays stored, so the order is decided when the account is restored."""
    harness.fake.api_key = "re_Another0_abcdefghijklmnop"
    jobs = await harness.jobs(4)
    tasks = [harness.post(job) for job in jobs]
    await eventually(lambda: harness.gate.refusal is not None, "the account is refused")
    await eventually(lambda: _detached(harness, redis, jobs), "the jobs are detached")
    [code] = await harness.jobs(1, CODE)
    tasks.append(harness.post(code))
    fake.api_key = "re_Fake0000_abcdefghijklmnop"
    harness.gate_clock.advance(MIN_PROBE_INTERVAL_S + 1)
    harness.dispatcher._wake_up.set()
    assert all(isinstance(result, Accepted) for result in await wait_for_results(tasks))
    assert accepted_addresses(fake)[0] == address(code)
    assert harness.health.problems() == {}


async def test_exceeded_quota_pauses_bulk_but_not_codes(
    harness: DispatcherHarness, fake: FakeResend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bulk emails try once and then wait; a code tries again and is sent as soon as there is quota for it."""
    monkeypatch.setattr(batch_sender_module, "QUOTA_RETRY_S", 0.05)
    fake.quotas.daily = 0
    bulk = [harness.post(job) for job in await harness.jobs(3)]
    await eventually(lambda: "quota" in harness.health.problems(), "the quota is a condition")
    [code] = await harness.jobs(1, CODE)
    task = harness.post(code)
    await eventually(lambda: fake.requests["POST /emails"] >= 2, "the code's tries")
    fake.quotas.daily = 1
    assert isinstance((await wait_for_results([task]))[0], Accepted)
    assert fake.requests["POST /emails/batch"] == 1
    assert not any(one.done() for one in bulk)
    fake.quotas.daily = None
    await harness.rate_limiter.pause_bulk(0, "")
    harness.dispatcher._wake_up.set()
    assert all(isinstance(result, Accepted) for result in await wait_for_results(bulk))
    assert harness.health.problems() == {}


async def test_request_with_unknown_outcome_is_never_split(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest], redis: Redis
) -> None:
    """It stays as it is, even if the account is refused at the next try."""
    fake.script(Answer(502, "", accept=True))
    jobs = await harness.jobs(3)
    await wait_for_results([harness.post(job) for job in jobs])
    fake.script(error(403, "invalid_api_key"))
    tasks = [harness.post(job) for job in await harness.released(jobs)]
    await eventually(lambda: harness.gate.refusal is not None, "the account is refused")
    assert all([await stored_request_of(harness, redis, job) for job in jobs])
    harness.gate_clock.advance(MIN_PROBE_INTERVAL_S + 1)
    harness.dispatcher._wake_up.set()
    assert all(isinstance(result, Accepted) for result in await wait_for_results(tasks))
    assert one_request(seen)
    assert len(fake.accepted) == 3


async def test_request_shared_with_another_worker_is_never_split(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest], redis: Redis
) -> None:
    """The other worker may send the stored bytes; a second request with our members would send emails twice."""
    jobs = await harness.jobs(3)
    fake.hold()
    tasks = [harness.post(job) for job in jobs]
    await eventually(lambda: bool(fake.memory.in_progress), "the request")
    await redis.set(harness.keys.lock(jobs[2].id), "another/worker")
    harness.fake.verified = {"another.dev"}
    fake.release()
    await eventually(lambda: harness.gate.refusal is not None, "the account is refused")
    await eventually(lambda: not harness.dispatcher.in_flight, "the request has finished")
    assert all([await stored_request_of(harness, redis, job) for job in jobs])
    harness.fake.verified = None
    harness.gate_clock.advance(MIN_PROBE_INTERVAL_S + 1)
    harness.dispatcher._wake_up.set()
    await wait_for_results(tasks)
    assert one_request(seen)
    assert (len(fake.accepted), fake.duplicates()) == (3, [])


async def test_same_batch_stored_again_is_the_same_request(
    harness: DispatcherHarness, fake: FakeResend, redis: Redis, seen: list[ReceivedRequest]
) -> None:
    """After Redis lost its last second, key and bytes are the same, and the provider recognizes them."""
    jobs = await harness.jobs(5)
    first = await wait_for_results([harness.post(job) for job in jobs])
    for job in jobs:
        await redis.hdel(harness.keys.job(job.id), "storedRequest")
    assert await wait_for_results([harness.post(job) for job in await harness.released(jobs)]) == first
    assert one_request(seen)
    assert len(fake.accepted) == 5


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(error(429, "rate_limit_exceeded"), Accepted), (error(409, "concurrent_idempotent_requests"), PermanentError)],
)
async def test_request_older_than_the_key_is_not_sent(
    connection: Connection, keys: Keys, fake: FakeResend, answer: Answer, expected: type
) -> None:
    """A request held back for a day is made anew if it was never processed, else its jobs are parked."""
    clock, delayed = FakeClock(), list[Callable[[], None]]()
    fake.script(answer)
    async with DispatcherHarness(connection, keys, fake, clock=clock) as harness:
        harness.dispatcher._later = lambda _seconds, enter: delayed.append(enter)  # type: ignore[method-assign]
        tasks = [harness.post(job) for job in await harness.jobs(2)]
        await eventually(lambda: bool(delayed), "the request is queued again")
        del harness.dispatcher._later
        clock.advance(TTL_MS / 1000 + 1)
        delayed[0]()
        assert [type(result) for result in await wait_for_results(tasks)] == [expected] * 2


async def test_job_that_is_not_a_member_is_parked(harness: DispatcherHarness, fake: FakeResend, redis: Redis) -> None:
    """For a job that names a stored request without it, it is unknown whether its email was sent."""
    jobs = await harness.jobs(2)
    path, body = harness.gateway.build_request([harness.gateway.encode(mail_of(jobs[0]))])
    members = ((jobs[0].id, jobs[0].timestamp),)
    await harness.request_store.save(StoredRequest("e1", path, body, idempotency_key(path, body, members), members))
    await redis.hset(harness.keys.job(jobs[1].id), "storedRequest", "e1")
    results = await wait_for_results([harness.post(job) for job in await harness.released(jobs)])
    assert isinstance(results[0], Accepted)
    assert str(results[1]) == OUTCOME_UNKNOWN
    assert msgspec.json.decode(body)["to"] == accepted_addresses(fake)


async def test_request_metrics_follow_the_result(harness: DispatcherHarness, fake: FakeResend) -> None:
    """Every request is counted and timed by its result class, and each stored request by its size."""
    fake.script(error(503, "internal_server_error"))
    [first, *others] = await harness.jobs(3)
    await wait_for_results([harness.post(first)])
    await wait_for_results([harness.post(job) for job in others])
    count = "flowstate_provider_request_duration_seconds_count"
    sample = harness.metrics.registry.get_sample_value
    assert [sample(count, {"result": result}) for result in ("server_error", "accepted", "timeout")] == [1, 1, 0]
    assert sample("flowstate_provider_batch_size_sum") == 3


async def _detached(harness: DispatcherHarness, redis: Redis, jobs: list[Job]) -> bool:
    return not any([await stored_request_of(harness, redis, job) for job in jobs])


async def test_resumed_request_of_another_process_is_remembered(
    harness: DispatcherHarness, fake: FakeResend, valkey_url: str
) -> None:
    """This process has sent it, so it knows that when Redis has lost the request."""
    jobs = await harness.jobs(2)
    state = await remember_state(valkey_url, harness.keys)
    fake.script(Answer(502, ""))
    results = await wait_for_results([harness.post(job) for job in jobs])
    assert all(isinstance(result, RetryableError) for result in results)
    harness.request_store.recent = RecentRequests()  # from here on the harness is another process
    resumed = await wait_for_results([harness.post(job) for job in await harness.released(jobs)])
    assert [type(result) for result in resumed] == [Accepted] * 2
    await lose_writes(valkey_url, state)
    again = await harness.released(jobs)
    assert await wait_for_results([harness.post(job) for job in reversed(again)]) == resumed[::-1]
    assert (len(fake.accepted), fake.duplicates()) == (2, [])
