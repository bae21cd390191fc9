"""The weekly report on focus: seven days up to the hour of the slot, compared with the seven before. Pure.

The planner's table names it; the feeder asks for the window's facts and calls `build`. A week ends at the report's own
hour, so that what is done on Sunday evening stands in the next report and every session in exactly one.
"""

from __future__ import annotations

from datetime import UTC, date, timedelta
from typing import Any

from flowstate_daemon.database.app_data import WEEK, Focus, FocusWeek, TimeWindow, User
from flowstate_daemon.mail.field_types import round_half_up
from flowstate_daemon.scheduler.scheduled_mail import AppLinks, BuildResult, MailContext, NothingToSend, Slot
from flowstate_daemon.scheduler.text import display_name, format_title, positive_or_none

NO_SESSIONS = "no focus session in the last seven days"
NOT_RATED = "Not tracked"
WITHOUT_TASK = "Without a task"  # a stock phrase, which the templates translate
HOUR = 60
INSTANT = timedelta(microseconds=1)
# In the English of producers: our own templates take the number of the day.
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def window(slot: Slot) -> TimeWindow:
    """From the slot's hour a week ago to the slot's hour, on the person's clock."""
    local = slot.due_at.astimezone(slot.zone)
    return TimeWindow(slot.user_id, (local - WEEK).astimezone(UTC), local.astimezone(UTC), slot.zone)


def build(recipient: User, facts: FocusWeek | None, slot: Slot, links: AppLinks) -> BuildResult:
    """The report, or nothing for a week without a session."""
    if facts is None or not facts.week.sessions:
        return NothingToSend(NO_SESSIONS)
    first, last = week_dates(slot)
    context = {
        "userName": display_name(recipient),
        **_totals(facts.week),
        **_best_day(facts),
        **_rating(facts.week),
        **_top(facts),
        "weekStart": first.isoformat(),
        "weekEnd": last.isoformat(),
        "previousMinutes": _or_zero(facts.before.minutes) if facts.before.sessions else None,
        "previousSessions": positive_or_none(facts.before.sessions),
        "analyticsUrl": links.analytics,
        "settingsUrl": links.settings,
    }
    return MailContext(context, recipient.language)


def week_dates(slot: Slot) -> tuple[date, date]:
    """The first and the last day of the window where the person lives."""
    asked = window(slot)
    return asked.begins_at.astimezone(slot.zone).date(), (asked.ends_at - INSTANT).astimezone(slot.zone).date()


def _totals(week: Focus) -> dict[str, Any]:
    hours, minutes = divmod(_or_zero(week.minutes), HOUR)
    return {
        "totalHours": hours,
        "totalMinutes": minutes,
        "totalSessions": _or_zero(week.sessions),
        "averageDuration": round_half_up(_or_zero(week.minutes) / week.sessions),
    }


def _best_day(facts: FocusWeek) -> dict[str, Any]:
    """The weekday with most minutes, the earlier one of two; none when no day has any."""
    days = {day: focus.minutes for day, focus in sorted(facts.days.items()) if focus.minutes > 0}
    best = max(days, key=lambda day: days[day]) if days else None
    return {"bestDay": best, "mostProductiveDay": "" if best is None else WEEKDAYS[best - 1]}


def _rating(week: Focus) -> dict[str, Any]:
    """The average of the sessions that were rated; the others say nothing about it."""
    average = round(week.ratings / week.rated, 1) if week.rated else None
    output = NOT_RATED if average is None else f"{average:.1f}"
    return {"averageRating": average, "ratedSessions": _or_zero(week.rated), "averageMood": f"{output}/5"}


def _top(facts: FocusWeek) -> dict[str, Any]:
    listed = [
        (WITHOUT_TASK if task.task_id is None else format_title(task.title), _or_zero(task.minutes))
        for task in facts.top
    ]
    return {
        "topTasks": "\n".join(f"{title}: {minutes} min" for title, minutes in listed),
        "top": [{"title": title, "minutes": minutes} for title, minutes in listed],
    }


def _or_zero(number: int) -> int:
    return positive_or_none(number) or 0
