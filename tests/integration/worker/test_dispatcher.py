"""Which emails are sent when, and in which batch."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import LockLostError, MailSkipped, RetryableError, StaleDecisionError
from flowstate_daemon.delivery.gateway import MAX_BATCHED_MAIL_SIZE
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.queue.job import JobSucceeded
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.batch import DECISION_MAX_AGE_S
from flowstate_daemon.sending.dispatcher import MAX_REQUESTS
from flowstate_daemon.sending.rate_limiter import RateLimiter
from flowstate_daemon.sending.send_gate import FAILURE_THRESHOLD, MAX_OPEN_S, MIN_OPEN_S, MIN_PROBE_INTERVAL_S
from tests.support.clock import FakeClock
from tests.support.dispatcher_harness import CODE, REMINDER, DispatcherHarness, wait_for_results
from tests.support.fake_resend import FakeResend, ReceivedRequest, error
from tests.support.waiting import eventually


def recipients(incoming: ReceivedRequest) -> list[str]:
    """The recipients of a request."""
    content = msgspec.json.decode(incoming.body)
    return [mail["to"][0] for mail in (content if isinstance(content, list) else [content])]


async def test_single_mail_uses_the_single_endpoint(harness: DispatcherHarness, fake: FakeResend) -> None:
    """One email is one request to /emails, and the provider's id is returned."""
    [job] = await harness.jobs(1)
    [accepted] = await wait_for_results([harness.post(job)])
    assert accepted == Accepted(fake.accepted[0].id, "resend")
    assert fake.requests == {"POST /emails": 1}


async def test_waiting_mails_are_sent_in_full_batches(harness: DispatcherHarness, fake: FakeResend) -> None:
    """250 waiting emails are three requests, and each email gets its own id."""
    jobs = await harness.jobs(250)
    results = await wait_for_results([harness.post(job) for job in jobs])
    ids = {accepted.to[0]: accepted.id for accepted in fake.accepted}
    assert results == [Accepted(ids[f"person{job.id}@mail.dev"], "resend") for job in jobs]
    assert fake.requests == {"POST /emails/batch": 3}


async def test_batch_waits_for_mails_being_prepared(harness: DispatcherHarness, fake: FakeResend) -> None:
    """An email that is ready in a moment joins the batch, but the wait is bounded."""
    first, second = await harness.jobs(2)
    with harness.dispatcher.expecting:
        tasks = [harness.post(first)]
        await asyncio.sleep(0)
        tasks.append(harness.post(second))
    await wait_for_results(tasks)
    assert fake.requests == {"POST /emails/batch": 1}
    [third] = await harness.jobs(1)
    with harness.dispatcher.expecting:
        await wait_for_results([harness.post(third)])


async def test_each_token_sends_the_most_urgent_mails(
    connection: Connection, keys: Keys, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """With a rate limit, a code is sent with the next token, first in a full batch; the rest in order."""
    fake.rate.limit = 4
    async with DispatcherHarness(connection, keys, fake, initial_rate=4) as harness:
        reminders = await harness.jobs(250)
        tasks = [harness.post(job) for job in reminders]
        await eventually(lambda: len(seen) == 1, "the first request")
        [code] = await harness.jobs(1, CODE)
        tasks.append(harness.post(code))
        await wait_for_results(tasks)
    assert [len(recipients(incoming)) for incoming in seen] == [100, 100, 51]
    assert recipients(seen[1])[0] == f"person{code.id}@mail.dev"
    order = [
        recipient for incoming in seen for recipient in recipients(incoming) if recipient != f"person{code.id}@mail.dev"
    ]
    assert order == [f"person{job.id}@mail.dev" for job in reminders]
    assert fake.answered[429] == 0


async def test_codes_are_sent_alone_without_a_rate_limit(
    harness: DispatcherHarness, seen: list[ReceivedRequest]
) -> None:
    """Where requests cost nothing, no code waits for bulk emails."""
    reminders, codes = await harness.jobs(30), await harness.jobs(2, CODE)
    await wait_for_results([harness.post(job) for job in [*reminders, *codes]])
    assert recipients(seen[0]) == [f"person{job.id}@mail.dev" for job in codes]
    assert len(recipients(seen[1])) == 30


async def test_codes_have_additional_requests(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """Eight slow requests of bulk emails in flight do not delay a code."""
    await wait_for_results([harness.post(job) for job in await harness.jobs(1)])
    fake.hold()
    bulk = [harness.post(job, html="x" * MAX_BATCHED_MAIL_SIZE) for job in await harness.jobs(12)]
    await eventually(lambda: len(fake.memory.in_progress) == 8, "the requests of bulk emails")
    [code] = await harness.jobs(1, CODE)
    task = harness.post(code)
    await eventually(lambda: len(fake.memory.in_progress) == 9, "the code's request")
    fake.release()
    await wait_for_results([*bulk, task])


async def test_large_mail_is_sent_alone(harness: DispatcherHarness, fake: FakeResend) -> None:
    """What does not fit into a batch uses the single endpoint; the others are batched."""
    jobs = await harness.jobs(5)
    large = "x" * MAX_BATCHED_MAIL_SIZE
    await wait_for_results([harness.post(job, **({"html": large} if job is jobs[2] else {})) for job in jobs])
    assert fake.requests == {"POST /emails": 1, "POST /emails/batch": 1}


async def test_lost_lock_is_detected_before_sending(harness: DispatcherHarness, fake: FakeResend, redis: Redis) -> None:
    """A job that another worker owns ends here without an email; the others of its batch are sent."""
    jobs = await harness.jobs(4)
    await redis.set(harness.keys.lock(jobs[1].id), "another/worker")
    results = await wait_for_results([harness.post(job) for job in jobs])
    assert isinstance(results[1], LockLostError)
    assert [accepted.to[0] for accepted in fake.accepted] == [f"person{jobs[index].id}@mail.dev" for index in (0, 2, 3)]
    assert await redis.hget(harness.keys.job(jobs[1].id), "storedRequest") is None


async def test_aborted_run_sends_no_mail(harness: DispatcherHarness, fake: FakeResend) -> None:
    """An email whose run is cancelled while it waits is not sent."""
    harness.gate.block("wait a moment")
    jobs = await harness.jobs(3)
    tasks = [harness.post(job) for job in jobs]
    await eventually(lambda: harness.dispatcher.queued == len(jobs), "all wait")
    tasks[1].cancel()
    harness.gate.record_accepted()
    harness.dispatcher._wake_up.set()
    results = await wait_for_results(tasks)
    assert isinstance(results[1], asyncio.CancelledError)
    assert len(fake.accepted) == 2


async def test_expired_code_is_not_sent(harness: DispatcherHarness, fake: FakeResend) -> None:
    """A code that expired while it waited is dropped."""
    now_ms = harness.clock.now_ms()
    jobs = await harness.jobs(2, CODE)
    results = await wait_for_results(
        [harness.post(jobs[0], expires_at=now_ms - 1), harness.post(jobs[1], expires_at=now_ms + 60_000)]
    )
    assert isinstance(results[0], MailSkipped)
    assert [accepted.to[0] for accepted in fake.accepted] == [f"person{jobs[1].id}@mail.dev"]


async def test_settled_jobs_delete_their_stored_request(harness: DispatcherHarness, redis: Redis) -> None:
    """Completing the last job deletes it."""
    jobs = await harness.jobs(3)
    await wait_for_results([harness.post(job) for job in jobs])
    pattern = harness.keys.own("request:*")
    [stored_request] = [key async for key in redis.scan_iter(match=pattern, count=1000)]
    assert {await redis.hget(harness.keys.job(job.id), "storedRequest") for job in jobs} == {
        stored_request.rpartition(":")[2]
    }
    await harness.bull.complete([JobSucceeded(job) for job in jobs])
    assert [key async for key in redis.scan_iter(match=pattern, count=1000)] == []


async def test_stopped_dispatcher_cancels_its_requests(
    connection: Connection, keys: Keys, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """The service and its requests end at once; the stored request is sent again later, and accepted once."""
    fake.hold()
    async with DispatcherHarness(connection, keys, fake) as harness:
        jobs = await harness.jobs(5)
        tasks = [harness.post(job) for job in jobs]
        await eventually(lambda: bool(fake.memory.in_progress), "the request")
        for task in tasks:
            task.cancel()
    fake.release()
    async with DispatcherHarness(connection, keys, fake) as harness:
        await harness.bull.recover_own_jobs([])
        again = await harness.claim(5)
        results = await wait_for_results([harness.post(job) for job in again])
    assert all(isinstance(result, Accepted) for result in results)
    assert len(fake.accepted) == 5
    assert len({(incoming.key, incoming.body) for incoming in seen}) == 1


@pytest.mark.parametrize("priority", [CODE, REMINDER])
async def test_idle_dispatcher_sends_no_redis_commands(harness: DispatcherHarness, redis: Redis, priority: int) -> None:
    """Hosted Redis bills every command."""
    await wait_for_results([harness.post(job) for job in await harness.jobs(1, priority)])
    before = (await redis.info("stats"))["total_commands_processed"]
    await asyncio.sleep(0.3)
    assert (await redis.info("stats"))["total_commands_processed"] - before <= 2


async def _open_circuit(harness: DispatcherHarness, fake: FakeResend) -> asyncio.Task[Accepted]:
    """Let the provider fail until the circuit opens; returns the task of an email that waits since then."""
    fake.script(error(503, "internal_server_error"), times=None)
    jobs = await harness.jobs(FAILURE_THRESHOLD)
    for job in jobs[1:]:
        await wait_for_results([harness.post(job)])
    waiting = harness.post(jobs[0])
    await eventually(lambda: harness.gate.circuit_breaker.is_open, "the circuit is open")
    return waiting


async def test_backlog_keeps_its_attempts_while_the_circuit_is_open(
    harness: DispatcherHarness, fake: FakeResend
) -> None:
    """One email at a time is the probe, not a hundred; when one is accepted, all are sent."""
    waiting = await _open_circuit(harness, fake)
    backlog = [harness.post(job) for job in await harness.jobs(150)]
    harness.gate_clock.advance(MIN_OPEN_S)
    harness.dispatcher._wake_up.set()
    assert isinstance((await wait_for_results([waiting]))[0], RetryableError)
    harness.gate_clock.advance(MAX_OPEN_S)
    harness.dispatcher._wake_up.set()
    await eventually(lambda: any(task.done() for task in backlog), "the next probe")
    assert sum(task.done() for task in backlog) == 1
    fake.unscript()
    harness.gate_clock.advance(MAX_OPEN_S)
    harness.dispatcher._wake_up.set()
    results = await wait_for_results(backlog)
    assert [type(result) for result in results].count(Accepted) == len(fake.accepted) == 149


async def test_codes_are_sent_while_the_circuit_is_open(harness: DispatcherHarness, fake: FakeResend) -> None:
    """A code does not wait for a probe and takes no bulk emails along; an accepted code closes the circuit."""
    bulk = [await _open_circuit(harness, fake), *(harness.post(job) for job in await harness.jobs(5))]
    [early, late] = await harness.jobs(2, CODE)
    assert isinstance((await wait_for_results([harness.post(early)]))[0], RetryableError)
    assert not any(task.done() for task in bulk)
    fake.unscript()
    assert isinstance((await wait_for_results([harness.post(late)]))[0], Accepted)
    assert {type(result) for result in await wait_for_results(bulk)} == {Accepted}


async def test_requests_in_flight_keep_their_attempts_when_the_circuit_opens(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """Of eight requests that fail together the first few are attempts; the others are sent again unchanged."""
    await wait_for_results([harness.post(job) for job in await harness.jobs(1)])
    fake.script(replace(error(503, "internal_server_error"), delay_s=0.3), times=MAX_REQUESTS)
    tasks = [harness.post(job, html="x" * MAX_BATCHED_MAIL_SIZE) for job in await harness.jobs(MAX_REQUESTS)]
    await eventually(lambda: fake.answered[503] == MAX_REQUESTS and not harness.dispatcher._tasks, "all have failed")
    harness.gate_clock.advance(MIN_OPEN_S)
    harness.dispatcher._wake_up.set()
    results = await wait_for_results(tasks)
    assert [type(result) for result in results].count(RetryableError) == FAILURE_THRESHOLD - 1
    sent = [(incoming.key, incoming.body) for incoming in seen[1:]]
    assert len(sent) == 2 * MAX_REQUESTS - (FAILURE_THRESHOLD - 1)
    assert len(set(sent)) == MAX_REQUESTS


@pytest.mark.parametrize(("blocked_s", "is_stale"), [(DECISION_MAX_AGE_S - 1, False), (DECISION_MAX_AGE_S + 1, True)])
async def test_mail_blocked_for_long_is_released_for_a_new_decision(
    connection: Connection, keys: Keys, fake: FakeResend, blocked_s: float, *, is_stale: bool
) -> None:
    """The recipient may have unsubscribed since: the job is released, not an attempt; a code is sent."""
    fake.script(error(403, "invalid_api_key", "API key is invalid."))
    clock = FakeClock()
    async with DispatcherHarness(connection, keys, fake, clock=clock) as harness:
        tasks = [harness.post(job) for job in [*await harness.jobs(1), *await harness.jobs(1, CODE)]]
        await eventually(lambda: bool(harness.gate.refusal) and harness.dispatcher.queued == len(tasks), "both wait")
        clock.advance(blocked_s)
        harness.dispatcher._wake_up.set()
        await eventually(lambda: harness.dispatcher._held_at == clock.monotonic(), "the account is still refused")
        harness.gate_clock.advance(MIN_PROBE_INTERVAL_S)
        harness.dispatcher._wake_up.set()
        bulk, code = await wait_for_results(tasks)
    assert isinstance(bulk, StaleDecisionError if is_stale else Accepted)
    assert isinstance(code, Accepted)


async def test_requested_retry_opens_the_gate_at_once(harness: DispatcherHarness, fake: FakeResend) -> None:
    """The refusal is shared, and an operator who fixed the key can ask to try again at once."""
    fake.script(error(403, "invalid_api_key", "API key is invalid."))
    [job] = await harness.jobs(1)
    task = harness.post(job)
    await eventually(lambda: bool(harness.gate.refusal), "the account is refused")
    operator = RateLimiter(harness.connection, harness.keys, harness.clock)
    await eventually(lambda: _reason(operator), "the refusal is published")
    assert "API key is invalid" in await _reason(operator)
    await operator.request_retry()
    assert isinstance((await wait_for_results([task]))[0], Accepted)
    await eventually(lambda: _accepting(operator), "the recovery is published")


async def _reason(operator: RateLimiter) -> str:
    return "".join(problem.reason for problem in (await operator.state()).problems)


async def _accepting(operator: RateLimiter) -> bool:
    return (await operator.state()).state == "accepting"
