"""Redis does not know that an email was sent, and now it must not be sent: it stays sent, with one outcome."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import EarlierRequestError, MailExpired, MailSkipped
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.database.request_records import RequestRecords
from flowstate_daemon.mail import policy
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.mail.samples import preview_contexts
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Job, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.batch import EXPIRED_REASON, MAYBE_SENT
from flowstate_daemon.sending.request_recorder import OLD_JOB_MS, OUTCOME_WAIT_MS
from flowstate_daemon.sending.stored_request import StoredRequest
from flowstate_daemon.worker.earlier_requests import EarlierRequests
from flowstate_daemon.worker.in_flight import JobRun
from tests.integration.worker.test_crash_points import BAD, settings
from tests.integration.worker.test_lost_requests import forget_memory, write_ledger
from tests.support.clock import FakeClock
from tests.support.crashing_daemon import CrashingDaemon
from tests.support.dispatcher_harness import CODE, REMINDER, DispatcherHarness, mail_of, wait_for_results
from tests.support.fake_resend import Answer, FakeResend, error
from tests.support.older_redis import lose_writes, remember_state

TO = "ada@mail.dev"
now_ms = Clock().now_ms
SCHEDULED_ID = "scheduled.task-reminder.20260302.ada"
REFUSAL = MailExpired("the code has expired")
SENT_AS_FOREIGN = {"FLOWSTATE_SCHEDULE_FOREIGN_JOBS": "send"}
EXPIRES_AT_ONCE = {**SENT_AS_FOREIGN, "FLOWSTATE_SCHEDULE_OVERDUE_SUMMARY_LIFETIME_H": "0.000001"}


async def schedule(pool: asyncpg.Pool) -> None:
    """A scheduled email whose job is in the queue."""
    await pool.execute(
        """
        INSERT INTO flowstate_daemon.scheduled_mails
            (kind, user_id, local_date, zone, due_at, expires_at, job_id, planned_at, state, queued_at)
        VALUES ('task-reminder', 'ada', '2026-03-02', 'UTC', now(), now() + '1 hour', $1, now(), 'queued', now())
        """,
        SCHEDULED_ID,
    )


async def suppress(pool: asyncpg.Pool) -> None:
    await Suppressions(pool, Clock()).add(TO, "manual")


@pytest.mark.parametrize(
    ("kind", "job_id", "later", "suppressed"),
    [
        ("task-reminder", SCHEDULED_ID, {}, False),
        ("welcome", None, {}, True),
        ("task-reminder", None, {"FLOWSTATE_SCHEDULE_FOREIGN_JOBS": "skip"}, False),
        ("overdue-summary", None, EXPIRES_AT_ONCE, False),
    ],
    ids=["scheduled", "suppressed", "duplicate", "expired"],
)
async def test_email_that_was_sent_has_no_other_outcome(  # noqa: PLR0917 - fixtures and cases
    valkey_url: str, database_url: str, pool: asyncpg.Pool, keys: Keys, redis: Redis, connection: Connection,
    fake: FakeResend, kind: str, job_id: str | None, later: Mapping[str, str], *, suppressed: bool,
) -> None:  # fmt: skip
    """Another process claims the job: it completes with the id of the first time, and the ledger has one row."""
    environment = {**settings(valkey_url, keys, fake), "DATABASE_URL": database_url, **SENT_AS_FOREIGN}
    await schedule(pool)
    data = {"type": kind, "to": TO, "context": preview_contexts()[kind]}
    await BullQueue(connection, keys, Clock(), token="test").add_many([NewJob(kind, data, job_id=job_id)])
    state = await remember_state(valkey_url, keys)

    async def in_ledger() -> bool:
        is_sent = await pool.fetchval("SELECT count(*) FROM flowstate_daemon.mails") > 0
        return is_sent and await redis.zcard(keys("completed")) == 1 and not await redis.exists(keys.own("journal"))

    await CrashingDaemon(environment).run_until(in_ledger)
    await lose_writes(valkey_url, state)
    if suppressed:
        await suppress(pool)
    await CrashingDaemon({**environment, **later}).run_until(in_ledger)
    (accepted,) = fake.accepted
    (completed,) = await redis.zrange(keys("completed"), 0, -1)
    assert json.loads(await redis.hget(keys.job(completed), "returnvalue") or "")["id"] == accepted.id
    rows = await pool.fetch("SELECT outcome, provider_id FROM flowstate_daemon.mails")
    assert [tuple(row) for row in rows] == [("sent", accepted.id)]
    assert await redis.llen(keys.own("journal")) == 0


@pytest.fixture
def harness(recording_harness: DispatcherHarness) -> DispatcherHarness:
    return recording_harness


class Settled:
    """What `EarlierRequests` says about jobs, in one process after another."""

    def __init__(self, harness: DispatcherHarness, *, ahead_ms: int = 0) -> None:
        clock = FakeClock(harness.clock.now())
        clock.advance(ahead_ms / 1000)
        self._requests = EarlierRequests(harness.request_store, harness.records, clock, provider="resend")

    async def of(
        self, job: Job, *, requests: int = 0, refusal: MailSkipped = REFUSAL
    ) -> Accepted | MailSkipped | EarlierRequestError:
        """`job` as Redis has it after it has lost all its requests but `requests`."""
        lost = msgspec.structs.replace(job, requests=requests, stored_request_id=None)
        run = JobRun(lost, 0.0, recipient=mail_of(job).to, urgent=job.priority == CODE)
        try:
            return await self._requests.settle(run, refusal)
        except (MailSkipped, EarlierRequestError) as error:
            return error
        finally:
            await self._requests.close()


@pytest.mark.parametrize("priority", [CODE, REMINDER])
@pytest.mark.parametrize("with_postgres", [True, False])
async def test_the_same_process_knows_what_it_has_sent(
    harness: DispatcherHarness, priority: int, *, with_postgres: bool
) -> None:
    """Also without Postgres, and before the ledger has the outcome."""
    if not with_postgres:
        harness.records = None
    jobs = await harness.jobs(3, priority)
    results = await wait_for_results([harness.post(job) for job in jobs])
    assert [await Settled(harness).of(job) for job in jobs] == results
    (other,) = await harness.jobs(1, priority)
    assert await Settled(harness).of(other) is REFUSAL


async def test_email_that_the_provider_rejected_is_skipped(harness: DispatcherHarness) -> None:
    """In this process and in others: it was not sent."""
    (job,) = await harness.jobs(1)
    others = await harness.jobs(2)
    posted = [harness.post(job, to=BAD[0]), *(harness.post(other) for other in others)]
    (rejected, *accepted) = await wait_for_results(posted)
    assert not isinstance(rejected, Accepted)
    assert all(isinstance(one, Accepted) for one in accepted)
    assert await Settled(harness).of(job) is REFUSAL
    forget_memory(harness)
    assert await Settled(harness).of(job) is REFUSAL


@pytest.mark.parametrize("priority", [CODE, REMINDER])
async def test_another_process_waits_for_the_outcome(
    harness: DispatcherHarness, pool: asyncpg.Pool, priority: int
) -> None:
    """Until the ledger has it. After two minutes no process can learn it, and the reason says so."""
    jobs = await harness.jobs(2, priority)
    results = await wait_for_results([harness.post(job) for job in jobs])
    forget_memory(harness)
    for job in jobs:
        assert isinstance(await Settled(harness).of(job), EarlierRequestError)
        late = await Settled(harness, ahead_ms=OUTCOME_WAIT_MS + 1_000).of(job)
        assert isinstance(late, MailExpired)
        assert late.reason == "the code has expired (the email may have been sent)"
    await write_ledger(harness, pool, jobs, results)
    assert [await Settled(harness).of(job) for job in jobs] == results


async def test_request_that_redis_has_not_lost_is_no_reason_to_wait(harness: DispatcherHarness) -> None:
    """The job has left it, so the email was not sent with it."""
    (job,) = await harness.jobs(1)
    await wait_for_results([harness.post(job)])
    assert await Settled(harness).of(job, requests=1) is REFUSAL
    forget_memory(harness)
    assert await Settled(harness).of(job, requests=1) is REFUSAL


async def test_doubt_is_said_once(harness: DispatcherHarness) -> None:
    """The refusal may say already that the email may have been sent."""
    (job,) = await harness.jobs(1)
    await wait_for_results([harness.post(job)])
    forget_memory(harness)
    doubtful = MailExpired(MAYBE_SENT.format(reason="the code has expired"))
    late = await Settled(harness, ahead_ms=OUTCOME_WAIT_MS + 1_000).of(job, refusal=doubtful)
    assert late is doubtful


async def test_another_process_has_sent_the_request_again(
    harness: DispatcherHarness, fake: FakeResend, pool: asyncpg.Pool
) -> None:
    """This one knows the request, but not its outcome: the ledger has it."""
    fake.script(Answer(drop=True))
    (job,) = await harness.jobs(1)
    (failed,) = await wait_for_results([harness.post(job)])
    assert not isinstance(failed, Accepted)
    assert isinstance(await Settled(harness).of(job), EarlierRequestError)
    sent = Accepted("re-1", "resend")
    await write_ledger(harness, pool, [job], [sent])
    assert await Settled(harness).of(job) == sent


async def test_withdrawn_request_is_no_reason_to_wait(harness: DispatcherHarness, pool: asyncpg.Pool) -> None:
    """It was recorded, and withdrawn before it was sent; Postgres could not be told that."""
    (job,) = await harness.jobs(1)
    request = StoredRequest(uuid4().hex, "/emails", b"{}", "key", ((job.id, job.timestamp),), saved_at=now_ms())
    await harness.request_store.save(request)
    assert harness.records is not None
    await harness.records.record(request.id, request.key, request.saved_at, request.members, [1])
    assert isinstance(await Settled(harness).of(job), EarlierRequestError)
    await harness.request_store.withdraw(request, {(job.id, job.timestamp): 0})
    assert await Settled(harness).of(job) is REFUSAL
    assert await pool.fetchval("SELECT bool_and(free) FROM flowstate_daemon.request_members")


async def test_job_that_is_older_than_the_records_is_looked_up_in_the_ledger(
    harness: DispatcherHarness, pool: asyncpg.Pool
) -> None:
    """An old copy of Redis was restored."""
    jobs = await harness.jobs(2)
    results = await wait_for_results([harness.post(job) for job in jobs])
    await write_ledger(harness, pool, jobs[:1], results[:1])
    await pool.execute("DELETE FROM flowstate_daemon.request_members")
    forget_memory(harness)
    later = [await Settled(harness, ahead_ms=OLD_JOB_MS + 60_000).of(job) for job in jobs]
    assert later == [results[0], REFUSAL]


@pytest.mark.parametrize("priority", [CODE, REMINDER])
async def test_outage_of_postgres(harness: DispatcherHarness, priority: int) -> None:
    """A code does not wait for it, an email that is not urgent does."""
    (job,) = await harness.jobs(1, priority)
    async with open_pool(clean_dsn("postgresql://nobody@127.0.0.1:1/nothing")) as unreachable:
        harness.records = RequestRecords(unreachable, harness.keys.base)
        asking = asyncio.create_task(Settled(harness).of(job))
        done, _ = await asyncio.wait((asking,), timeout=3)
        if priority == CODE:
            assert done
            assert asking.result() is REFUSAL
        else:
            assert not done
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def test_code_that_expires_before_it_is_sent_is_expired_at_once(
    valkey_url: str, database_url: str, pool: asyncpg.Pool, keys: Keys, redis: Redis, connection: Connection,
    fake: FakeResend, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its request was stored and recorded in this very run, and only refused: nothing is in doubt."""
    monkeypatch.setattr(policy, "parse_lifetime", lambda _: 2)
    fake.script(error(429, "rate_limit_exceeded", retry_after="4"))
    data = {"type": "otp", "to": TO, "context": preview_contexts()["otp"]}
    await BullQueue(connection, keys, Clock(), token="test").add_many([NewJob("otp", data, priority=1)])

    async def completed() -> bool:
        return bool(await redis.zcard(keys("completed")))

    daemon = CrashingDaemon({**settings(valkey_url, keys, fake), "DATABASE_URL": database_url})
    await daemon.run_until(completed)
    assert json.loads(await redis.hget(keys.job("1"), "returnvalue") or "") == {"expired": EXPIRED_REASON}
    assert fake.accepted == []


async def test_expired_code_without_priority_does_not_wait_for_postgres(
    valkey_url: str, keys: Keys, redis: Redis, connection: Connection, fake: FakeResend
) -> None:
    """What makes an email a code is its kind."""
    data = {"type": "otp", "to": TO, "context": preview_contexts()["otp"]}
    created = now_ms() - 3_600_000
    await BullQueue(connection, keys, Clock(), token="test").add_many([NewJob("otp", data, timestamp=created)])

    async def completed() -> bool:
        return bool(await redis.zcard(keys("completed")))

    environment = {**settings(valkey_url, keys, fake), "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    await CrashingDaemon(environment).run_until(completed)
    assert "expired" in json.loads(await redis.hget(keys.job("1"), "returnvalue") or "")
