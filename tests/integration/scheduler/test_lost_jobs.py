"""Scheduled emails whose job vanishes: whatever Redis loses or restores, each ends once and is sent at most once."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.database.ledger import parse_outcome
from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.database.request_records import RequestRecords
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.admin import QueueAdmin
from flowstate_daemon.queue.job import AddResult
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.scheduler.reconciler import LOST_REASON, VANISHED_REASON
from tests.integration.scheduler.test_scheduler import REMINDER, due
from tests.support.app_tables import AppTables
from tests.support.clock import FakeClock
from tests.support.scheduler import SchedulerHarness


async def flush(connection: Connection, keys: Keys) -> None:
    """Delete the keys of this test, as FLUSHALL would."""
    found = await connection.execute("KEYS", f"{keys.base}*")
    if found:
        await connection.execute("DEL", *found)


async def queued(app: AppTables, harness: SchedulerHarness) -> asyncpg.Record:
    """Ada's scheduled email of today, whose job waits in the queue."""
    await due(app, "ada")
    await harness.plan()
    await harness.enqueue_due()
    (row,) = await harness.scheduled_mails()
    return row


async def state_of(harness: SchedulerHarness, recipient: str = "ada") -> tuple[str, str | None]:
    return (await harness.outcomes())[REMINDER, recipient]


async def test_unclaimed_mails_are_rescheduled_after_a_flush(
    app: AppTables, harness: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """When Redis loses waiting jobs, their emails get new jobs, and each is sent once."""
    for recipient in ("ada", "ben"):
        await due(app, recipient)
    await harness.plan()
    await harness.enqueue_due()
    await flush(connection, keys)
    clock.advance(61)
    await harness.scheduler.reconciler.run_once()
    assert await state_of(harness) == ("planned", None)
    assert await harness.tick() == 2
    assert [mail.job_id[-2:] for mail in harness.fake_worker.delivered] == [".1", ".1"]
    assert await state_of(harness) == ("sent", None)


async def record_request(harness: SchedulerHarness, keys: Keys, row: asyncpg.Record, timestamp: int = 1) -> str:
    """What a worker does before it sends the email: record the request that contains it. Returns the request's id."""
    records = RequestRecords(harness.pool, keys.base)
    job, request = (row["job_id"], timestamp), uuid4().hex
    assert await records.record(request, "key", harness.clock.now_ms(), [job], [1]) == set()
    return request


async def test_claimed_mail_that_was_in_no_request_is_rescheduled(
    app: AppTables, harness: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """A worker had claimed it, and Redis lost the job before any request contained it: it is sent all the same."""
    for recipient in ("ada", "ben"):
        await due(app, recipient)
    await harness.plan()
    await harness.enqueue_due()
    rows = await harness.scheduled_mails()
    await harness.scheduler.scheduled_mails.claim([row["job_id"] for row in rows])
    await record_request(harness, keys, rows[1])
    await flush(connection, keys)
    clock.advance(61)
    await harness.scheduler.reconciler.run_once()
    assert await state_of(harness) == ("queued", None)  # it may be on its way into a request
    clock.advance(120)
    await harness.scheduler.reconciler.run_once()
    assert await state_of(harness) == ("planned", None)
    assert await state_of(harness, "ben") == ("queued", None)
    assert await harness.tick() == 1
    assert [mail.job_id for mail in harness.fake_worker.delivered] == [f"{rows[0]['job_id']}.1"]
    assert not await harness.scheduler.scheduled_mails.claim([rows[0]["job_id"]])


async def test_claimed_mail_whose_request_was_rejected_is_rescheduled(
    app: AppTables, harness: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """Its record is kept and says that the email was certainly not sent."""
    row = await queued(app, harness)
    await harness.scheduler.scheduled_mails.claim([row["job_id"]])
    request = await record_request(harness, keys, row)
    await RequestRecords(harness.pool, keys.base).forget(request, [(row["job_id"], 1)])
    await flush(connection, keys)
    clock.advance(181)
    await harness.scheduler.reconciler.run_once()
    assert await state_of(harness) == ("planned", None)


async def test_rescheduled_mail_is_like_one_that_was_never_claimed(
    app: AppTables, harness: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """The claim of its first job says nothing about the second: that one is settled as any other."""
    row = await queued(app, harness)
    await harness.scheduler.scheduled_mails.claim([row["job_id"]])
    await flush(connection, keys)
    clock.advance(181)
    await harness.scheduler.reconciler.run_once()
    await harness.enqueue_due()
    assert await state_of(harness) == ("queued", None)
    await connection.execute("DEL", keys.job(f"{row['job_id']}.1"))
    clock.advance(61)
    await harness.scheduler.reconciler.run_once()
    assert await state_of(harness) == ("failed", VANISHED_REASON)


@pytest.mark.parametrize("hours", [23, 25])
async def test_old_claim_without_a_record_proves_nothing(
    app: AppTables, harness: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock, hours: int
) -> None:
    """Records are deleted after a day: a claim that is almost as old fails."""
    row = await queued(app, harness)
    await harness.scheduler.scheduled_mails.claim([row["job_id"]])
    await flush(connection, keys)
    clock.advance(hours * 3600 + 1)
    await harness.scheduler.reconciler.run_once()
    assert await state_of(harness) == ("failed", LOST_REASON)


async def test_request_of_a_similar_job_is_not_mistaken_for_its_own(
    app: AppTables, harness: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """A record belongs to one job id exactly, and to any time at which that job was added."""
    row = await queued(app, harness)
    await harness.scheduler.scheduled_mails.claim([row["job_id"]])
    for other in (f"{row['job_id']}.1", f"{row['job_id']}0", row["job_id"][:-1]):
        await record_request(harness, keys, {"job_id": other})  # type: ignore[arg-type]
    await flush(connection, keys)
    clock.advance(181)
    await harness.scheduler.reconciler.run_once()
    assert (await state_of(harness))[0] == "planned"


@pytest.mark.parametrize("timestamp", [1, 1_795_000_000_000])
async def test_claimed_mail_fails_after_a_flush(
    app: AppTables, harness: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock, timestamp: int
) -> None:
    """A claimed email that was in a request may have been sent: it fails with that reason and is not sent again."""
    row = await queued(app, harness)
    await harness.scheduler.scheduled_mails.claim([row["job_id"]])
    await record_request(harness, keys, row, timestamp)
    await flush(connection, keys)
    clock.advance(61)
    await harness.scheduler.reconciler.run_once()
    assert (await state_of(harness))[0] == "queued"  # it may still be in flight
    clock.advance(600)
    await harness.scheduler.reconciler.run_once()
    assert await state_of(harness) == ("failed", LOST_REASON)
    (record,) = await MailHistory(harness.pool).explain("ada@example.org")
    assert (record.outcome, record.attempts[0].reason) == ("failed", LOST_REASON)
    assert not (await harness.scheduler.scheduled_mails.claim([row["job_id"]]))[row["job_id"]].granted


async def test_outcome_in_the_journal_is_respected(app: AppTables, harness: SchedulerHarness, clock: FakeClock) -> None:
    """While the ledger writer lags behind, the reconciler finds the outcome in the journal and changes nothing."""
    await queued(app, harness)
    worker = harness.fake_worker
    write_ledger, worker.write_ledger = worker.write_ledger, _nothing  # type: ignore[method-assign]
    assert await harness.fake_worker.run_once() == 1
    clock.advance(3600)
    await harness.scheduler.reconciler.run_once()
    assert (await state_of(harness))[0] == "queued"
    await write_ledger()
    assert await state_of(harness) == ("sent", None)


async def _nothing() -> None:
    """Replaces the ledger writer."""


async def test_job_removed_by_others_is_not_recreated(
    app: AppTables, harness: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """When Redis kept its data but the job is gone, another worker or an operator had it: the email fails."""
    row = await queued(app, harness)
    await connection.execute("DEL", keys.job(row["job_id"]))
    clock.advance(61)
    await harness.scheduler.reconciler.run_once()
    assert await state_of(harness) == ("failed", VANISHED_REASON)


async def test_jobs_restored_from_a_backup_are_not_sent(
    app: AppTables, harness: SchedulerHarness, connection: Connection, keys: Keys
) -> None:
    """A backup restores a job whose email was sent: its row has ended and grants no claim."""
    row = await queued(app, harness)
    copy = await connection.execute("DUMP", keys.job(row["job_id"]))
    assert await harness.fake_worker.run_once() == 1
    await connection.execute("RESTORE", keys.job(row["job_id"]), 0, copy)
    await connection.execute("LPUSH", keys("wait"), row["job_id"])
    assert await harness.fake_worker.run_once() == 0
    assert harness.fake_worker.refused == [row["job_id"]]
    assert await state_of(harness) == ("sent", None)


async def test_replaced_job_is_not_sent(
    app: AppTables, harness: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """A lost job turns up after its row has got another one: one of the two is sent."""
    row = await queued(app, harness)
    copy = await connection.execute("DUMP", keys.job(row["job_id"]))
    await flush(connection, keys)
    clock.advance(61)
    await harness.scheduler.reconciler.run_once()
    await connection.execute("RESTORE", keys.job(row["job_id"]), 0, copy)
    await connection.execute("LPUSH", keys("wait"), row["job_id"])
    assert await harness.tick() == 1
    assert harness.fake_worker.refused == [row["job_id"]]
    assert await state_of(harness) == ("sent", None)


@pytest.mark.parametrize("after", [0, 1])
async def test_enqueuer_crash_between_redis_and_postgres_duplicates_nothing(
    app: AppTables, harness: SchedulerHarness, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """It crashes before or after the jobs are in Redis; another one continues, and each user gets one email."""
    for number in range(120):
        await due(app, f"p{number:03}")
    enqueue_many, calls = MailProducer.enqueue_many, []

    async def crashing(producer: MailProducer, orders: list[NewMail]) -> list[AddResult]:
        calls.append(orders)
        if len(calls) == 2:
            if after:
                await enqueue_many(producer, orders)
            raise StoreUnavailableError("the connection is lost")
        return await enqueue_many(producer, orders)

    monkeypatch.setattr(MailProducer, "enqueue_many", crashing)
    await harness.plan()
    with pytest.raises(StoreUnavailableError):
        await harness.enqueue_due()
    delivered = await harness.fake_worker.run_once()  # the enqueued jobs are processed before the enqueuer runs again
    assert delivered == 50 + after * 50
    assert await harness.enqueue_due() == 0  # leased for a while
    clock.advance(31)
    await harness.tick()
    recipients: list[Any] = sorted(mail.to for mail in harness.fake_worker.delivered)
    assert recipients == sorted({*recipients})
    assert len(recipients) == 120


async def test_mail_that_waited_past_its_deadline_is_not_sent(
    app: AppTables, harness: SchedulerHarness, clock: FakeClock
) -> None:
    """An email that waited in the queue until after its deadline is not sent."""
    await queued(app, harness)
    clock.advance(3 * 3600 + 1)
    assert await harness.fake_worker.run_once() == 0
    assert len(harness.fake_worker.refused) == 1


async def test_removed_job_ends_its_scheduled_mail(
    app: AppTables, harness: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """An operator removed the job: it is not enqueued again, and the row says why."""
    row = await queued(app, harness)
    await QueueAdmin(connection, keys, clock, token="op").remove(row["job_id"])
    clock.advance(61)
    reconciler = harness.scheduler.reconciler
    await reconciler.run_once()
    assert (await state_of(harness))[0] == "queued"
    entries = await Journal(connection, keys).peek(10)
    await reconciler._ledger.write([parse_outcome(entry) for entry in entries])
    assert await state_of(harness) == ("skipped", "removed by an operator")
    await reconciler.run_once()
    assert await harness.tick() == 0
