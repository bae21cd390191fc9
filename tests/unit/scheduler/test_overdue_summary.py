"""Overdue summaries: the total count, the oldest tasks, days in local time."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from flowstate_daemon.database.app_data import Task, TaskList
from flowstate_daemon.scheduler.overdue_summary import build, days_overdue, window
from flowstate_daemon.scheduler.scheduled_mail import NothingToSend
from tests.unit.scheduler.builder_inputs import LINKS, ROOT, context, scheduled_mail, user

KIND = "overdue-summary"


def due(*parts: int) -> Task:
    return Task("t-1", "Call back", due_at=datetime(*parts, tzinfo=UTC))  # type: ignore[misc,arg-type]


def test_all_tasks_are_counted_and_ten_listed() -> None:
    """Ten of thousands are listed; the count covers all."""
    tasks = TaskList(50_000, (due(2026, 3, 9, 12), due(2026, 3, 14, 12)))
    output = context(build(user(), tasks, scheduled_mail(KIND, hour=7), LINKS))
    assert output == {
        "userName": "Ada Lovelace",
        "overdueCount": 50_000,
        "overdueTasks": "Call back - 6 days overdue\nCall back - 1 day overdue",
        "reviewUrl": f"{ROOT}/today",
        "tasks": [
            {"title": "Call back", "days": 6, "url": f"{ROOT}/today"},
            {"title": "Call back", "days": 1, "url": f"{ROOT}/today"},
        ],
    }


@pytest.mark.parametrize(
    ("zone", "task", "days"),
    [
        ("Europe/Paris", due(2026, 3, 14, 22, 59), 1),  # a minute before midnight
        ("Europe/Paris", due(2026, 3, 13, 23), 1),  # the day's first instant
        ("Europe/Paris", due(2026, 3, 13, 22, 59), 2),
        ("Pacific/Auckland", due(2026, 3, 14, 10, 59), 1),
        ("America/New_York", due(2026, 3, 14, 3, 59), 2),
        ("America/New_York", due(2, 1, 1), 739_325),
        ("Europe/Paris", Task("t-1", None), 1),
    ],
)
def test_days_overdue_are_local_days(zone: str, task: Task, days: int) -> None:
    """A day ends at local midnight, not after 24 hours."""
    assert days_overdue(task, scheduled_mail(KIND, hour=7, zone=ZoneInfo(zone))) == days


@pytest.mark.parametrize("data", [None, TaskList(0, ())])
def test_no_overdue_task_is_skipped(data: TaskList | None) -> None:
    """A user who has completed all tasks by now gets no email."""
    assert build(user(), data, scheduled_mail(KIND), LINKS) == NothingToSend("nothing overdue")


def test_today_is_not_overdue() -> None:
    """The window ends where the user's local today begins."""
    assert window(scheduled_mail(KIND, hour=7)).ends_at == datetime(2026, 3, 14, 23, tzinfo=UTC)
