"""The reminder of tasks due tomorrow: one email for all tasks, or with `per_task` one for each task. Pure."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from flowstate_daemon.database.app_data import Task, TaskList, TimeWindow, User, start_of_day
from flowstate_daemon.database.scheduled_mails import ScheduledMail
from flowstate_daemon.mail.app_links import AppLinks
from flowstate_daemon.mail.contexts import PERSONAL
from flowstate_daemon.scheduler.scheduled_mail import BuildResult, NothingToSend, new_mail
from flowstate_daemon.scheduler.text import display_name, format_name, format_title, positive_or_none, priority

MIDNIGHT = (0, 0)
NOTHING_DUE = "nothing due tomorrow"
NOT_DUE = "the task is done, deleted or due on another day"
AFTER = "after "  # a second email for one date, to somebody who has moved west: about tasks due from this instant on


def window(scheduled: ScheduledMail) -> TimeWindow:
    """The day after the local date, in the user's time zone; the rest of it that an earlier email did not cover."""
    tomorrow = local_tomorrow(scheduled)
    begins, ends = (start_of_day(tomorrow + timedelta(days=day), scheduled.time_zone) for day in (0, 1))
    task_id = scheduled.task_id
    if task_id.startswith(AFTER):
        begins, task_id = max(begins, datetime.fromisoformat(task_id.removeprefix(AFTER))), ""
    return TimeWindow(scheduled.user_id, begins, ends, scheduled.time_zone, task_id)


def build(user: User, data: TaskList | None, scheduled: ScheduledMail, links: AppLinks) -> BuildResult:
    """The reminder, or nothing when no open task is left."""
    if data is None or not data.items:
        return NothingToSend(NOT_DUE if scheduled.task_id else NOTHING_DUE)
    first = data.items[0]
    context = {
        "userName": display_name(user),
        "taskTitle": format_title(first.title),
        "projectName": format_name(first.project) or PERSONAL,
        "priority": priority(first.priority) or 0,
        "estimatedTime": positive_or_none(first.minutes) or 0,
        "taskUrl": links.task(first.id),
        "taskCount": positive_or_none(data.total) or len(data.items),
        "dueDate": local_tomorrow(scheduled).isoformat(),
        "dueTime": due_time(first, scheduled),
        "tasks": [_task_row(task, scheduled, links) for task in data.items],
        "tasksUrl": links.tasks,
    }
    return new_mail(user, scheduled, context)


def local_tomorrow(scheduled: ScheduledMail) -> date:
    return scheduled.local_date + timedelta(days=1)


def due_time(task: Task, scheduled: ScheduledMail) -> str | None:
    """The local time of day as HH:MM; None for midnight, which stands for a day without a time."""
    if task.due_at is None:
        return None
    local = task.due_at.astimezone(scheduled.time_zone)
    return local.strftime("%H:%M") if (local.hour, local.minute) != MIDNIGHT else None


def _task_row(task: Task, scheduled: ScheduledMail, links: AppLinks) -> dict[str, Any]:
    return {
        "title": format_title(task.title),
        "project": format_name(task.project),
        "priority": priority(task.priority),
        "minutes": positive_or_none(task.minutes),
        "dueTime": due_time(task, scheduled),
        "url": links.task(task.id),
    }
