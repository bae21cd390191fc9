"""What leaves when, and together with whom."""

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
    """Whom a request is for."""
    content = msgspec.json.decode(incoming.body)
    return [mail["to"][0] for mail in (content if isinstance(content, list) else [content])]


async def test_a_lone_mail_takes_the_single_endpoint(harness: DispatcherHarness, fake: FakeResend) -> None:
    """One mail, one request to /emails, and the provider's id comes back."""
    [job] = await harness.jobs(1)
    [accepted] = await wait_for_results([harness.post(job)])
    assert accepted == Accepted(fake.accepted[0].id, "resend")
    assert fake.requests == {"POST /emails": 1}


async def test_what_waits_leaves_together(harness: DispatcherHarness, fake: FakeResend) -> None:
    """250 mails at hand are three requests, and each mail gets its own id."""
    jobs = await harness.jobs(250)
    results = await wait_for_results([harness.post(job) for job in jobs])
    ids = {accepted.to[0]: accepted.id for accepted in fake.accepted}
    assert results == [Accepted(ids[f"person{job.id}@mail.dev"], "resend") for job in jobs]
    assert fake.requests == {"POST /emails/batch": 3}


async def test_a_batch_waits_for_what_is_being_made(harness: DispatcherHarness, fake: FakeResend) -> None:
    """A mail that will be ready in a moment travels along, but a moment is not for ever."""
    first, second = await harness.jobs(2)
    with harness.dispatcher.expecting():
        tasks = [harness.post(first)]
        await asyncio.sleep(0)
        tasks.append(harness.post(second))
    await wait_for_results(tasks)
    assert fake.requests == {"POST /emails/batch": 1}
    [third] = await harness.jobs(1)
    with harness.dispatcher.expecting():
        await wait_for_results([harness.post(third)])


async def test_at_each_slot_the_most_urgent_leave(
    connection: Connection, keys: Keys, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """On a limited provider a code leaves with the next slot, at the head of a full request; the rest in order."""
    fake.rate.limit = 4
    async with DispatcherHarness(connection, keys, fake, assumed_rate=4) as harness:
        reminders = await harness.jobs(250)
        tasks = [harness.post(job) for job in reminders]
        await eventually(lambda: _is(len(seen) == 1), "the first request")
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


async def test_on_an_unlimited_provider_codes_go_by_themselves(
    harness: DispatcherHarness, seen: list[ReceivedRequest]
) -> None:
    """Where requests cost nothing, no code is tied to bulk."""
    reminders, codes = await harness.jobs(30), await harness.jobs(2, CODE)
    await wait_for_results([harness.post(job) for job in [*reminders, *codes]])
    assert recipients(seen[0]) == [f"person{job.id}@mail.dev" for job in codes]
    assert len(recipients(seen[1])) == 30


async def test_codes_have_requests_of_their_own(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """Eight slow bulk requests under way hold no code up."""
    await wait_for_results([harness.post(job) for job in await harness.jobs(1)])
    fake.hold()
    bulk = [harness.post(job, html="x" * MAX_BATCHED_MAIL_SIZE) for job in await harness.jobs(12)]
    await eventually(lambda: _is(len(fake.memory.under_way) == 8), "the requests for bulk")
    [code] = await harness.jobs(1, CODE)
    task = harness.post(code)
    await eventually(lambda: _is(len(fake.memory.under_way) == 9), "the code's request")
    fake.release()
    await wait_for_results([*bulk, task])


async def test_giants_go_alone(harness: DispatcherHarness, fake: FakeResend) -> None:
    """What the provider's batches exclude goes to the single endpoint, the others go on in batches."""
    jobs = await harness.jobs(5)
    giant = "x" * MAX_BATCHED_MAIL_SIZE
    await wait_for_results([harness.post(job, **({"html": giant} if job is jobs[2] else {})) for job in jobs])
    assert fake.requests == {"POST /emails": 1, "POST /emails/batch": 1}


async def test_a_lost_lock_is_found_before_anything_is_sent(
    harness: DispatcherHarness, fake: FakeResend, redis: Redis
) -> None:
    """A job that another worker has taken meanwhile ends here without a mail; its company leaves."""
    jobs = await harness.jobs(4)
    await redis.set(harness.keys.lock(jobs[1].id), "another/worker")
    results = await wait_for_results([harness.post(job) for job in jobs])
    assert isinstance(results[1], LockLostError)
    assert [accepted.to[0] for accepted in fake.accepted] == [f"person{jobs[place].id}@mail.dev" for place in (0, 2, 3)]
    assert await redis.hget(harness.keys.job(jobs[1].id), "storedRequest") is None


async def test_who_is_abort_reason_does_not_leave(harness: DispatcherHarness, fake: FakeResend) -> None:
    """A sender that is cancelled while its mail waits takes the mail along."""
    harness.gate.block("wait a moment")
    jobs = await harness.jobs(3)
    tasks = [harness.post(job) for job in jobs]
    await asyncio.sleep(0.01)
    tasks[1].cancel()
    harness.gate.record_accepted()
    harness.dispatcher._wake_up.set()
    results = await wait_for_results(tasks)
    assert isinstance(results[1], asyncio.CancelledError)
    assert len(fake.accepted) == 2


async def test_a_code_past_its_life_is_not_sent(harness: DispatcherHarness, fake: FakeResend) -> None:
    """What has expired while it waited is dropped when its turn comes."""
    now_ms = harness.clock.now_ms()
    jobs = await harness.jobs(2, CODE)
    results = await wait_for_results(
        [harness.post(jobs[0], expires_at=now_ms - 1), harness.post(jobs[1], expires_at=now_ms + 60_000)]
    )
    assert isinstance(results[0], MailSkipped)
    assert [accepted.to[0] for accepted in fake.accepted] == [f"person{jobs[1].id}@mail.dev"]


async def test_nothing_is_left_behind_when_all_is_finished(harness: DispatcherHarness, redis: Redis) -> None:
    """Settled jobs take their envelope along."""
    jobs = await harness.jobs(3)
    await wait_for_results([harness.post(job) for job in jobs])
    pattern = harness.keys.own("request:*")
    [stored_request] = [key async for key in redis.scan_iter(match=pattern, count=1000)]
    assert {await redis.hget(harness.keys.job(job.id), "storedRequest") for job in jobs} == {
        stored_request.rpartition(":")[2]
    }
    await harness.bull.complete([JobSucceeded(job) for job in jobs])
    assert [key async for key in redis.scan_iter(match=pattern, count=1000)] == []


async def test_a_bus_that_stops_ends_its_requests(
    connection: Connection, keys: Keys, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """The loop and everything under way end at once; what was sealed goes on from Redis, once."""
    fake.hold()
    async with DispatcherHarness(connection, keys, fake) as harness:
        jobs = await harness.jobs(5)
        tasks = [harness.post(job) for job in jobs]
        await eventually(lambda: _is(bool(fake.memory.under_way)), "the request")
        for task in tasks:
            task.cancel()
    fake.release()
    async with DispatcherHarness(connection, keys, fake) as harness:
        await harness.bull.recover_own_jobs([])
        again = await harness.take(5)
        results = await wait_for_results([harness.post(job) for job in again])
    assert all(isinstance(result, Accepted) for result in results)
    assert len(fake.accepted) == 5
    assert len({(incoming.key, incoming.body) for incoming in seen}) == 1


@pytest.mark.parametrize("priority", [CODE, REMINDER])
async def test_an_idle_bus_asks_redis_nothing(harness: DispatcherHarness, redis: Redis, priority: int) -> None:
    """Waiting costs no commands: hosted Redis bills them."""
    await wait_for_results([harness.post(job) for job in await harness.jobs(1, priority)])
    before = (await redis.info("stats"))["total_commands_processed"]
    await asyncio.sleep(0.3)
    assert (await redis.info("stats"))["total_commands_processed"] - before <= 2


async def _is(condition: bool) -> bool:
    return condition


async def _fallen_ill(harness: DispatcherHarness, fake: FakeResend) -> asyncio.Task[Accepted]:
    """The provider fails until bulk rests; the mail that waits on the bus since then."""
    fake.script(error(503, "internal_server_error"), times=None)
    jobs = await harness.jobs(FAILURE_THRESHOLD)
    for job in jobs[1:]:
        await wait_for_results([harness.post(job)])
    waiting = harness.post(jobs[0])
    await eventually(lambda: _is(harness.gate.circuit_breaker.is_open), "bulk rests")
    return waiting


async def test_a_backlog_keeps_its_attempts_while_the_provider_is_ill(
    harness: DispatcherHarness, fake: FakeResend
) -> None:
    """Bulk waits on the bus; one mail at a time tries, not a hundred; when one is accepted, all leave."""
    waiting = await _fallen_ill(harness, fake)
    backlog = [harness.post(job) for job in await harness.jobs(150)]
    harness.gate_clock.advance(MIN_OPEN_S)
    harness.dispatcher._wake_up.set()
    assert isinstance((await wait_for_results([waiting]))[0], RetryableError)
    harness.gate_clock.advance(MAX_OPEN_S)
    harness.dispatcher._wake_up.set()
    await eventually(lambda: _is(any(task.done() for task in backlog)), "the next one that tries")
    assert sum(task.done() for task in backlog) == 1
    fake.unscript()
    harness.gate_clock.advance(MAX_OPEN_S)
    harness.dispatcher._wake_up.set()
    results = await wait_for_results(backlog)
    assert [type(result) for result in results].count(Accepted) == len(fake.accepted) == 149


async def test_codes_go_on_while_bulk_rests(harness: DispatcherHarness, fake: FakeResend) -> None:
    """A code does not wait for a try, takes no bulk along, and when it is accepted bulk goes on."""
    bulk = [await _fallen_ill(harness, fake), *(harness.post(job) for job in await harness.jobs(5))]
    [early, late] = await harness.jobs(2, CODE)
    assert isinstance((await wait_for_results([harness.post(early)]))[0], RetryableError)
    assert not any(task.done() for task in bulk)
    fake.unscript()
    assert isinstance((await wait_for_results([harness.post(late)]))[0], Accepted)
    assert {type(result) for result in await wait_for_results(bulk)} == {Accepted}


async def test_what_was_under_way_when_the_provider_fell_ill_keeps_its_attempts(
    harness: DispatcherHarness, fake: FakeResend, seen: list[ReceivedRequest]
) -> None:
    """Of eight requests that fail together the first few are attempts; the others go again, each as it was."""
    await wait_for_results([harness.post(job) for job in await harness.jobs(1)])
    fake.script(replace(error(503, "internal_server_error"), delay_s=0.3), times=MAX_REQUESTS)
    tasks = [harness.post(job, html="x" * MAX_BATCHED_MAIL_SIZE) for job in await harness.jobs(MAX_REQUESTS)]
    await eventually(
        lambda: _is(fake.answered[503] == MAX_REQUESTS and not harness.dispatcher._tasks), "all have failed"
    )
    harness.gate_clock.advance(MIN_OPEN_S)
    harness.dispatcher._wake_up.set()
    results = await wait_for_results(tasks)
    assert [type(result) for result in results].count(RetryableError) == FAILURE_THRESHOLD - 1
    sent = [(incoming.key, incoming.body) for incoming in seen[1:]]
    assert len(sent) == 2 * MAX_REQUESTS - (FAILURE_THRESHOLD - 1)
    assert len(set(sent)) == MAX_REQUESTS


@pytest.mark.parametrize(("held_s", "judged_anew"), [(DECISION_MAX_AGE_S - 1, False), (DECISION_MAX_AGE_S + 1, True)])
async def test_what_a_closed_lane_held_up_for_long_is_judged_anew(
    connection: Connection, keys: Keys, fake: FakeResend, held_s: float, *, judged_anew: bool
) -> None:
    """Its person may have unsubscribed meanwhile: the job goes back, for no attempt; a code has no time for that."""
    fake.script(error(403, "invalid_api_key", "API key is invalid."))
    clock = FakeClock()
    async with DispatcherHarness(connection, keys, fake, clock=clock) as harness:
        tasks = [harness.post(job) for job in [*await harness.jobs(1), *await harness.jobs(1, CODE)]]
        await eventually(
            lambda: _is(bool(harness.gate.refusal) and harness.dispatcher.queued == len(tasks)), "both wait"
        )
        clock.advance(held_s)
        harness.dispatcher._wake_up.set()
        await eventually(lambda: _is(harness.dispatcher._held_at == clock.monotonic()), "the lane is still closed")
        harness.gate_clock.advance(MIN_PROBE_INTERVAL_S)
        harness.dispatcher._wake_up.set()
        bulk, code = await wait_for_results(tasks)
    assert isinstance(bulk, StaleDecisionError if judged_anew else Accepted)
    assert isinstance(code, Accepted)


async def test_somebody_who_has_mended_the_key_need_not_wait(harness: DispatcherHarness, fake: FakeResend) -> None:
    """The lane is closed for everybody to see, and tries again as soon as a person asks for it."""
    fake.script(error(403, "invalid_api_key", "API key is invalid."))
    [job] = await harness.jobs(1)
    task = harness.post(job)
    await eventually(lambda: _is(bool(harness.gate.refusal)), "closed")
    recipient = RateLimiter(harness.connection, harness.keys, harness.clock)
    assert "API key is invalid" in (await recipient.state()).refusal
    await recipient.request_retry()
    assert isinstance((await wait_for_results([task]))[0], Accepted)
    await eventually(lambda: _is(not harness.dispatcher.in_flight), "the request has landed")
    assert (await recipient.state()).refusal == ""
