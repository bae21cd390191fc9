"""What people have chosen on their page decides what the schedules send: hour, zone, pause, cadence, language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from flowstate_daemon.database.preferences import PreferenceStore, RecipientSettings
from flowstate_daemon.mail.preferences import Preferences
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.scheduler.manual_runs import ManualRuns, RunRequest
from tests.support.app_tables import AppTables, stored
from tests.support.clock import FakeClock
from tests.support.scheduler import SchedulerHarness, scheduler_harness

REMINDER, SUMMARY, REPORT = "task-reminder", "overdue-summary", "focus-report"
HOUR_S, DAY_S = 3600, 86_400
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


async def choose(harness: SchedulerHarness, user_id: str, unsubscribed: Sequence[str] = (), **chosen: object) -> None:
    """What somebody saves on the page."""
    store = PreferenceStore(harness.pool, harness.clock)
    preferences = Preferences(**chosen)  # type: ignore[arg-type]
    await store.save(f"{user_id}@example.org", RecipientSettings(preferences, frozenset(unsubscribed)))


async def busy(app: AppTables, user_id: str, preferences: object = None, days: int = 30, **columns: object) -> None:
    """A user with a task due on every day, an old one, and a session on every day."""
    await app.user(user_id, preferences, **columns)
    await app.task(user_id, "Old", stored(2026, 1, 1))
    for day in range(days):
        noon = stored(2026, 3, 1, 12) + timedelta(days=day)
        await app.task(user_id, f"Day {day}", noon)
        await app.session(user_id, noon)


async def run_until(harness: SchedulerHarness, end: datetime, step_s: float = HOUR_S / 2) -> None:
    """A daemon that looks every half hour."""
    while harness.clock.now() < end:
        harness.clock.advance(step_s)
        await harness.tick()


def times(harness: SchedulerHarness, kind: str, user_id: str, since: datetime) -> list[datetime]:
    return [
        mail.at
        for mail in harness.fake_worker.delivered
        if (mail.kind, mail.to) == (kind, f"{user_id}@example.org") and mail.at >= since
    ]


async def test_chosen_hour_and_zone_decide_when_emails_come(app: AppTables, harness: SchedulerHarness) -> None:
    """Both daily kinds come at the chosen hour of the chosen zone, the report at its own; others are not affected."""
    await busy(app, "usual")
    await busy(app, "early")
    await busy(app, "tokyo", {"timezone": "Europe/Paris"})
    await busy(app, "late", {"timezone": "America/New_York"})
    await choose(harness, "early", morning_hour=6)
    await choose(harness, "tokyo", time_zone="Asia/Tokyo", morning_hour=5)
    await choose(harness, "late", morning_hour=11)
    tuesday, wednesday = MONDAY + timedelta(days=1), MONDAY + timedelta(days=2)
    await run_until(harness, wednesday)
    expected = {
        ("usual", REMINDER): 8, ("usual", SUMMARY): 6, ("early", REMINDER): 5, ("early", SUMMARY): 5,
        ("tokyo", REMINDER): 20, ("tokyo", SUMMARY): 20, ("late", REMINDER): 16, ("late", SUMMARY): 16,
    }  # fmt: skip
    found = {key: times(harness, key[1], key[0], tuesday) for key in expected}
    assert found == {key: [tuesday + timedelta(hours=hour)] for key, hour in expected.items()}
    sunday = MONDAY + timedelta(days=6)
    harness.clock.advance((sunday - harness.clock.now()).total_seconds())
    await run_until(harness, sunday + timedelta(hours=20))
    assert (
        times(harness, REPORT, "early", sunday)
        == times(harness, REPORT, "usual", sunday)
        == [sunday + timedelta(hours=16)]
    )
    assert times(harness, REPORT, "tokyo", sunday) == [sunday + timedelta(hours=8)]


async def test_deadline_follows_the_chosen_hour(app: AppTables, harness: SchedulerHarness) -> None:
    """The grace period is as long as that of the usual hour: three hours."""
    await busy(app, "ada")
    await choose(harness, "ada", morning_hour=6)
    await run_until(harness, MONDAY + timedelta(days=1, hours=6))
    rows = [row for row in await harness.scheduled_mails() if row["due_at"] > MONDAY + timedelta(days=1)]
    assert {row["kind"]: row["expires_at"] - row["due_at"] for row in rows} == dict.fromkeys(
        (REMINDER, SUMMARY), timedelta(hours=3)
    )


async def test_the_usual_hour_chosen_explicitly_is_the_usual_run(app: AppTables, harness: SchedulerHarness) -> None:
    """Nine o'clock is the hour of reminders for everybody: no second run, and a summary at nine."""
    await busy(app, "ada")
    await busy(app, "ben")
    await choose(harness, "ada", morning_hour=9)
    tuesday = MONDAY + timedelta(days=1)
    await run_until(harness, tuesday + timedelta(hours=12))
    assert times(harness, REMINDER, "ada", tuesday) == times(harness, REMINDER, "ben", tuesday)
    assert times(harness, SUMMARY, "ada", tuesday) == [tuesday + timedelta(hours=8)]
    async with harness.pool.acquire() as connection:
        zones = await connection.fetch(
            "SELECT DISTINCT kind, zone FROM flowstate_daemon.schedule_runs WHERE due_at > $1", tuesday
        )
    assert {(row["kind"], row["zone"]) for row in zones if row["kind"] != REPORT} == {
        (REMINDER, "Europe/Paris"), (SUMMARY, "Europe/Paris"), (SUMMARY, "Europe/Paris 09"),
    }  # fmt: skip


async def test_choice_made_minutes_before_takes_effect(app: AppTables, harness: SchedulerHarness) -> None:
    """At 05:55 a user chooses six o'clock, in a zone where no other user had: the email comes at six, once that day."""
    await busy(app, "ada")
    await harness.tick()
    tuesday = MONDAY + timedelta(days=1)
    harness.clock.advance((tuesday + timedelta(hours=4, minutes=55) - harness.clock.now()).total_seconds())
    await harness.tick()
    await choose(harness, "ada", morning_hour=6)
    await run_until(harness, tuesday + timedelta(hours=20), 300)
    assert times(harness, REMINDER, "ada", tuesday) == [tuesday + timedelta(hours=5)]


@pytest.mark.parametrize("shared", [False, True], ids=["first in the cohort", "others had it"])
async def test_hour_that_has_passed_today_is_made_up_for(
    app: AppTables, harness: SchedulerHarness, shared: bool
) -> None:
    """At eight, six instead of nine is chosen: today's reminder comes at once instead of never, tomorrow's at six."""
    await busy(app, "ada")
    await busy(app, "ben")
    if shared:
        await choose(harness, "ben", morning_hour=6)
    tuesday = MONDAY + timedelta(days=1)
    await run_until(harness, tuesday + timedelta(hours=7))
    assert times(harness, REMINDER, "ada", tuesday) == []
    await choose(harness, "ada", morning_hour=6)
    await run_until(harness, tuesday + timedelta(days=1, hours=12), 600)
    first, second = times(harness, REMINDER, "ada", tuesday)
    assert tuesday + timedelta(hours=7) < first <= tuesday + timedelta(hours=7, minutes=20)
    assert second == tuesday + timedelta(days=1, hours=5)
    assert len(times(harness, REMINDER, "ben", tuesday)) == 2


async def test_pause_skips_with_the_reason_and_ends(app: AppTables, harness: SchedulerHarness) -> None:
    """During the pause each email is skipped and explained; the morning after its end the next one comes."""
    await busy(app, "ada")
    end = MONDAY + timedelta(days=2, hours=-1)  # midnight in Paris
    await choose(harness, "ada", paused_until=end)
    await run_until(harness, end + timedelta(hours=12))
    assert times(harness, REMINDER, "ada", MONDAY) == [MONDAY + timedelta(days=2, hours=8)]
    reasons = {row["reason"] for row in await harness.scheduled_mails() if row["state"] == "skipped"}
    assert reasons == {"the recipient has paused these emails until 2026-03-03 23:00 UTC"}


async def test_weekly_summaries_come_on_mondays(app: AppTables, harness: SchedulerHarness) -> None:
    """Weekly instead of daily: on Monday only, explained on the other days, and the email says that it is weekly."""
    await busy(app, "ada")
    await choose(harness, "ada", overdue_summary="weekly")
    tuesday = MONDAY + timedelta(days=1)
    await harness.tick()
    await run_until(harness, MONDAY + timedelta(days=15), HOUR_S)
    assert times(harness, SUMMARY, "ada", tuesday) == [MONDAY + timedelta(days=day, hours=6) for day in (7, 14)]
    contexts = [mail.context for mail in harness.fake_worker.delivered if mail.kind == SUMMARY and mail.at >= tuesday]
    assert {context["cadence"] for context in contexts} == {"weekly"}
    skipped = [row for row in await harness.scheduled_mails() if row["kind"] == SUMMARY and row["state"] == "skipped"]
    assert {row["reason"] for row in skipped} == {"the recipient wants overdue summaries once a week"}


async def test_language_chosen_here_wins(app: AppTables, harness: SchedulerHarness) -> None:
    """The job of a scheduled email is in the language that was chosen here."""
    await busy(app, "ada", {"language": "en"})
    await choose(harness, "ada", language="fr")
    await harness.plan()
    rows = [row for row in await harness.scheduled_mails() if row["kind"] == REMINDER]
    schedule = next(one for one in harness.scheduler.schedules if one.kind == REMINDER)
    mails = await harness.scheduler.scheduled_mails.lease(REMINDER, 10)
    (checked,) = await harness.scheduler.eligibility.check(schedule, mails)
    assert rows
    assert checked.mail is not None
    assert checked.mail.locale == "fr"


async def test_kind_switched_on_here_wins_over_the_application(app: AppTables, harness: SchedulerHarness) -> None:
    """Off in `users.preferences`, on here: it is sent. Off here: it is not, whatever the application says."""
    off = {"notifications": {"taskReminders": False, "overdueSummary": False}}
    await busy(app, "ada", off)
    await busy(app, "ben", {"notifications": {"taskReminders": True}})
    await choose(harness, "ada", enabled_kinds=frozenset({REMINDER}))
    await choose(harness, "ben", unsubscribed=[REMINDER])
    await harness.tick()
    states = {key: state for key, (state, _) in (await harness.outcomes()).items()}
    assert (states[REMINDER, "ada"], states[SUMMARY, "ada"], states[REMINDER, "ben"]) == ("sent", "skipped", "skipped")


@pytest.mark.parametrize("address", ["Ada@Example.org", " ada@example.org ", "ada@bücher.example"])
async def test_address_is_found_as_the_application_stores_it(
    app: AppTables, harness: SchedulerHarness, address: str
) -> None:
    """Letters, blanks and international domains: the choices of the page count all the same."""
    await busy(app, "ada", email=address)
    store = PreferenceStore(harness.pool, harness.clock)
    await store.save(address.replace("bücher", "xn--bcher-kva"), RecipientSettings(Preferences(morning_hour=6)))
    tuesday = MONDAY + timedelta(days=1)
    await run_until(harness, tuesday + timedelta(hours=12))
    due = [
        row["due_at"] for row in await harness.scheduled_mails() if row["due_at"] > tuesday and row["kind"] == REMINDER
    ]
    assert due == [tuesday + timedelta(hours=5)]


async def test_manual_runs_and_dry_runs_reach_people_with_chosen_hours(
    app: AppTables, harness: SchedulerHarness, clock: FakeClock
) -> None:
    """A run of an operator is for everybody, whatever hour they have chosen, once for each date."""
    for user_id in ("ada", "ben"):
        await busy(app, user_id)
    await choose(harness, "ada", morning_hour=6, time_zone="Asia/Tokyo")
    scheduler = harness.scheduler
    manual = ManualRuns(scheduler.schedules, scheduler.planning, scheduler.eligibility, lambda _: None, clock)  # type: ignore[arg-type,return-value]
    request = RunRequest(REMINDER, clock.now())
    assert {item.user_id async for item in manual.dry_run(request)} == {"ada", "ben"}
    assert (await manual.run(request)).scheduled == 2
    assert (await manual.run(request)).scheduled == 0
    overview = next(one for one in await manual.overview() if one.name == REMINDER)
    assert {zone for run in overview.next for zone in run.zones} == {"Asia/Tokyo", "Asia/Tokyo 06", "Europe/Paris"}
    week = [(zone, run.at.hour) for run in await manual.next_days(7) if run.kind == REMINDER for zone in run.zones]
    # It is 08:00 UTC: the runs in Paris at the beginning and at the end of the seven days are not among them.
    assert Counter(week) == {("Asia/Tokyo", 0): 7, ("Asia/Tokyo 06", 21): 7, ("Europe/Paris", 8): 6}


async def test_two_daemons_plan_a_move_once(
    migrated_url: str, app: AppTables, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """Both see the new choice; the missed email of today is planned once."""
    await busy(app, "ada")
    async with (
        scheduler_harness(migrated_url, connection, keys, clock) as one,
        scheduler_harness(migrated_url, connection, keys, clock) as other,
    ):
        clock.advance(23 * HOUR_S)
        for harness in (one, other):
            await harness.tick()
        await choose(one, "ada", morning_hour=6)
        clock.advance(600)
        for harness in (one, other, one):
            await harness.tick()
        rows = [row for row in await one.scheduled_mails() if row["kind"] == REMINDER]
        assert len([row for row in rows if row["local_date"].day == 3]) == 1
