"""What leaves when, and together with whom."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import LockLost, Outdated, Retry, Skip
from flowstate_daemon.delivery.gateway import LARGEST_IN_BATCH
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.job import Finished
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.pacer import Pacer
from flowstate_daemon.work.breaker import FIRST_REST_S, IN_A_ROW, LONGEST_REST_S
from flowstate_daemon.work.bus import UNDER_WAY
from flowstate_daemon.work.lane import FIRST_PROBE_S
from flowstate_daemon.work.parcel import JUDGED_FOR_S
from tests.support.clock import HandClock
from tests.support.daemon import eventually
from tests.support.depot import CODE, REMINDER, Depot, fates
from tests.support.fake_resend import FakeResend, Incoming, error


def people(incoming: Incoming) -> list[str]:
    """Whom a request is for."""
    content = msgspec.json.decode(incoming.body)
    return [mail["to"][0] for mail in (content if isinstance(content, list) else [content])]


async def test_a_lone_mail_takes_the_single_endpoint(depot: Depot, fake: FakeResend) -> None:
    """One mail, one request to /emails, and the provider's id comes back."""
    [job] = await depot.jobs(1)
    [accepted] = await fates([depot.post(job)])
    assert accepted == Accepted(fake.accepted[0].id, "resend")
    assert fake.requests == {"POST /emails": 1}


async def test_what_waits_leaves_together(depot: Depot, fake: FakeResend) -> None:
    """250 mails at hand are three requests, and each mail gets its own id."""
    jobs = await depot.jobs(250)
    results = await fates([depot.post(job) for job in jobs])
    ids = {accepted.to[0]: accepted.id for accepted in fake.accepted}
    assert results == [Accepted(ids[f"person{job.id}@mail.dev"], "resend") for job in jobs]
    assert fake.requests == {"POST /emails/batch": 3}


async def test_a_batch_waits_for_what_is_being_made(depot: Depot, fake: FakeResend) -> None:
    """A mail that will be ready in a moment travels along, but a moment is not for ever."""
    first, second = await depot.jobs(2)
    with depot.bus.expecting():
        tasks = [depot.post(first)]
        await asyncio.sleep(0)
        tasks.append(depot.post(second))
    await fates(tasks)
    assert fake.requests == {"POST /emails/batch": 1}
    [third] = await depot.jobs(1)
    with depot.bus.expecting():
        await fates([depot.post(third)])


async def test_at_each_slot_the_most_urgent_leave(
    connection: Connection, keys: Keys, fake: FakeResend, seen: list[Incoming]
) -> None:
    """On a limited provider a code leaves with the next slot, at the head of a full request; the rest in order."""
    fake.rate.limit = 4
    async with Depot(connection, keys, fake, assumed_rate=4) as depot:
        reminders = await depot.jobs(250)
        tasks = [depot.post(job) for job in reminders]
        await eventually(lambda: _is(len(seen) == 1), "the first request")
        [code] = await depot.jobs(1, CODE)
        tasks.append(depot.post(code))
        await fates(tasks)
    assert [len(people(incoming)) for incoming in seen] == [100, 100, 51]
    assert people(seen[1])[0] == f"person{code.id}@mail.dev"
    order = [person for incoming in seen for person in people(incoming) if person != f"person{code.id}@mail.dev"]
    assert order == [f"person{job.id}@mail.dev" for job in reminders]
    assert fake.answered[429] == 0


async def test_on_an_unlimited_provider_codes_go_by_themselves(depot: Depot, seen: list[Incoming]) -> None:
    """Where requests cost nothing, no code is tied to bulk."""
    reminders, codes = await depot.jobs(30), await depot.jobs(2, CODE)
    await fates([depot.post(job) for job in [*reminders, *codes]])
    assert people(seen[0]) == [f"person{job.id}@mail.dev" for job in codes]
    assert len(people(seen[1])) == 30


async def test_codes_have_requests_of_their_own(depot: Depot, fake: FakeResend, seen: list[Incoming]) -> None:
    """Eight slow bulk requests under way hold no code up."""
    await fates([depot.post(job) for job in await depot.jobs(1)])
    fake.hold()
    bulk = [depot.post(job, html="x" * LARGEST_IN_BATCH) for job in await depot.jobs(12)]
    await eventually(lambda: _is(len(fake.memory.under_way) == 8), "the requests for bulk")
    [code] = await depot.jobs(1, CODE)
    task = depot.post(code)
    await eventually(lambda: _is(len(fake.memory.under_way) == 9), "the code's request")
    fake.release()
    await fates([*bulk, task])


async def test_giants_go_alone(depot: Depot, fake: FakeResend) -> None:
    """What the provider's batches exclude goes to the single endpoint, the others go on in batches."""
    jobs = await depot.jobs(5)
    giant = "x" * LARGEST_IN_BATCH
    await fates([depot.post(job, **({"html": giant} if job is jobs[2] else {})) for job in jobs])
    assert fake.requests == {"POST /emails": 1, "POST /emails/batch": 1}


async def test_a_lost_lock_is_found_before_anything_is_sent(depot: Depot, fake: FakeResend, redis: Redis) -> None:
    """A job that another worker has taken meanwhile ends here without a mail; its company leaves."""
    jobs = await depot.jobs(4)
    await redis.set(depot.keys.lock(jobs[1].id), "another/worker")
    results = await fates([depot.post(job) for job in jobs])
    assert isinstance(results[1], LockLost)
    assert [accepted.to[0] for accepted in fake.accepted] == [f"person{jobs[place].id}@mail.dev" for place in (0, 2, 3)]
    assert await redis.hget(depot.keys.job(jobs[1].id), "envelope") is None


async def test_who_is_called_off_does_not_leave(depot: Depot, fake: FakeResend) -> None:
    """A sender that is cancelled while its mail waits takes the mail along."""
    depot.lane.close("wait a moment")
    jobs = await depot.jobs(3)
    tasks = [depot.post(job) for job in jobs]
    await asyncio.sleep(0.01)
    tasks[1].cancel()
    depot.lane.accepted()
    depot.bus._roused.set()
    results = await fates(tasks)
    assert isinstance(results[1], asyncio.CancelledError)
    assert len(fake.accepted) == 2


async def test_a_code_past_its_life_is_not_sent(depot: Depot, fake: FakeResend) -> None:
    """What has expired while it waited is dropped when its turn comes."""
    now_ms = depot.clock.now_ms()
    jobs = await depot.jobs(2, CODE)
    results = await fates([depot.post(jobs[0], expires_at=now_ms - 1), depot.post(jobs[1], expires_at=now_ms + 60_000)])
    assert isinstance(results[0], Skip)
    assert [accepted.to[0] for accepted in fake.accepted] == [f"person{jobs[1].id}@mail.dev"]


async def test_nothing_is_left_behind_when_all_is_finished(depot: Depot, redis: Redis) -> None:
    """Settled jobs take their envelope along."""
    jobs = await depot.jobs(3)
    await fates([depot.post(job) for job in jobs])
    pattern = depot.keys.ours("envelope:*")
    [envelope] = [key async for key in redis.scan_iter(match=pattern, count=1000)]
    assert {await redis.hget(depot.keys.job(job.id), "envelope") for job in jobs} == {envelope.rpartition(":")[2]}
    await depot.bull.finish([Finished(job) for job in jobs])
    assert [key async for key in redis.scan_iter(match=pattern, count=1000)] == []


async def test_a_bus_that_stops_ends_its_requests(
    connection: Connection, keys: Keys, fake: FakeResend, seen: list[Incoming]
) -> None:
    """The loop and everything under way end at once; what was sealed goes on from Redis, once."""
    fake.hold()
    async with Depot(connection, keys, fake) as depot:
        jobs = await depot.jobs(5)
        tasks = [depot.post(job) for job in jobs]
        await eventually(lambda: _is(bool(fake.memory.under_way)), "the request")
        for task in tasks:
            task.cancel()
    fake.release()
    async with Depot(connection, keys, fake) as depot:
        await depot.bull.recover([])
        again = await depot.take(5)
        results = await fates([depot.post(job) for job in again])
    assert all(isinstance(result, Accepted) for result in results)
    assert len(fake.accepted) == 5
    assert len({(incoming.key, incoming.body) for incoming in seen}) == 1


@pytest.mark.parametrize("priority", [CODE, REMINDER])
async def test_an_idle_bus_asks_redis_nothing(depot: Depot, redis: Redis, priority: int) -> None:
    """Waiting costs no commands: hosted Redis bills them."""
    await fates([depot.post(job) for job in await depot.jobs(1, priority)])
    before = (await redis.info("stats"))["total_commands_processed"]
    await asyncio.sleep(0.3)
    assert (await redis.info("stats"))["total_commands_processed"] - before <= 2


async def _is(condition: bool) -> bool:
    return condition


async def _fallen_ill(depot: Depot, fake: FakeResend) -> asyncio.Task[Accepted]:
    """The provider fails until bulk rests; the mail that waits on the bus since then."""
    fake.script(error(503, "internal_server_error"), times=None)
    jobs = await depot.jobs(IN_A_ROW)
    for job in jobs[1:]:
        await fates([depot.post(job)])
    waiting = depot.post(jobs[0])
    await eventually(lambda: _is(depot.lane.breaker.resting), "bulk rests")
    return waiting


async def test_a_backlog_keeps_its_attempts_while_the_provider_is_ill(depot: Depot, fake: FakeResend) -> None:
    """Bulk waits on the bus; one mail at a time tries, not a hundred; when one is accepted, all leave."""
    waiting = await _fallen_ill(depot, fake)
    backlog = [depot.post(job) for job in await depot.jobs(150)]
    depot.lane_clock.advance(FIRST_REST_S)
    depot.bus._roused.set()
    assert isinstance((await fates([waiting]))[0], Retry)
    depot.lane_clock.advance(LONGEST_REST_S)
    depot.bus._roused.set()
    await eventually(lambda: _is(any(task.done() for task in backlog)), "the next one that tries")
    assert sum(task.done() for task in backlog) == 1
    fake.unscript()
    depot.lane_clock.advance(LONGEST_REST_S)
    depot.bus._roused.set()
    results = await fates(backlog)
    assert [type(result) for result in results].count(Accepted) == len(fake.accepted) == 149


async def test_codes_go_on_while_bulk_rests(depot: Depot, fake: FakeResend) -> None:
    """A code does not wait for a try, takes no bulk along, and when it is accepted bulk goes on."""
    bulk = [await _fallen_ill(depot, fake), *(depot.post(job) for job in await depot.jobs(5))]
    [early, late] = await depot.jobs(2, CODE)
    assert isinstance((await fates([depot.post(early)]))[0], Retry)
    assert not any(task.done() for task in bulk)
    fake.unscript()
    assert isinstance((await fates([depot.post(late)]))[0], Accepted)
    assert {type(result) for result in await fates(bulk)} == {Accepted}


async def test_what_was_under_way_when_the_provider_fell_ill_keeps_its_attempts(
    depot: Depot, fake: FakeResend, seen: list[Incoming]
) -> None:
    """Of eight requests that fail together the first few are attempts; the others go again, each as it was."""
    await fates([depot.post(job) for job in await depot.jobs(1)])
    fake.script(replace(error(503, "internal_server_error"), delay_s=0.3), times=UNDER_WAY)
    tasks = [depot.post(job, html="x" * LARGEST_IN_BATCH) for job in await depot.jobs(UNDER_WAY)]
    await eventually(lambda: _is(fake.answered[503] == UNDER_WAY and not depot.bus._tasks), "all have failed")
    depot.lane_clock.advance(FIRST_REST_S)
    depot.bus._roused.set()
    results = await fates(tasks)
    assert [type(result) for result in results].count(Retry) == IN_A_ROW - 1
    sent = [(incoming.key, incoming.body) for incoming in seen[1:]]
    assert len(sent) == 2 * UNDER_WAY - (IN_A_ROW - 1)
    assert len(set(sent)) == UNDER_WAY


@pytest.mark.parametrize(("held_s", "judged_anew"), [(JUDGED_FOR_S - 1, False), (JUDGED_FOR_S + 1, True)])
async def test_what_a_closed_lane_held_up_for_long_is_judged_anew(
    connection: Connection, keys: Keys, fake: FakeResend, held_s: float, *, judged_anew: bool
) -> None:
    """Its person may have unsubscribed meanwhile: the job goes back, for no attempt; a code has no time for that."""
    fake.script(error(403, "invalid_api_key", "API key is invalid."))
    clock = HandClock()
    async with Depot(connection, keys, fake, clock=clock) as depot:
        tasks = [depot.post(job) for job in [*await depot.jobs(1), *await depot.jobs(1, CODE)]]
        await eventually(lambda: _is(bool(depot.lane.closed) and depot.bus.waiting == len(tasks)), "both wait")
        clock.advance(held_s)
        depot.bus._roused.set()
        await eventually(lambda: _is(depot.bus._held_at == clock.mono()), "the lane is still closed")
        depot.lane_clock.advance(FIRST_PROBE_S)
        depot.bus._roused.set()
        bulk, code = await fates(tasks)
    assert isinstance(bulk, Outdated if judged_anew else Accepted)
    assert isinstance(code, Accepted)


async def test_somebody_who_has_mended_the_key_need_not_wait(depot: Depot, fake: FakeResend) -> None:
    """The lane is closed for everybody to see, and tries again as soon as a person asks for it."""
    fake.script(error(403, "invalid_api_key", "API key is invalid."))
    [job] = await depot.jobs(1)
    task = depot.post(job)
    await eventually(lambda: _is(bool(depot.lane.closed)), "closed")
    person = Pacer(depot.connection, depot.keys, depot.clock)
    assert "API key is invalid" in (await person.state()).lane_closed
    await person.ask_to_try()
    assert isinstance((await fates([task]))[0], Accepted)
    await eventually(lambda: _is(not depot.bus.under_way), "the request has landed")
    assert (await person.state()).lane_closed == ""
