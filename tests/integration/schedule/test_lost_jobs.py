"""Slots whose job vanishes: whatever Redis forgets or brings back, a slot ends once and its mail leaves once."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.database.stories import Stories
from flowstate_daemon.intake import Intake, MailOrder
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.job import Added
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.schedule.reconciler import AWAY, LOST
from tests.integration.schedule.test_calendar import REMINDER, due
from tests.support.application import Application
from tests.support.calendar import Stage
from tests.support.clock import HandClock


async def forget(connection: Connection, keys: Keys) -> None:
    """What FLUSHALL does, to the keys of this test only."""
    found = await connection.call("KEYS", f"{keys.base}*")
    if found:
        await connection.call("DEL", *found)


async def queued(app: Application, stage: Stage) -> asyncpg.Record:
    """Ada's slot of today, whose job waits in the queue."""
    await due(app, "ada")
    await stage.plan()
    await stage.feed()
    (slot,) = await stage.slots()
    return slot


async def state_of(stage: Stage, person: str = "ada") -> tuple[str, str | None]:
    return (await stage.ends())[REMINDER, person]


async def test_what_nobody_had_taken_goes_again_after_a_flush(
    app: Application, stage: Stage, connection: Connection, keys: Keys, clock: HandClock
) -> None:
    """Redis forgets everything while mails wait: they get new jobs, and each leaves once."""
    for person in ("ada", "ben"):
        await due(app, person)
    await stage.plan()
    await stage.feed()
    await forget(connection, keys)
    clock.advance(61)
    await stage.calendar.reconciler.act()
    assert await state_of(stage) == ("planned", None)
    assert await stage.tick() == 2
    assert [mail.job_id[-2:] for mail in stage.postman.carried] == [".1", ".1"]
    assert await state_of(stage) == ("sent", None)


async def test_what_was_under_way_is_not_sent_again_after_a_flush(
    app: Application, stage: Stage, connection: Connection, keys: Keys, clock: HandClock
) -> None:
    """A sender had leave when Redis forgot its job: nobody knows, so the slot fails and says so."""
    slot = await queued(app, stage)
    await stage.calendar.notices.grant([slot["job_id"]])
    await forget(connection, keys)
    clock.advance(61)
    await stage.calendar.reconciler.act()
    assert (await state_of(stage))[0] == "queued"  # it may still be on its way
    clock.advance(600)
    await stage.calendar.reconciler.act()
    assert await state_of(stage) == ("failed", LOST)
    (story,) = await Stories(stage.pool).explain("ada@example.org")
    assert (story.outcome, story.tries[0].reason) == ("failed", LOST)
    assert not (await stage.calendar.notices.grant([slot["job_id"]]))[slot["job_id"]].granted


async def test_an_outcome_that_waits_in_the_journal_counts(app: Application, stage: Stage, clock: HandClock) -> None:
    """The ledger writer is behind: the reconciler sees the mail's outcome in the journal and leaves the slot alone."""
    await queued(app, stage)
    file, stage.postman.file = stage.postman.file, _nothing  # type: ignore[method-assign]
    assert await stage.postman.round() == 1
    clock.advance(3600)
    await stage.calendar.reconciler.act()
    assert (await state_of(stage))[0] == "queued"
    await file()
    assert await state_of(stage) == ("sent", None)


async def _nothing() -> None:
    """No ledger writer."""


async def test_a_job_that_somebody_took_away_is_not_made_again(
    app: Application, stage: Stage, connection: Connection, keys: Keys, clock: HandClock
) -> None:
    """Redis remembers, the job is gone: a Bull worker had it or an operator removed it, and nobody knows which."""
    slot = await queued(app, stage)
    await connection.call("DEL", keys.job(slot["job_id"]))
    clock.advance(61)
    await stage.calendar.reconciler.act()
    assert await state_of(stage) == ("failed", AWAY)


async def test_jobs_out_of_an_old_copy_of_redis_are_not_sent(
    app: Application, stage: Stage, connection: Connection, keys: Keys
) -> None:
    """A backup brings back a job whose mail has left: its slot has ended, and gives no leave."""
    slot = await queued(app, stage)
    copy = await connection.call("DUMP", keys.job(slot["job_id"]))
    assert await stage.postman.round() == 1
    await connection.call("RESTORE", keys.job(slot["job_id"]), 0, copy)
    await connection.call("LPUSH", keys("wait"), slot["job_id"])
    assert await stage.postman.round() == 0
    assert stage.postman.refused == [slot["job_id"]]
    assert await state_of(stage) == ("sent", None)


async def test_a_job_that_was_replaced_is_not_sent(
    app: Application, stage: Stage, connection: Connection, keys: Keys, clock: HandClock
) -> None:
    """The lost job turns up after its slot has got another one: one of the two leaves."""
    slot = await queued(app, stage)
    copy = await connection.call("DUMP", keys.job(slot["job_id"]))
    await forget(connection, keys)
    clock.advance(61)
    await stage.calendar.reconciler.act()
    await connection.call("RESTORE", keys.job(slot["job_id"]), 0, copy)
    await connection.call("LPUSH", keys("wait"), slot["job_id"])
    assert await stage.tick() == 1
    assert stage.postman.refused == [slot["job_id"]]
    assert await state_of(stage) == ("sent", None)


@pytest.mark.parametrize("after", [0, 1])
async def test_a_feeder_that_dies_between_redis_and_postgres_doubles_nothing(
    app: Application, stage: Stage, clock: HandClock, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """It dies before or after the jobs are in Redis; another one takes over, and each person gets one mail."""
    for number in range(120):
        await due(app, f"p{number:03}")
    accept_many, calls = Intake.accept_many, []

    async def dying(intake: Intake, orders: list[MailOrder]) -> list[Added]:
        calls.append(orders)
        if len(calls) == 2:
            if after:
                await accept_many(intake, orders)
            raise Outage("the power is gone")
        return await accept_many(intake, orders)

    monkeypatch.setattr(Intake, "accept_many", dying)
    await stage.plan()
    with pytest.raises(Outage):
        await stage.feed()
    carried = await stage.postman.round()  # the jobs that made it are carried before anybody feeds again
    assert carried == 50 + after * 50
    assert await stage.feed() == 0  # leased for a while
    clock.advance(31)
    await stage.tick()
    people: list[Any] = sorted(mail.to for mail in stage.postman.carried)
    assert people == sorted({*people})
    assert len(people) == 120


async def test_too_late_for_the_window_is_too_late_for_the_provider(
    app: Application, stage: Stage, clock: HandClock
) -> None:
    """A mail that has waited in the queue until after noon is not sent any more."""
    await queued(app, stage)
    clock.advance(3 * 3600 + 1)
    assert await stage.postman.round() == 0
    assert len(stage.postman.refused) == 1
