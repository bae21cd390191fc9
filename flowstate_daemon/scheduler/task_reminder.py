"""The reminder of what is due tomorrow: one mail for all tasks, or with `per_task` one for each. Pure.

The planner's table names it; the feeder asks for the window's facts and calls `build`.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from flowstate_daemon.database.app_data import Task, TaskList, TimeWindow, User, start_of_day
from flowstate_daemon.mail.contexts import PERSONAL
from flowstate_daemon.scheduler.scheduled_mail import AppLinks, BuildResult, MailContext, NothingToSend, Slot
from flowstate_daemon.scheduler.text import display_name, format_name, format_title, positive_or_none, priority

NOTHING_DUE = "nothing due tomorrow"
NOT_DUE = "the task is done, deleted or due on another day"


def window(slot: Slot) -> TimeWindow:
    """The slot's tomorrow, as the person's clock counts it."""
    tomorrow = local_tomorrow(slot)
    ends = start_of_day(tomorrow + timedelta(days=1), slot.zone)
    return TimeWindow(slot.user_id, start_of_day(tomorrow, slot.zone), ends, slot.zone, slot.item)


def build(recipient: User, facts: TaskList | None, slot: Slot, links: AppLinks) -> BuildResult:
    """The reminder, or nothing when no task is left by now."""
    if facts is None or not facts.items:
        return NothingToSend(NOT_DUE if slot.item else NOTHING_DUE)
    first = facts.items[0]
    context = {
        "userName": display_name(recipient),
        "taskTitle": format_title(first.title),
        "projectName": format_name(first.project) or PERSONAL,
        "priority": priority(first.priority) or 0,
        "estimatedTime": positive_or_none(first.minutes) or 0,
        "taskUrl": links.task(first.id),
        "settingsUrl": links.settings,
        "taskCount": positive_or_none(facts.total) or len(facts.items),
        "dueDate": local_tomorrow(slot).isoformat(),
        "tasks": [_task_row(task, links) for task in facts.items],
        "tasksUrl": links.tasks,
    }
    return MailContext(context, recipient.language)


def local_tomorrow(slot: Slot) -> date:
    return slot.local_date + timedelta(days=1)


def _task_row(task: Task, links: AppLinks) -> dict[str, Any]:
    return {
        "title": format_title(task.title),
        "project": format_name(task.project),
        "priority": priority(task.priority),
        "minutes": positive_or_none(task.minutes),
        "url": links.task(task.id),
    }
