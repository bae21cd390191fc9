"""The summary of what was due before today: how many tasks in truth, and the ten oldest with their days. Pure.

The planner's table names it; the feeder asks for the window's facts and calls `build`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from flowstate_daemon.database.facts import Person, Task, Tasks, Window, start_of
from flowstate_daemon.schedule.slot import Built, Links, MailContext, Nothing, Slot
from flowstate_daemon.schedule.wording import called, counted, times, titled

NOTHING_OVERDUE = "nothing overdue"
LONG_AGO = datetime(2, 1, 1, tzinfo=UTC)


def window(slot: Slot) -> Window:
    """All the time until the slot's today begins, as the person's clock counts it."""
    return Window(slot.user_id, LONG_AGO, start_of(slot.local_date, slot.zone), slot.zone)


def build(person: Person, facts: Tasks | None, slot: Slot, links: Links) -> Built:
    """The summary, or nothing when all was done, moved or deleted meanwhile."""
    if facts is None or not facts.first:
        return Nothing(NOTHING_OVERDUE)
    listed = [(titled(task.title), days_overdue(task, slot), task.id) for task in facts.first]
    context: dict[str, Any] = {
        "userName": called(person),
        "overdueCount": counted(facts.total) or len(facts.first),
        "overdueTasks": "\n".join(f"{title} - {times(days, 'day')} overdue" for title, days, _ in listed),
        "reviewUrl": links.overdue,
        "settingsUrl": links.settings,
        "tasks": [{"title": title, "days": days, "url": links.task(key)} for title, days, key in listed],
    }
    return MailContext(context, person.language)


def days_overdue(task: Task, slot: Slot) -> int:
    """Local days from the one on which the task was due to the slot's: due yesterday at any hour is 1."""
    if task.due_at is None:
        return 1
    due: date = task.due_at.astimezone(slot.zone).date()
    return max(1, (slot.local_date - due).days)
