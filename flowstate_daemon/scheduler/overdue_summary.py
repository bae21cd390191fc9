"""The summary of overdue tasks: their total number, and the ten oldest with their days overdue. Pure."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from flowstate_daemon.database.app_data import Task, TaskList, TimeWindow, User, start_of_day
from flowstate_daemon.database.scheduled_mails import ScheduledMail
from flowstate_daemon.scheduler.scheduled_mail import AppLinks, BuildResult, NothingToSend, new_mail
from flowstate_daemon.scheduler.text import display_name, format_title, pluralise, positive_or_none

NOTHING_OVERDUE = "nothing overdue"
MIN_DATETIME = datetime(2, 1, 1, tzinfo=UTC)


def window(scheduled: ScheduledMail) -> TimeWindow:
    """All time before the local date, in the user's time zone."""
    return TimeWindow(
        scheduled.user_id, MIN_DATETIME, start_of_day(scheduled.local_date, scheduled.time_zone), scheduled.time_zone
    )


def build(user: User, data: TaskList | None, scheduled: ScheduledMail, links: AppLinks) -> BuildResult:
    """The summary, or nothing when all tasks were completed, moved or deleted meanwhile."""
    if data is None or not data.items:
        return NothingToSend(NOTHING_OVERDUE)
    listed = [(format_title(task.title), days_overdue(task, scheduled), task.id) for task in data.items]
    context: dict[str, Any] = {
        "userName": display_name(user),
        "overdueCount": positive_or_none(data.total) or len(data.items),
        "overdueTasks": "\n".join(f"{title} - {pluralise(days, 'day')} overdue" for title, days, _ in listed),
        "reviewUrl": links.overdue,
        "tasks": [{"title": title, "days": days, "url": links.task(key)} for title, days, key in listed],
    }
    return new_mail(user, scheduled, context)


def days_overdue(task: Task, scheduled: ScheduledMail) -> int:
    """Local days between the due date and the local date of the email: due yesterday at any hour is 1."""
    if task.due_at is None:
        return 1
    due: date = task.due_at.astimezone(scheduled.time_zone).date()
    return max(1, (scheduled.local_date - due).days)
