"""Slots whose job vanishes: whatever Redis forgets or brings back, a slot ends once and its mail leaves once."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.job import AddResult
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.scheduler.reconciler import LOST_REASON, VANISHED_REASON
from tests.integration.scheduler.test_scheduler import REMINDER, due
from tests.support.app_tables import AppTables
from tests.support.clock import FakeClock
from tests.support.scheduler import SchedulerHarness


async def forget(connection: Connection, keys: Keys) -> None:
    """What FLUSHALL does, to the keys of this test only."""
    found = await connection.execute("KEYS", f"{keys.base}*")
    if found:
        await connection.execute("DEL", *found)


async def queued(app: AppTables, stage: SchedulerHarness) -> asyncpg.Record:
    """Ada's slot of today, whose job waits in the queue."""
    await due(app, "ada")
    await stage.plan()
    await stage.enqueue_due()
    (slot,) = await stage.scheduled_mails()
    return slot


async def state_of(stage: SchedulerHarness, recipient: str = "ada") -> tuple[str, str | None]:
    return (await stage.outcomes())[REMINDER, recipient]


async def test_what_nobody_had_taken_goes_again_after_a_flush(
    app: AppTables, stage: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """Redis forgets everything while mails wait: they get new jobs, and each leaves once."""
    for recipient in ("ada", "ben"):
        await due(app, recipient)
    await stage.plan()
    await stage.enqueue_due()
    await forget(connection, keys)
    clock.advance(61)
    await stage.scheduler.reconciler.run_once()
    assert await state_of(stage) == ("planned", None)
    assert await stage.tick() == 2
    assert [mail.job_id[-2:] for mail in stage.fake_worker.carried] == [".1", ".1"]
    assert await state_of(stage) == ("sent", None)


async def test_what_was_under_way_is_not_sent_again_after_a_flush(
    app: AppTables, stage: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """A sender had leave when Redis forgot its job: nobody knows, so the slot fails and says so."""
    slot = await queued(app, stage)
    await stage.scheduler.scheduled_mails.claim([slot["job_id"]])
    await forget(connection, keys)
    clock.advance(61)
    await stage.scheduler.reconciler.run_once()
    assert (await state_of(stage))[0] == "queued"  # it may still be on its way
    clock.advance(600)
    await stage.scheduler.reconciler.run_once()
    assert await state_of(stage) == ("failed", LOST_REASON)
    (record,) = await MailHistory(stage.pool).explain("ada@example.org")
    assert (record.outcome, record.attempts[0].reason) == ("failed", LOST_REASON)
    assert not (await stage.scheduler.scheduled_mails.claim([slot["job_id"]]))[slot["job_id"]].granted


async def test_an_outcome_that_waits_in_the_journal_counts(
    app: AppTables, stage: SchedulerHarness, clock: FakeClock
) -> None:
    """The ledger writer is behind: the reconciler sees the mail's outcome in the journal and leaves the slot alone."""
    await queued(app, stage)
    file, stage.fake_worker.file = stage.fake_worker.file, _nothing  # type: ignore[method-assign]
    assert await stage.fake_worker.round() == 1
    clock.advance(3600)
    await stage.scheduler.reconciler.run_once()
    assert (await state_of(stage))[0] == "queued"
    await file()
    assert await state_of(stage) == ("sent", None)


async def _nothing() -> None:
    """No ledger writer."""


async def test_a_job_that_somebody_took_away_is_not_made_again(
    app: AppTables, stage: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """Redis remembers, the job is gone: a Bull worker had it or an operator removed it, and nobody knows which."""
    slot = await queued(app, stage)
    await connection.execute("DEL", keys.job(slot["job_id"]))
    clock.advance(61)
    await stage.scheduler.reconciler.run_once()
    assert await state_of(stage) == ("failed", VANISHED_REASON)


async def test_jobs_out_of_an_old_copy_of_redis_are_not_sent(
    app: AppTables, stage: SchedulerHarness, connection: Connection, keys: Keys
) -> None:
    """A backup brings back a job whose mail has left: its slot has ended, and gives no leave."""
    slot = await queued(app, stage)
    copy = await connection.execute("DUMP", keys.job(slot["job_id"]))
    assert await stage.fake_worker.round() == 1
    await connection.execute("RESTORE", keys.job(slot["job_id"]), 0, copy)
    await connection.execute("LPUSH", keys("wait"), slot["job_id"])
    assert await stage.fake_worker.round() == 0
    assert stage.fake_worker.refused == [slot["job_id"]]
    assert await state_of(stage) == ("sent", None)


async def test_a_job_that_was_replaced_is_not_sent(
    app: AppTables, stage: SchedulerHarness, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """The lost job turns up after its slot has got another one: one of the two leaves."""
    slot = await queued(app, stage)
    copy = await connection.execute("DUMP", keys.job(slot["job_id"]))
    await forget(connection, keys)
    clock.advance(61)
    await stage.scheduler.reconciler.run_once()
    await connection.execute("RESTORE", keys.job(slot["job_id"]), 0, copy)
    await connection.execute("LPUSH", keys("wait"), slot["job_id"])
    assert await stage.tick() == 1
    assert stage.fake_worker.refused == [slot["job_id"]]
    assert await state_of(stage) == ("sent", None)


@pytest.mark.parametrize("after", [0, 1])
async def test_a_feeder_that_dies_between_redis_and_postgres_doubles_nothing(
    app: AppTables, stage: SchedulerHarness, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """It dies before or after the jobs are in Redis; another one takes over, and each person gets one mail."""
    for number in range(120):
        await due(app, f"p{number:03}")
    enqueue_many, calls = MailProducer.enqueue_many, []

    async def dying(producer: MailProducer, orders: list[NewMail]) -> list[AddResult]:
        calls.append(orders)
        if len(calls) == 2:
            if after:
                await enqueue_many(producer, orders)
            raise StoreUnavailableError("the power is gone")
        return await enqueue_many(producer, orders)

    monkeypatch.setattr(MailProducer, "enqueue_many", dying)
    await stage.plan()
    with pytest.raises(StoreUnavailableError):
        await stage.enqueue_due()
    carried = await stage.fake_worker.round()  # the jobs that made it are carried before anybody feeds again
    assert carried == 50 + after * 50
    assert await stage.enqueue_due() == 0  # leased for a while
    clock.advance(31)
    await stage.tick()
    recipients: list[Any] = sorted(mail.to for mail in stage.fake_worker.carried)
    assert recipients == sorted({*recipients})
    assert len(recipients) == 120


async def test_too_late_for_the_window_is_too_late_for_the_provider(
    app: AppTables, stage: SchedulerHarness, clock: FakeClock
) -> None:
    """A mail that has waited in the queue until after noon is not sent any more."""
    await queued(app, stage)
    clock.advance(3 * 3600 + 1)
    assert await stage.fake_worker.round() == 0
    assert len(stage.fake_worker.refused) == 1
