"""Manual runs and dry runs on real stores: the right recipients, no duplicates, and a dry run writes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon.builders import build_manual_runs, build_planning
from flowstate_daemon.database.app_database import AppDatabase, AppTablesUnavailableError
from flowstate_daemon.database.preferences import PreferenceStore, RecipientSettings
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.preferences import Preferences
from flowstate_daemon.scheduler.manual_runs import DryRunItem, InvalidRunRequestError, ManualRuns, RunRequest
from tests.support.app_tables import AppTables, stored
from tests.support.clock import FakeClock
from tests.support.scheduler import SchedulerHarness

KIND = "task-reminder"
NOON_TOMORROW = stored(2026, 3, 3, 12)  # it is Monday 2 March, 09:00 in Paris


@pytest.fixture
def manual_runs(harness: SchedulerHarness, migrated_url: str, clock: FakeClock) -> ManualRuns:
    config = load({"DATABASE_URL": migrated_url, "FRONTEND_URL": "https://flowstate.example"})
    return build_manual_runs(config, harness.pool, clock)


async def due(app: AppTables, name: str, title: str = "Call back", **columns: Any) -> None:
    """A user with a task due tomorrow."""
    await app.user(name, **columns)
    await app.task(name, title, NOON_TOMORROW)


async def dry_run(manual_runs: ManualRuns, request: RunRequest) -> list[DryRunItem]:
    return [one async for one in manual_runs.dry_run(request)]


async def test_manual_run_plans_and_enqueuer_sends(
    manual_runs: ManualRuns, harness: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """A schedule can be run before its due time; at the due time no user gets a second email."""
    clock.jump(-3 * 3600)
    await due(app, "ada")
    ran = await manual_runs.run(RunRequest(KIND, clock.now()))
    assert (ran.found, ran.recipients, ran.scheduled, ran.reopened) == (1, 1, 1, 0)
    assert await harness.tick() == 1
    assert (await manual_runs.run(RunRequest(KIND, clock.now()))).scheduled == 0
    clock.jump(3 * 3600)
    assert await harness.tick() == 0
    assert [row["source"] for row in await harness.scheduled_mails()] == ["manual"]


async def test_run_of_a_weekly_report_on_the_day_after_is_the_same_report(
    manual_runs: ManualRuns, harness: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """Until its deadline on Monday noon the report of Sunday evening is still the one that is due."""
    await app.user("ada")
    await app.session("ada", stored(2026, 2, 26, 9))
    report = RunRequest("focus-report", clock.now())
    assert [str(item.local_date) for item in await dry_run(manual_runs, report)] == ["2026-03-01"]
    ran = await manual_runs.run(report)
    assert ran.scheduled == 1
    assert await harness.tick() == 1
    assert [str(row["local_date"]) for row in await harness.scheduled_mails()] == ["2026-03-01"]
    assert (await manual_runs.run(report)).scheduled == 0
    clock.jump(4 * 3600)
    later = RunRequest("focus-report", clock.now())
    assert [str(item.local_date) for item in await dry_run(manual_runs, later)] == ["2026-03-02"]


async def test_force_sends_again(
    manual_runs: ManualRuns, harness: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """Ended emails are planned again with a new job id; waiting ones are not changed."""
    await due(app, "ada")
    await manual_runs.run(RunRequest(KIND, clock.now()))
    assert (await manual_runs.run(RunRequest(KIND, clock.now(), force=True))).reopened == 0
    assert await harness.tick() == 1
    ran = await manual_runs.run(RunRequest(KIND, clock.now(), force=True))
    assert (ran.reopened, ran.scheduled) == (1, 0)
    assert await harness.tick() == 1
    assert len({mail.job_id for mail in harness.fake_worker.delivered}) == 2
    assert [row["source"] for row in await harness.scheduled_mails()] == ["forced"]


async def test_dry_run_lists_all_recipients_and_writes_nothing(
    manual_runs: ManualRuns, harness: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """A dry run shows the rendered email of each recipient, or the reason why there is none."""
    await due(app, "ada", "<b>Call</b>", preferences={"language": "fr"}, fullName="Ada")
    await due(app, "bea", isEmailVerified=False)
    await due(app, "cem", deletedAt=stored(2026, 3, 1))
    await due(app, "dan", preferences={"notifications": {"taskReminders": False}})
    await due(app, "eva")
    await due(app, "fay", email="no address")
    await Suppressions(harness.pool, clock).unsubscribe("eva@example.org", KIND)
    found = {one.user_id: one for one in await dry_run(manual_runs, RunRequest(KIND, clock.now()))}
    assert {name: one.reason for name, one in found.items()} == {
        "ada": "",
        "bea": "the user has not verified the address",
        "cem": "the account is deleted",
        "dan": "the user has switched these emails off",
        "eva": "the recipient has unsubscribed from this kind of email",
        "fay": found["fay"].reason,
    }
    assert "address" in found["fay"].reason
    mail = found["ada"].mail
    assert mail is not None
    assert "&lt;b&gt;Call" in mail.html
    assert "demain" in mail.subject
    document = found["ada"].to_dict(bodies=True)
    assert (document["sends"], document["text"]) == (True, mail.text)
    assert await harness.scheduled_mails() == []
    assert await harness.tick() == 1  # the clock's own round finds everything as it was


async def test_dry_run_for_one_address(manual_runs: ManualRuns, app: AppTables, clock: FakeClock) -> None:
    """However the address is written; an unknown one finds nothing."""
    await due(app, "ada")
    await due(app, "bea")
    request = RunRequest(KIND, clock.now())
    found = [one async for one in manual_runs.dry_run(request, "Ada@EXAMPLE.org")]
    assert [one.user_id for one in found] == ["ada"]
    assert [one async for one in manual_runs.dry_run(request, "unknown@example.org")] == []


async def test_dry_run_reports_mails_already_sent(
    manual_runs: ManualRuns, harness: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """After the email of the day a run would send nothing, and reports that; a forced run would send."""
    await due(app, "ada")
    await harness.tick()
    (one,) = await dry_run(manual_runs, RunRequest(KIND, clock.now()))
    assert (one.would_send, one.reason) == (False, "already sent for that date")
    (forced,) = await dry_run(manual_runs, RunRequest(KIND, clock.now(), force=True))
    assert forced.would_send


async def test_one_instant_covers_different_local_dates(
    manual_runs: ManualRuns, app: AppTables, clock: FakeClock
) -> None:
    """At 20:00 UTC it is already tomorrow in Auckland: one run covers different local dates."""
    morning = datetime(2026, 3, 3, 6)  # noqa: DTZ001 - as the application stores it
    for name, zone in (("ada", "Pacific/Auckland"), ("ben", "Europe/Paris")):
        await app.user(name, preferences={"timezone": zone})
        await app.task(name, "Call back", morning)
    at = datetime(2026, 3, 1, 20, tzinfo=UTC)
    assert {one.user_id for one in await dry_run(manual_runs, RunRequest(KIND, at))} == {"ada"}
    assert {one.user_id for one in await dry_run(manual_runs, RunRequest(KIND, at + timedelta(days=1)))} == {"ben"}


async def test_large_dry_run_is_read_in_pages(
    manual_runs: ManualRuns, app: AppTables, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every recipient is returned once and in order, with at most five hundred per query."""
    await app.connection.execute(
        """INSERT INTO users (id, email, password, "isEmailVerified", "updatedAt")
        SELECT 'u' || n, n || '@mail.example', '', true, now() FROM generate_series(1, 1201) AS n"""
    )
    await app.connection.execute(
        """INSERT INTO tasks (id, "userId", title, "dueDate", "updatedAt")
        SELECT 't' || n, 'u' || n, 'x', '2026-03-03 12:00', now() FROM generate_series(1, 1201) AS n"""
    )
    asked: list[int] = []
    check = manual_runs._eligibility.check

    async def counted(schedule: Any, mails: Any) -> Any:
        asked.append(len(mails))
        return await check(schedule, mails)

    monkeypatch.setattr(manual_runs._eligibility, "check", counted)
    found = [one.user_id for one in await dry_run(manual_runs, RunRequest(KIND, clock.now()))]
    assert len(found) == len(set(found)) == 1201
    assert asked == [500, 500, 201]


async def test_overview_lists_next_and_last_runs(
    manual_runs: ManualRuns, harness: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """Zones due at the same instant are grouped; the last run is reported with the states of its emails."""
    await due(app, "ada")
    await due(app, "ben", preferences={"timezone": "Europe/Berlin"})
    await due(app, "cem", preferences={"timezone": "Asia/Tokyo"}, isEmailVerified=False)
    await harness.tick()
    reminder, overdue, report = await manual_runs.overview()
    assert [one.name for one in (reminder, overdue, report)] == manual_runs.names
    assert [(following.at, following.zones) for following in reminder.next] == [
        (datetime(2026, 3, 3, 0, tzinfo=UTC), ("Asia/Tokyo",)),
        (datetime(2026, 3, 3, 8, tzinfo=UTC), ("Europe/Berlin", "Europe/Paris")),
    ]
    assert reminder.cron == "0 9 * * *"
    assert reminder.last is not None
    assert (reminder.last.scheduled, dict(reminder.last.states)) == (2, {"sent": 2})


async def test_overview_shows_a_manual_run(
    manual_runs: ManualRuns, harness: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """Before any run by the clock, also when it found no recipient: when, by whom, and the states of its emails."""
    clock.jump(-3 * 3600)
    await manual_runs.run(RunRequest(KIND, clock.now()), actor="ops on host")
    last = (await manual_runs.overview())[0].last
    assert last is not None
    assert (last.source, last.actor, last.first_at, last.scheduled) == ("manual", "ops on host", clock.now(), 0)
    await due(app, "ada")
    clock.jump(60)
    await manual_runs.run(RunRequest(KIND, clock.now() - timedelta(days=20)), actor="a")
    await manual_runs.run(RunRequest(KIND, clock.now()), actor="ops on host")
    reminder, overdue, _ = await manual_runs.overview()
    assert reminder.last is not None
    assert (reminder.last.last_at, dict(reminder.last.states)) == (clock.now(), {"planned": 1})
    assert await harness.tick() == 1
    reminder = (await manual_runs.overview())[0]
    assert reminder.last is not None
    assert (reminder.last.scheduled, dict(reminder.last.states)) == (1, {"sent": 1})
    assert overdue.last is None


async def test_overview_after_a_forced_run_has_no_blanks(
    manual_runs: ManualRuns, harness: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """The forced run is the last one; the run by the clock of the next day is the last one then, with its states."""
    for name in ("ada", "ben"):
        await due(app, name)
        await app.task(name, "Day after", stored(2026, 3, 4, 12))
    assert await harness.tick() == 2
    clock.jump(3600)
    await manual_runs.run(RunRequest(KIND, clock.now(), force=True))
    last = (await manual_runs.overview())[0].last
    assert last is not None
    assert (last.source, last.scheduled, dict(last.states)) == ("manual", 2, {"planned": 2})
    assert await harness.tick() == 2
    clock.jump(23 * 3600)
    assert await harness.tick() == 2
    last = (await manual_runs.overview())[0].last
    assert last is not None
    assert (last.source, last.actor, last.scheduled, dict(last.states)) == ("clock", "", 2, {"sent": 2})


async def test_forced_emails_stay_in_the_run_of_their_date(
    manual_runs: ManualRuns, harness: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """Tokyo's run by the clock comes after the forced run: Paris' run of the morning keeps its states."""
    await due(app, "ada")
    await due(app, "cem", preferences={"timezone": "America/New_York"})
    assert await harness.tick() == 1
    clock.jump(3600)
    await manual_runs.run(RunRequest(KIND, clock.now(), force=True))
    assert await harness.tick() == 2
    clock.jump(6 * 3600)  # 09:00 in New York
    await harness.tick()
    last = (await manual_runs.overview())[0].last
    assert last is not None
    assert (last.source, dict(last.states)) == ("clock", {"sent": 2})


async def test_forced_run_with_chosen_hours(
    manual_runs: ManualRuns, harness: SchedulerHarness, app: AppTables, clock: FakeClock
) -> None:
    """Two hours in one zone are two runs; a forced run takes both, and each email counts once in each list."""
    clock.jump(-3 * 3600)  # 06:00
    for name in ("ada", "bea", "cem"):
        await due(app, name)
        await app.task(name, "Day after", stored(2026, 3, 4, 12))
    await PreferenceStore(harness.pool, clock).save("bea@example.org", RecipientSettings(Preferences(morning_hour=7)))
    counts = []
    for hours in (0, 1, 2, 1):
        clock.jump(hours * 3600)
        counts.append(await harness.tick())
    assert counts == [0, 1, 2, 0]
    assert await states_of_runs(harness) == [(7, {"sent": 1}), (9, {"sent": 2})]
    request = RunRequest(KIND, clock.now())
    assert {one.reason for one in await dry_run(manual_runs, request)} == {"already sent for that date"}
    forced = RunRequest(KIND, clock.now(), force=True)
    assert {one.to for one in await dry_run(manual_runs, forced) if one.mail} == {
        f"{name}@example.org" for name in ("ada", "bea", "cem")
    }
    ran = await manual_runs.run(forced)
    assert (ran.recipients, ran.scheduled, ran.reopened) == (3, 0, 3)
    assert sum(states.get("planned", 0) for _, states in await states_of_runs(harness)) == 3
    last = (await manual_runs.overview())[0].last
    assert last is not None
    assert (last.source, last.scheduled, dict(last.states)) == ("manual", 3, {"planned": 3})
    assert await harness.tick() == 3
    assert sum(states.get("sent", 0) for _, states in await states_of_runs(harness)) == 3
    clock.jump(21 * 3600)  # 07:00 on the next day
    assert await harness.tick() == 1
    clock.jump(2 * 3600)
    assert await harness.tick() == 2
    assert await states_of_runs(harness) == [(7, {"sent": 1}), (9, {"sent": 2})]
    last = (await manual_runs.overview())[0].last
    assert last is not None
    assert (last.source, last.scheduled, dict(last.states)) == ("clock", 3, {"sent": 3})


async def states_of_runs(harness: SchedulerHarness) -> list[tuple[int, dict[str, int]]]:
    """Of each run of the kind that the list has: its hour in Paris, and its emails by state."""
    planning = build_planning(load({}), AppDatabase(harness.pool))
    runs = await planning.recent_runs(harness.clock.now() - timedelta(days=7))
    paris = ZoneInfo("Europe/Paris")
    return sorted((run.due_at.astimezone(paris).hour, dict(run.states)) for run in runs if run.kind == KIND)


@pytest.mark.parametrize(
    ("name", "days", "reason"),
    [("weekly", 0, "no schedule has that name"), (KIND, 1, "only the last 31 days"), (KIND, -32, "only the")],
)
async def test_invalid_run_requests_are_refused(
    manual_runs: ManualRuns, clock: FakeClock, name: str, days: int, reason: str
) -> None:
    """A run for a future day or one too long ago is refused."""
    with pytest.raises(InvalidRunRequestError, match=reason):
        await manual_runs.run(RunRequest(name, clock.now() + timedelta(days=days)))


async def test_missing_table_is_named(manual_runs: ManualRuns, harness: SchedulerHarness, clock: FakeClock) -> None:
    """Reports need sessions; a dry run of reminders still works."""
    await harness.pool.execute("DROP TABLE focus_sessions")
    with pytest.raises(AppTablesUnavailableError, match="focus_sessions"):
        await manual_runs.run(RunRequest("focus-report", clock.now()))
    assert await dry_run(manual_runs, RunRequest(KIND, clock.now())) == []


async def test_missing_schema_is_reported_with_the_remedy(
    manual_runs: ManualRuns, harness: SchedulerHarness, clock: FakeClock
) -> None:
    """Without migrations the error names the command to run."""
    await harness.pool.execute("DROP SCHEMA flowstate_daemon CASCADE")
    with pytest.raises(StoreUnavailableError, match="flowstate-daemon migrate"):
        await manual_runs.overview()
