"""Weekly focus reports: totals, the best day, ratings of rated sessions, the week before."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from flowstate_daemon.database.app_data import NO_FOCUS, Focus, FocusByTask, FocusWeek
from flowstate_daemon.scheduler.focus_report import build, window
from flowstate_daemon.scheduler.scheduled_mail import NothingToSend
from tests.unit.scheduler.builder_inputs import LINKS, ROOT, context, scheduled_mail, user

KIND = "focus-report"
WEEK = FocusWeek(
    Focus(sessions=4, minutes=131, rated=3, ratings=13),
    Focus(sessions=2, minutes=90),
    {1: Focus(1, 30), 2: Focus(2, 71), 7: Focus(1, 30)},
    (FocusByTask("t-1", "Write", 71), FocusByTask(None, None, 30), FocusByTask("t-2", None, 30)),
)


def test_week_with_sessions_is_reported() -> None:
    """Hours and minutes, the average rounded as in the application, the best day, the tasks, the week before."""
    output = context(build(user(), WEEK, scheduled_mail(KIND, hour=17), LINKS))
    assert output == {
        "userName": "Ada Lovelace",
        "totalHours": 2,
        "totalMinutes": 11,
        "totalSessions": 4,
        "averageDuration": 33,
        "bestDay": 2,
        "mostProductiveDay": "Tuesday",
        "averageRating": 4.3,
        "ratedSessions": 3,
        "averageMood": "4.3/5",
        "topTasks": "Write: 71 min\nWithout a task: 30 min\n…: 30 min",
        "top": [
            {"title": "Write", "minutes": 71},
            {"title": "Without a task", "minutes": 30},
            {"title": "…", "minutes": 30},
        ],
        "weekStart": "2026-03-09",
        "weekEnd": "2026-03-15",
        "previousMinutes": 90,
        "previousSessions": 2,
        "analyticsUrl": f"{ROOT}/focus",
    }


def test_unknown_values_are_not_shown_as_zero() -> None:
    """Without ratings, minutes or a week before, the email omits them."""
    output = context(
        build(user(), FocusWeek(Focus(1), NO_FOCUS, {3: Focus(1)}, ()), scheduled_mail(KIND, hour=17), LINKS)
    )
    assert (output["averageRating"], output["averageMood"], output["ratedSessions"]) == (None, "Not tracked/5", 0)
    assert (output["bestDay"], output["mostProductiveDay"]) == (None, "")
    assert (output["previousMinutes"], output["previousSessions"], output["top"]) == (None, None, [])


def test_sessions_without_minutes_count() -> None:
    """The week before had sessions: its minutes are 0, not unknown."""
    output = context(build(user(), FocusWeek(Focus(1, 5), Focus(3, 0), {}, ()), scheduled_mail(KIND, hour=17), LINKS))
    assert (output["previousMinutes"], output["previousSessions"]) == (0, 3)


@pytest.mark.parametrize("data", [None, FocusWeek(NO_FOCUS, NO_FOCUS, {}, ())])
def test_week_without_sessions_is_skipped(data: FocusWeek | None) -> None:
    """No session means no report."""
    assert build(user(), data, scheduled_mail(KIND), LINKS) == NothingToSend("no focus session in the last seven days")


def test_weeks_are_adjacent_and_do_not_overlap() -> None:
    """Each session is in exactly one report, also across a clock change."""
    days = [date(2026, 3, 15) + timedelta(weeks=week) for week in range(4)]
    windows = [window(scheduled_mail(KIND, day, hour=17)) for day in days]
    assert all(one.ends_at == following.begins_at for one, following in pairwise(windows))
    assert windows[2].ends_at == datetime(2026, 3, 29, 15, tzinfo=UTC)
    assert windows[2].ends_at - windows[2].begins_at == timedelta(days=7, hours=-1)
