"""Two runs of a job in one process: it has claimed the job again, while the first run waits for Redis. Its email is in
one request, also without Postgres.
"""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from flowstate_daemon.base.errors import StaleDecisionError
from flowstate_daemon.database.request_records import RequestRecords
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.queue.job import Job, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending import batch_sender, request_recorder
from flowstate_daemon.sending.send_gate import MIN_PROBE_INTERVAL_S
from tests.support.dispatcher_harness import REMINDER, DispatcherHarness, wait_for_results
from tests.support.fake_resend import FakeResend, ReceivedRequest, error
from tests.support.older_redis import OlderState, lose_writes, remember_state
from tests.support.read_only import read_only
from tests.support.script_outage import ScriptOutage
from tests.support.waiting import eventually

REJECTED = error(422, "validation_error", "Invalid `to` field.")


@pytest.fixture
async def outage(harness: DispatcherHarness, monkeypatch: pytest.MonkeyPatch) -> ScriptOutage:
    """Requests cannot be saved. The provider's limit is known, so that several may be in progress."""
    await wait_for_results([harness.post(job) for job in await harness.jobs(1)])
    harness.fake.accepted.clear()
    harness.fake.requests.clear()
    outage = ScriptOutage(harness, "request_save")
    monkeypatch.setattr(harness.connection, "execute", outage.execute)
    monkeypatch.setattr(request_recorder, "REDIS_RETRY_S", 0.02)
    return outage


async def take(harness: DispatcherHarness, url: str, count: int) -> tuple[OlderState, list[Job]]:
    """Claimed jobs, and the state of Redis in which the last one was not claimed yet."""
    jobs = await harness.jobs(count - 1)
    await harness.bull.add_many([NewJob("welcome", {}, priority=jobs[0].priority)])
    state = await remember_state(url, harness.keys)
    return state, [*jobs, *await harness.claim(1)]


async def claim_again(
    harness: DispatcherHarness, url: str, state: OlderState, first_run: asyncio.Task[Accepted]
) -> Job:
    """Redis loses its newest writes; the process claims the job again, which aborts its first run."""
    await lose_writes(url, state)
    (job,) = await harness.claim(1)
    first_run.cancel()
    return job


async def test_first_run_had_split_a_rejected_request(
    harness: DispatcherHarness, fake: FakeResend, valkey_url: str, outage: ScriptOutage
) -> None:
    """It saves the email's second request; Redis has lost the first, so that the new run has saved number one."""
    state, jobs = await take(harness, valkey_url, 4)
    fake.hold()
    fake.script(REJECTED)
    tasks = [harness.post(job) for job in reversed(jobs)]
    await eventually(lambda: sum(fake.requests.values()), "the request of all", equals=1)
    outage.blocks = lambda found: not found.isdisjoint(job.id for job in jobs[:-1])
    fake.release()
    await eventually(lambda: outage.tries, "the half with the last job cannot be saved")
    again = await claim_again(harness, valkey_url, state, tasks[0])
    assert isinstance((await wait_for_results([harness.post(again)]))[0], Accepted)
    outage.blocks = lambda _: False
    assert [type(result) for result in await wait_for_results(tasks[1:])] == [Accepted] * 3
    assert (len(fake.accepted), fake.duplicates()) == (4, [])


async def two_runs(
    harness: DispatcherHarness, valkey_url: str, outage: ScriptOutage
) -> tuple[list[asyncio.Task[Accepted]], Job]:
    """Runs of two jobs that cannot save their request, and the second job, which is claimed again meanwhile."""
    state, jobs = await take(harness, valkey_url, 2)
    outage.blocks = lambda found: jobs[0].id in found
    tasks = [harness.post(job) for job in jobs]
    await eventually(lambda: outage.tries, "the first run cannot save its request")
    return tasks, await claim_again(harness, valkey_url, state, tasks[1])


async def test_new_run_has_split_a_rejected_request(
    harness: DispatcherHarness, fake: FakeResend, valkey_url: str, outage: ScriptOutage
) -> None:
    """Before it saves its second request the email is in none, and the first run saves its own."""
    tasks, again = await two_runs(harness, valkey_url, outage)
    (other,) = await harness.jobs(1)
    fake.hold()
    fake.script(REJECTED)
    new = [harness.post(job) for job in (again, other)]
    await eventually(lambda: sum(fake.requests.values()), "the request of the new run", equals=1)
    outage.blocks = lambda found: again.id in found
    fake.release()
    assert isinstance((await wait_for_results(new[1:]))[0], Accepted)
    outage.blocks = lambda found: found == {again.id}
    assert isinstance((await wait_for_results(tasks[:1]))[0], Accepted)
    await let_it_join(harness, outage, again, new[0])
    assert (len(fake.accepted), fake.duplicates()) == (3, [])


async def test_first_run_is_faster(
    harness: DispatcherHarness, fake: FakeResend, valkey_url: str, outage: ScriptOutage
) -> None:
    """The new run does not lose its job, which no run would have then: it returns at once to the first request."""
    tasks, again = await two_runs(harness, valkey_url, outage)
    outage.blocks = lambda _: True
    new, tries = harness.post(again), outage.tries
    await eventually(lambda: outage.tries > tries + 4, "neither can save a request")
    outage.blocks = lambda found: found == {again.id}
    assert isinstance((await wait_for_results(tasks[:1]))[0], Accepted)
    await let_it_join(harness, outage, again, new)
    assert (len(fake.accepted), fake.duplicates()) == (2, [])


async def let_it_join(harness: DispatcherHarness, outage: ScriptOutage, job: Job, run: asyncio.Task[Accepted]) -> None:
    """The run is refused and its job released; then the job is sent with the request that it is in."""
    outage.blocks = lambda _: False
    assert [type(result) for result in await wait_for_results([run])] == [StaleDecisionError]
    (claimed,) = await harness.released([job])
    assert claimed.stored_request_id is not None
    assert [type(result) for result in await wait_for_results([harness.post(claimed)])] == [Accepted]


async def test_lost_detachment_does_not_keep_emails_from_their_next_request(
    harness: DispatcherHarness, fake: FakeResend, valkey_url: str, outage: ScriptOutage
) -> None:
    """A rejected request is back in Redis, with all its jobs: the run that has split it goes on."""
    jobs = await harness.jobs(4)
    fake.hold()
    fake.script(REJECTED, REJECTED)
    tasks = [harness.post(job) for job in jobs]
    await eventually(lambda: sum(fake.requests.values()), "the request of all", equals=1)
    state = await remember_state(valkey_url, harness.keys)
    outage.blocks = lambda found: len(found) == 1
    fake.release()
    await eventually(lambda: outage.tries, "a quarter cannot be saved, which was detached twice")
    await lose_writes(valkey_url, state)
    outage.blocks = lambda _: False
    assert [type(result) for result in await wait_for_results(tasks)] == [Accepted] * 4
    assert (len(fake.accepted), fake.duplicates()) == (4, [])


@pytest.mark.parametrize("priority", [REMINDER - 1, REMINDER, REMINDER + 1])
async def test_request_of_a_job_that_was_claimed_again_is_kept(
    harness: DispatcherHarness,
    fake: FakeResend,
    seen: list[ReceivedRequest],
    monkeypatch: pytest.MonkeyPatch,
    priority: int,
) -> None:
    """The account was refused. Before the request is given up, Redis is unreachable, and one of the locks expires."""
    jobs = [*await harness.jobs(1), *await harness.jobs(1, priority)]
    outage = ScriptOutage(harness, "request_detach")
    monkeypatch.setattr(harness.connection, "execute", outage.execute)
    monkeypatch.setattr(batch_sender, "REDIS_RETRY_S", 0.02)
    outage.blocks = lambda _: True
    fake.script(error(403, "invalid_api_key"))
    tasks = [harness.post(job) for job in jobs]
    await eventually(lambda: outage.tries, "the request cannot be given up")
    (again,) = await harness.released(jobs[1:])  # as the stalled check does when the lock has expired
    tasks[1].cancel()
    new = harness.post(again)
    await eventually(lambda: harness.dispatcher.queued, "the new run has the request too", equals=1)
    outage.blocks = lambda _: False
    await eventually(lambda: not harness.dispatcher.in_flight, "the first run has learnt that")
    harness.gate_clock.advance(MIN_PROBE_INTERVAL_S + 1)
    harness.dispatcher._wake_up.set()
    assert [type(result) for result in await wait_for_results([tasks[0], new])] == [Accepted] * 2
    assert len({(incoming.key, incoming.body) for incoming in seen}) == 1
    assert (len(fake.accepted), fake.duplicates()) == (2, [])


async def test_withdrawn_request_of_a_job_that_was_claimed_again_is_kept(
    connection: Connection, keys: Keys, fake: FakeResend, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request could not be recorded. Before it is withdrawn, Redis is unreachable, and one of the locks expires."""
    async with DispatcherHarness(connection, keys, fake, records=RequestRecords(pool, keys.base)) as harness:
        jobs = await harness.jobs(2)
        outage = ScriptOutage(harness, "request_withdraw")
        monkeypatch.setattr(harness.connection, "execute", outage.execute)
        monkeypatch.setattr(request_recorder, "REDIS_RETRY_S", 0.02)
        outage.blocks = lambda _: True
        async with read_only(pool):
            tasks = [harness.post(job) for job in jobs]
            await eventually(lambda: outage.tries, "the request cannot be withdrawn")
        (again,) = await harness.released(jobs[1:])  # as the stalled check does when the lock has expired
        tasks[1].cancel()
        outage.blocks = lambda _: False
        await wait_for_results(tasks[:1])
        assert [type(result) for result in await wait_for_results([harness.post(again)])] == [Accepted]
        (other,) = await harness.released(jobs[:1])
        assert [type(result) for result in await wait_for_results([harness.post(other)])] == [Accepted]
    assert (len(fake.accepted), fake.duplicates()) == (2, [])
