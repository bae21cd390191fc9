"""People who change their time zone: every task is reminded of before it is due, and none twice on one date.

The choice: an email covers the tasks that are due on the next local date. Who moves west after it lives through the
same date again; the tasks of its tomorrow that the first email did not cover get a second one, at the usual hour of the
new zone. Who moves east past the hour gets the email of that date at once. What is due on the very day on which they
arrive cannot be reminded of the day before.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from flowstate_daemon.database.preferences import PreferenceStore, RecipientSettings
from flowstate_daemon.mail.preferences import Preferences
from tests.support.app_tables import AppTables, stored
from tests.support.scheduler import SchedulerHarness

REMINDER = "task-reminder"
START = datetime(2026, 3, 2, tzinfo=UTC)
QUARTER_S = 900
WALKS = [
    ("Europe/Paris", "America/New_York", 12),
    ("Europe/Paris", "Pacific/Honolulu", 9),
    ("Asia/Tokyo", "Europe/London", 1),
    ("Pacific/Auckland", "America/Los_Angeles", 22),
    ("Pacific/Tongatapu", "Pacific/Pago_Pago", 22),
    ("Europe/Paris", "Europe/London", 10),
]
EAST = [
    ("America/New_York", "Europe/Paris", 10),
    ("Europe/Paris", "Asia/Tokyo", 6),
    ("Pacific/Honolulu", "Australia/Sydney", 17),
]


async def walk(app: AppTables, harness: SchedulerHarness, zones: list[tuple[int, str]], by_page: bool) -> None:
    """Three days of somebody with a task due every hour, who changes zone at these hours after the start."""
    user = await app.user("ada", {"timezone": zones[0][1]})
    for hour in range(24 * 6):
        due = stored(2026, 3, 1) + timedelta(hours=hour)
        await app.task(user, f"{due:%d %H}", due, id=f"t{hour}")
    harness.clock.jump((START - timedelta(days=1) - harness.clock.now()).total_seconds())
    left = list(zones[1:])
    while harness.clock.now() < START + timedelta(days=3):
        while left and harness.clock.now() >= START + timedelta(hours=left[0][0]):
            zone = left.pop(0)[1]
            if by_page:
                store = PreferenceStore(harness.pool, harness.clock)
                await store.save("ada@example.org", RecipientSettings(Preferences(time_zone=zone)))
            else:
                await app.connection.execute(
                    "UPDATE users SET preferences = jsonb_build_object('timezone', $1::text)", zone
                )
        await harness.tick()
        harness.clock.advance(QUARTER_S)


def reminded(harness: SchedulerHarness) -> dict[str, list[datetime]]:
    """For each task, when its reminders were sent."""
    found: dict[str, list[datetime]] = {}
    for mail in harness.fake_worker.delivered:
        if mail.kind == REMINDER:
            for task in mail.context["tasks"]:
                found.setdefault(task["url"].rpartition("/")[2], []).append(mail.at)
    return found


def check(harness: SchedulerHarness, arrival: datetime | None = None) -> None:
    """No task is missed or in two emails. `arrival` is when somebody has come from the west, in the new zone."""
    sent = reminded(harness)
    for hour in range(24 * 2, 24 * 4):  # due after the first day with a daemon, and before the end of the simulation
        due = START - timedelta(days=1) + timedelta(hours=hour)
        times = sent.get(f"t{hour}", [])
        if arrival is not None and due.astimezone(arrival.tzinfo).date() <= arrival.date():
            continue
        assert times, f"there was no reminder of the task due at {due}"
        assert times[0] < due
        assert len(times) == 1, (due, times)


@pytest.mark.parametrize("by_page", [True, False], ids=["chosen here", "in the application"])
@pytest.mark.parametrize(("old", "new", "hour"), WALKS)
async def test_who_moves_west_is_reminded_of_everything_once(
    app: AppTables, harness: SchedulerHarness, old: str, new: str, hour: int, by_page: bool
) -> None:
    """No task is missed and none is in two emails; a second email for a date has only what the first left out."""
    await walk(app, harness, [(0, old), (hour, new)], by_page)
    check(harness)
    rows = [row for row in await harness.scheduled_mails() if row["kind"] == REMINDER]
    dates = Counter((row["local_date"], row["task_id"]) for row in rows)
    assert set(dates.values()) == {1}
    assert {row["zone"] for row in rows if row["task_id"].startswith("after ")} <= {new}


async def test_who_moves_west_twice_on_one_day(app: AppTables, harness: SchedulerHarness) -> None:
    """Paris, New York, Honolulu, each after the reminder there: three emails for one date, no task twice."""
    await walk(app, harness, [(0, "Europe/Paris"), (9, "America/New_York"), (15, "Pacific/Honolulu")], True)
    check(harness)


@pytest.mark.parametrize(("old", "new", "hour"), EAST)
async def test_who_moves_east_is_reminded_of_everything(
    app: AppTables, harness: SchedulerHarness, old: str, new: str, hour: int
) -> None:
    """The hour of the new zone is past for today: today's email comes at once. Nothing is missed or repeated."""
    await walk(app, harness, [(0, old), (hour, new)], True)
    check(harness, (START + timedelta(hours=hour)).astimezone(ZoneInfo(new)))


async def test_there_and_back(app: AppTables, harness: SchedulerHarness) -> None:
    """Paris, New York and Paris again within hours: nothing is missed or repeated."""
    await walk(app, harness, [(0, "Europe/Paris"), (9, "America/New_York"), (16, "Europe/Paris")], True)
    check(harness)


async def test_second_email_says_what_is_due_tomorrow(app: AppTables, harness: SchedulerHarness) -> None:
    """The second email after a move west lists only tasks of the new zone's tomorrow."""
    await walk(app, harness, [(0, "Europe/Paris"), (12, "America/New_York")], True)
    second = next(row for row in await harness.scheduled_mails() if row["task_id"].startswith("after "))
    mail = next(mail for mail in harness.fake_worker.delivered if mail.job_id == second["job_id"])
    zone = ZoneInfo("America/New_York")
    due = [
        START - timedelta(days=1) + timedelta(hours=int(task["url"].rpartition("/t")[2]))
        for task in mail.context["tasks"]
    ]
    assert {instant.astimezone(zone).date().isoformat() for instant in due} == {mail.context["dueDate"]}
    assert mail.context["taskCount"] == len(due) == 6
