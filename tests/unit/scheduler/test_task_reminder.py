"""Task reminders: the right day, every task, one email in total or one per task."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from flowstate_daemon.database.app_data import Task, TaskList
from flowstate_daemon.scheduler.scheduled_mail import NothingToSend
from flowstate_daemon.scheduler.task_reminder import build, window
from tests.unit.scheduler.builder_inputs import LINKS, ROOT, context, scheduled_mail, user

KIND = "task-reminder"
CALL = Task("t 1", "Call the printer", "Autumn", 4, 45)
NAMELESS = Task("t-2", None, None, 99, -5)


def test_all_tasks_are_in_one_mail() -> None:
    """The legacy fields describe the first task, the new ones all tasks."""
    output = context(build(user(), TaskList(2, (CALL, NAMELESS)), scheduled_mail(KIND), LINKS))
    assert output == {
        "userName": "Ada Lovelace",
        "taskTitle": "Call the printer",
        "projectName": "Autumn",
        "priority": 4,
        "estimatedTime": 45,
        "taskUrl": f"{ROOT}/today",
        "taskCount": 2,
        "dueDate": "2026-03-16",
        "dueTime": None,
        "tasks": [
            {
                "title": "Call the printer",
                "project": "Autumn",
                "priority": 4,
                "minutes": 45,
                "dueTime": None,
                "url": f"{ROOT}/today",
            },
            {"title": "…", "project": None, "priority": None, "minutes": None, "dueTime": None, "url": f"{ROOT}/today"},
        ],
        "tasksUrl": f"{ROOT}/today",
    }


def test_missing_values_get_the_texts_of_the_backend() -> None:
    """Without name, project and numbers, the texts are those of legacy producers."""
    output = context(build(user(None), TaskList(1, (NAMELESS,)), scheduled_mail(KIND), LINKS))
    assert (output["userName"], output["projectName"]) == ("there", "Personal")
    assert (output["priority"], output["estimatedTime"], output["taskTitle"]) == (0, 0, "…")


@pytest.mark.parametrize(("task_id", "reason"), [("", "nothing due tomorrow"), ("t-2", "the task is done")])
@pytest.mark.parametrize("data", [None, TaskList(0, ())])
def test_no_task_due_is_skipped(data: TaskList | None, task_id: str, reason: str) -> None:
    """A task completed at 08:59 is not in the reminder of 09:00, and the ledger has the reason."""
    built = build(user(), data, scheduled_mail(KIND, task_id=task_id), LINKS)
    assert isinstance(built, NothingToSend)
    assert built.reason.startswith(reason)


def test_language_is_that_of_the_user() -> None:
    """Without a chosen language the configured default applies."""
    data = TaskList(1, (CALL,))
    built = [build(user(language=language), data, scheduled_mail(KIND), LINKS) for language in ("fr", None)]
    assert [made.locale for made in built] == ["fr", None]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("zone", "day", "begins", "hours"),
    [
        ("Europe/Paris", date(2026, 3, 27), datetime(2026, 3, 27, 23, tzinfo=UTC), 24),
        ("Europe/Paris", date(2026, 3, 28), datetime(2026, 3, 28, 23, tzinfo=UTC), 23),  # clocks go forward
        ("Europe/Paris", date(2026, 10, 24), datetime(2026, 10, 24, 22, tzinfo=UTC), 25),  # and back
        ("Asia/Kathmandu", date(2026, 3, 15), datetime(2026, 3, 15, 18, 15, tzinfo=UTC), 24),
        ("Pacific/Kiritimati", date(2026, 3, 15), datetime(2026, 3, 15, 10, tzinfo=UTC), 24),
        ("America/Santiago", date(2026, 9, 5), datetime(2026, 9, 6, 4, tzinfo=UTC), 23),  # there is no midnight
    ],
)
def test_tomorrow_is_local(zone: str, day: date, begins: datetime, hours: int) -> None:
    """The window is from one local midnight to the next, whatever the length of the day."""
    asked = window(scheduled_mail(KIND, day, zone=ZoneInfo(zone), task_id="t-1"))
    assert asked.begins_at == begins
    assert (asked.ends_at - asked.begins_at).total_seconds() == hours * 3600
    assert asked.task_id == "t-1"


@pytest.mark.parametrize(
    ("due_at", "time"),
    [
        (datetime(2026, 3, 16, 17, 30, tzinfo=UTC), "18:30"),
        (datetime(2026, 3, 15, 23, 0, tzinfo=UTC), None),
        (datetime(2026, 3, 16, 22, 59, 59, tzinfo=UTC), "23:59"),
        (None, None),
    ],
)
def test_time_of_day_is_local(due_at: datetime | None, time: str | None) -> None:
    """The hour that the person chose, in their zone; midnight means a day without a time."""
    task = Task("t-1", "Call", due_at=due_at)
    output = context(build(user(), TaskList(1, (task,)), scheduled_mail(KIND), LINKS))
    assert output["dueTime"] == output["tasks"][0]["dueTime"] == time
