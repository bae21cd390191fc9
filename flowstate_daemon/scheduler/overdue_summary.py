"""The summary of what was due before today: how many tasks in truth, and the ten oldest with their days. Pure.

The planner's table names it; the feeder asks for the window's facts and calls `build`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from flowstate_daemon.database.app_data import Task, TaskList, TimeWindow, User, start_of_day
from flowstate_daemon.scheduler.scheduled_mail import AppLinks, BuildResult, MailContext, NothingToSend, Slot
from flowstate_daemon.scheduler.text import display_name, format_title, pluralise, positive_or_none

NOTHING_OVERDUE = "nothing overdue"
MIN_DATETIME = datetime(2, 1, 1, tzinfo=UTC)


def window(slot: Slot) -> TimeWindow:
    """All the time until the slot's today begins, as the person's clock counts it."""
    return TimeWindow(slot.user_id, MIN_DATETIME, start_of_day(slot.local_date, slot.zone), slot.zone)


def build(recipient: User, facts: TaskList | None, slot: Slot, links: AppLinks) -> BuildResult:
    """The summary, or nothing when all was done, moved or deleted meanwhile."""
    if facts is None or not facts.items:
        return NothingToSend(NOTHING_OVERDUE)
    listed = [(format_title(task.title), days_overdue(task, slot), task.id) for task in facts.items]
    context: dict[str, Any] = {
        "userName": display_name(recipient),
        "overdueCount": positive_or_none(facts.total) or len(facts.items),
        "overdueTasks": "\n".join(f"{title} - {pluralise(days, 'day')} overdue" for title, days, _ in listed),
        "reviewUrl": links.overdue,
        "settingsUrl": links.settings,
        "tasks": [{"title": title, "days": days, "url": links.task(key)} for title, days, key in listed],
    }
    return MailContext(context, recipient.language)


def days_overdue(task: Task, slot: Slot) -> int:
    """Local days from the one on which the task was due to the slot's: due yesterday at any hour is 1."""
    if task.due_at is None:
        return 1
    due: date = task.due_at.astimezone(slot.zone).date()
    return max(1, (slot.local_date - due).days)
