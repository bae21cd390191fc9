"""Schedules run and rehearsed by hand on real stores: the right people, never twice, and a rehearsal writes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon.bootstrap import build_manual_runs
from flowstate_daemon.database.app_database import AppTablesUnavailableError
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.scheduler.manual_runs import DryRunItem, InvalidRunRequestError, ManualRuns, RunRequest
from tests.support.app_tables import AppTables, stored
from tests.support.clock import FakeClock
from tests.support.scheduler import SchedulerHarness

KIND = "task-reminder"
NOON_TOMORROW = stored(2026, 3, 3, 12)  # it is Monday 2 March, 09:00 in Paris


@pytest.fixture
def by_hand(stage: SchedulerHarness, migrated_url: str, clock: FakeClock) -> ManualRuns:
    config = load({"DATABASE_URL": migrated_url, "FRONTEND_URL": "https://flowstate.example"})
    return build_manual_runs(config, stage.pool, clock)


async def due(app: AppTables, name: str, title: str = "Call back", **columns: Any) -> None:
    """Somebody with a task due tomorrow."""
    await app.user(name, **columns)
    await app.task(name, title, NOON_TOMORROW)


async def dry_run(by_hand: ManualRuns, request: RunRequest) -> list[DryRunItem]:
    return [one async for one in by_hand.dry_run(request)]


async def test_a_run_plans_and_the_feeder_sends(
    by_hand: ManualRuns, stage: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """Long before its hour a schedule can be run; when the clock strikes, nobody gets a second mail."""
    clock.jump(-3 * 3600)
    await due(app, "ada")
    ran = await by_hand.run(RunRequest(KIND, clock.now()))
    assert (ran.found, ran.recipients, ran.scheduled, ran.reopened) == (1, 1, 1, 0)
    assert await stage.tick() == 1
    assert (await by_hand.run(RunRequest(KIND, clock.now()))).scheduled == 0
    clock.jump(3 * 3600)
    assert await stage.tick() == 0
    assert [row["source"] for row in await stage.scheduled_mails()] == ["manual"]


async def test_force_sends_once_more(
    by_hand: ManualRuns, stage: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """What has ended opens again with a job of its own; what still waits is left alone."""
    await due(app, "ada")
    await by_hand.run(RunRequest(KIND, clock.now()))
    assert (await by_hand.run(RunRequest(KIND, clock.now(), force=True))).reopened == 0
    assert await stage.tick() == 1
    ran = await by_hand.run(RunRequest(KIND, clock.now(), force=True))
    assert (ran.reopened, ran.scheduled) == (1, 0)
    assert await stage.tick() == 1
    assert len({mail.job_id for mail in stage.fake_worker.carried}) == 2
    assert [row["source"] for row in await stage.scheduled_mails()] == ["forced"]


async def test_a_rehearsal_tells_everybody_and_writes_nothing(
    by_hand: ManualRuns, stage: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """Who gets what, rendered; and each reason why somebody does not."""
    await due(app, "ada", "<b>Call</b>", preferences={"language": "fr"}, fullName="Ada")
    await due(app, "bea", isEmailVerified=False)
    await due(app, "cem", deletedAt=stored(2026, 3, 1))
    await due(app, "dan", preferences={"notifications": {"taskReminders": False}})
    await due(app, "eva")
    await due(app, "fay", email="no address")
    await Suppressions(stage.pool, clock).unsubscribe("eva@example.org", KIND)
    found = {one.user_id: one for one in await dry_run(by_hand, RunRequest(KIND, clock.now()))}
    assert {name: one.reason for name, one in found.items()} == {
        "ada": "",
        "bea": "the user has not verified the address",
        "cem": "the account is deleted",
        "dan": "the user has switched these emails off",
        "eva": "the person has unsubscribed from this kind of mail",
        "fay": found["fay"].reason,
    }
    assert "address" in found["fay"].reason
    mail = found["ada"].mail
    assert mail is not None
    assert "&lt;b&gt;Call" in mail.html
    assert "demain" in mail.subject
    document = found["ada"].to_dict(bodies=True)
    assert (document["sends"], document["text"]) == (True, mail.text)
    assert await stage.scheduled_mails() == []
    assert await stage.tick() == 1  # the clock's own round finds everything as it was


async def test_a_rehearsal_knows_what_was_sent(
    by_hand: ManualRuns, stage: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """After the day's mail a run would send nothing, and says so; forced, it would."""
    await due(app, "ada")
    await stage.tick()
    (one,) = await dry_run(by_hand, RunRequest(KIND, clock.now()))
    assert (one.would_send, one.reason) == (False, "already sent for that date")
    (forced,) = await dry_run(by_hand, RunRequest(KIND, clock.now(), force=True))
    assert forced.would_send


async def test_an_instant_is_another_date_elsewhere(by_hand: ManualRuns, app: AppTables, clock: FakeClock) -> None:
    """At 20:00 UTC it is tomorrow in Auckland: the same run speaks of different days."""
    morning = datetime(2026, 3, 3, 6)  # noqa: DTZ001 - as the application stores it
    for name, zone in (("ada", "Pacific/Auckland"), ("ben", "Europe/Paris")):
        await app.user(name, preferences={"timezone": zone})
        await app.task(name, "Call back", morning)
    at = datetime(2026, 3, 1, 20, tzinfo=UTC)
    assert {one.user_id for one in await dry_run(by_hand, RunRequest(KIND, at))} == {"ada"}
    assert {one.user_id for one in await dry_run(by_hand, RunRequest(KIND, at + timedelta(days=1)))} == {"ben"}


async def test_a_thousand_people_come_in_portions(
    by_hand: ManualRuns, app: AppTables, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody once and in order, with at most five hundred in one question."""
    await app.connection.execute(
        """INSERT INTO users (id, email, password, "isEmailVerified", "updatedAt")
        SELECT 'u' || n, n || '@mail.example', '', true, now() FROM generate_series(1, 1201) AS n"""
    )
    await app.connection.execute(
        """INSERT INTO tasks (id, "userId", title, "dueDate", "updatedAt")
        SELECT 't' || n, 'u' || n, 'x', '2026-03-03 12:00', now() FROM generate_series(1, 1201) AS n"""
    )
    asked: list[int] = []
    check = by_hand._eligibility.check

    async def counted(schedule: Any, mails: Any) -> Any:
        asked.append(len(mails))
        return await check(schedule, mails)

    monkeypatch.setattr(by_hand._eligibility, "check", counted)
    found = [one.user_id for one in await dry_run(by_hand, RunRequest(KIND, clock.now()))]
    assert len(found) == len(set(found)) == 1201
    assert asked == [500, 500, 201]


async def test_the_overview_tells_what_is_next_and_what_was_last(
    by_hand: ManualRuns, stage: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """Zones with the same instant stand together; the last round is told with what became of its slots."""
    await due(app, "ada")
    await due(app, "ben", preferences={"timezone": "Europe/Berlin"})
    await due(app, "cem", preferences={"timezone": "Asia/Tokyo"}, isEmailVerified=False)
    await stage.tick()
    reminder, overdue, report = await by_hand.overview()
    assert [one.name for one in (reminder, overdue, report)] == by_hand.names
    assert [(following.at, following.zones) for following in reminder.next] == [
        (datetime(2026, 3, 3, 0, tzinfo=UTC), ("Asia/Tokyo",)),
        (datetime(2026, 3, 3, 8, tzinfo=UTC), ("Europe/Berlin", "Europe/Paris")),
    ]
    assert reminder.cron == "0 9 * * *"
    assert reminder.last is not None
    assert (reminder.last.scheduled, dict(reminder.last.states)) == (2, {"sent": 2})


@pytest.mark.parametrize(
    ("name", "days", "reason"),
    [("weekly", 0, "no schedule has that name"), (KIND, 1, "only the last 31 days"), (KIND, -32, "only the")],
)
async def test_senseless_wishes_are_refused(
    by_hand: ManualRuns, clock: FakeClock, name: str, days: int, reason: str
) -> None:
    """Nothing is sent for a day that has not come, or that nobody remembers."""
    with pytest.raises(InvalidRunRequestError, match=reason):
        await by_hand.run(RunRequest(name, clock.now() + timedelta(days=days)))


async def test_a_missing_table_is_named(by_hand: ManualRuns, stage: SchedulerHarness, clock: FakeClock) -> None:
    """Reports need sessions; reminders can still be rehearsed."""
    await stage.pool.execute("DROP TABLE focus_sessions")
    with pytest.raises(AppTablesUnavailableError, match="focus_sessions"):
        await by_hand.run(RunRequest("focus-report", clock.now()))
    assert await dry_run(by_hand, RunRequest(KIND, clock.now())) == []


async def test_without_our_tables_the_remedy_is_named(
    by_hand: ManualRuns, stage: SchedulerHarness, clock: FakeClock
) -> None:
    """Who has not migrated is told to."""
    await stage.pool.execute("DROP SCHEMA flowstate_daemon CASCADE")
    with pytest.raises(StoreUnavailableError, match="flowstate-daemon migrate"):
        await by_hand.overview()
