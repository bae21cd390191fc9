"""The reminder of what is due tomorrow: one mail for all tasks, or with `per_task` one for each. Pure.

The planner's table names it; the feeder asks for the window's facts and calls `build`.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from flowstate_daemon.database.facts import Person, Task, Tasks, Window, start_of
from flowstate_daemon.mail.contexts import PERSONAL
from flowstate_daemon.schedule.slot import Built, Links, MailContext, Nothing, Slot
from flowstate_daemon.schedule.wording import called, counted, named, priority, titled

NOTHING_DUE = "nothing due tomorrow"
NOT_DUE = "the task is done, deleted or due on another day"


def window(slot: Slot) -> Window:
    """The slot's tomorrow, as the person's clock counts it."""
    tomorrow = tomorrow_of(slot)
    ends = start_of(tomorrow + timedelta(days=1), slot.zone)
    return Window(slot.user_id, start_of(tomorrow, slot.zone), ends, slot.zone, slot.item)


def build(person: Person, facts: Tasks | None, slot: Slot, links: Links) -> Built:
    """The reminder, or nothing when no task is left by now."""
    if facts is None or not facts.first:
        return Nothing(NOT_DUE if slot.item else NOTHING_DUE)
    first = facts.first[0]
    context = {
        "userName": called(person),
        "taskTitle": titled(first.title),
        "projectName": named(first.project) or PERSONAL,
        "priority": priority(first.priority) or 0,
        "estimatedTime": counted(first.minutes) or 0,
        "taskUrl": links.task(first.id),
        "settingsUrl": links.settings,
        "taskCount": counted(facts.total) or len(facts.first),
        "dueDate": tomorrow_of(slot).isoformat(),
        "tasks": [_listed(task, links) for task in facts.first],
        "tasksUrl": links.tasks,
    }
    return MailContext(context, person.language)


def tomorrow_of(slot: Slot) -> date:
    return slot.local_date + timedelta(days=1)


def _listed(task: Task, links: Links) -> dict[str, Any]:
    return {
        "title": titled(task.title),
        "project": named(task.project),
        "priority": priority(task.priority),
        "minutes": counted(task.minutes),
        "url": links.task(task.id),
    }
