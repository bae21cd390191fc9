"""The weekly focus report: the seven days before its due time, compared with the seven before those. Pure.

A week ends at the due time, so that a session on Sunday evening is in the next report and every session in exactly one.
"""

from __future__ import annotations

from datetime import UTC, date, timedelta
from typing import Any

from flowstate_daemon.database.app_data import WEEK, Focus, FocusWeek, TimeWindow, User
from flowstate_daemon.database.scheduled_mails import ScheduledMail
from flowstate_daemon.mail.app_links import AppLinks
from flowstate_daemon.mail.field_types import round_half_up
from flowstate_daemon.scheduler.scheduled_mail import BuildResult, NothingToSend, new_mail
from flowstate_daemon.scheduler.text import display_name, format_title, positive_or_none

NO_SESSIONS = "no focus session in the last seven days"
NOT_RATED = "Not tracked"
WITHOUT_TASK = "Without a task"  # a fixed phrase that the templates translate
HOUR = 60
INSTANT = timedelta(microseconds=1)
SIX_DAYS = timedelta(days=6)
# English, as legacy producers write it: our own templates use the weekday's number.
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def window(scheduled: ScheduledMail) -> TimeWindow:
    """From the same local time a week ago to the due time."""
    local = scheduled.due_at.astimezone(scheduled.time_zone)
    return TimeWindow(scheduled.user_id, (local - WEEK).astimezone(UTC), local.astimezone(UTC), scheduled.time_zone)


def build(user: User, data: FocusWeek | None, scheduled: ScheduledMail, links: AppLinks) -> BuildResult:
    """The report, or nothing for a week without a session."""
    if data is None or not data.week.sessions:
        return NothingToSend(NO_SESSIONS)
    first, last = week_dates(scheduled)
    context = {
        "userName": display_name(user),
        **_totals(data.week),
        **_best_day(data),
        **_rating(data.week),
        **_top(data),
        "weekStart": first.isoformat(),
        "weekEnd": last.isoformat(),
        "previousMinutes": _or_zero(data.before.minutes) if data.before.sessions else None,
        "previousSessions": positive_or_none(data.before.sessions),
        "analyticsUrl": links.analytics,
    }
    return new_mail(user, scheduled, context)


def week_dates(scheduled: ScheduledMail) -> tuple[date, date]:
    """The first and the last of the seven local dates up to the due time.

    The window begins in the evening of the day before the first one.
    """
    last = (window(scheduled).ends_at - INSTANT).astimezone(scheduled.time_zone).date()
    return last - SIX_DAYS, last


def _totals(week: Focus) -> dict[str, Any]:
    hours, minutes = divmod(_or_zero(week.minutes), HOUR)
    return {
        "totalHours": hours,
        "totalMinutes": minutes,
        "totalSessions": _or_zero(week.sessions),
        "averageDuration": round_half_up(_or_zero(week.minutes) / week.sessions),
    }


def _best_day(data: FocusWeek) -> dict[str, Any]:
    """The weekday with most minutes, the earlier one of equals; None when no day has any."""
    days = {day: focus.minutes for day, focus in sorted(data.days.items()) if focus.minutes > 0}
    best = max(days, key=lambda day: days[day]) if days else None
    return {"bestDay": best, "mostProductiveDay": "" if best is None else WEEKDAYS[best - 1]}


def _rating(week: Focus) -> dict[str, Any]:
    """The average rating of the rated sessions."""
    average = round(week.ratings / week.rated, 1) if week.rated else None
    text = NOT_RATED if average is None else f"{average:.1f}"
    return {"averageRating": average, "ratedSessions": _or_zero(week.rated), "averageMood": f"{text}/5"}


def _top(data: FocusWeek) -> dict[str, Any]:
    listed = [
        (WITHOUT_TASK if task.task_id is None else format_title(task.title), _or_zero(task.minutes))
        for task in data.top
    ]
    return {
        "topTasks": "\n".join(f"{title}: {minutes} min" for title, minutes in listed),
        "top": [{"title": title, "minutes": minutes} for title, minutes in listed],
    }


def _or_zero(number: int) -> int:
    return positive_or_none(number) or 0
