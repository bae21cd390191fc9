"""When overdue summaries are sent: daily, on one day of the week, or once a week while nothing changes."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from flowstate_daemon.config.loader import load
from flowstate_daemon.database.scheduled_mails import EarlierList
from flowstate_daemon.scheduler.definitions import build_schedules
from flowstate_daemon.scheduler.overdue_summary import LOOK_BACK_DAYS, UNCHANGED, WEEKLY, choose_frequency

MONDAY = date(2026, 3, 2)
DAY = timedelta(days=1)


def simulate(lists: list[str], down: frozenset[int] = frozenset()) -> list[str]:
    """For each day, what is sent to somebody whose list has this content: the cadence, or `-` for nothing."""
    history: list[EarlierList] = []
    found = []
    for number, content in enumerate(lists):
        today = MONDAY + number * DAY
        if number in down:
            found.append("x")
            continue
        seen = [one for one in history if one.local_date >= today - LOOK_BACK_DAYS * DAY]
        frequency = choose_frequency(today, content, seen, chosen=None, weekly_on=1)
        history.insert(0, EarlierList(today, content, frequency.skip is None))
        found.append("-" if frequency.skip else frequency.cadence or "daily")
    return found


def test_unchanged_list_is_sent_once_a_week() -> None:
    """Seven days daily, then once a week for as long as nothing changes; each weekly email says so."""
    week = [UNCHANGED, *"------"]
    assert simulate(["a"] * 400) == (["daily"] * 7 + week * 60)[:400]


def test_change_makes_it_daily_again() -> None:
    """A task that was added, finished or moved starts the count again."""
    assert simulate(["a"] * 10 + ["b"] * 8 + ["a"]) == ["daily"] * 7 + [UNCHANGED, "-", "-"] + ["daily"] * 7 + [
        UNCHANGED, "daily",
    ]  # fmt: skip


def test_missed_weekly_email_follows_the_next_day() -> None:
    """The daemon was down on the day of the weekly email: it comes a day later."""
    found = simulate(["a"] * 20, frozenset({14}))
    assert found[13:16] == ["-", "x", UNCHANGED]


@pytest.mark.parametrize("changes", [0, 1, 30])
def test_choice_of_the_recipient_wins(changes: int) -> None:
    """Weekly means that weekday whatever changes; daily means every day, also when nothing does."""
    history = [
        EarlierList(MONDAY - number * DAY, str(number if changes > number else "a"), True) for number in range(1, 15)
    ]
    for number in range(7):
        today = MONDAY + number * DAY
        weekly = choose_frequency(today, "a", history, chosen="weekly", weekly_on=3)
        assert (weekly.cadence, weekly.skip is None) == (WEEKLY, number == 2)
        daily = choose_frequency(today, "a", history, chosen="daily", weekly_on=3)
        assert (daily.cadence, daily.skip) == ("", None)


@pytest.mark.parametrize(
    ("cron", "day", "hour", "deadline"),
    [
        ("0 7 * * *", 1, 7, "0 0 13 * * *"),
        ("30 7 * * *", 1, -1, "0 30 12 * * *"),
        ("0 7 * * 3,5", 3, 7, "0 0 13 * * *"),
        ("0 22 * * *", 1, 22, "0 0 22 * * *"),
    ],
)
def test_schedule_of_people_who_chose_an_hour(cron: str, day: int, hour: int, deadline: str) -> None:
    """The same days and grace period at another hour; the weekly day is the first one of the week."""
    config = load({"FLOWSTATE_SCHEDULE_OVERDUE_SUMMARY_CRON": cron})
    schedule = next(one for one in build_schedules(config.schedule) if one.kind == "overdue-summary")
    assert (schedule.weekly_day, schedule.usual_hour) == (day, hour)
    own = schedule.for_hour(10)
    assert own.cron == " ".join(("0 0 10", *cron.split()[2:]))
    assert (own.deadline, own.hour) == (deadline, 10)
