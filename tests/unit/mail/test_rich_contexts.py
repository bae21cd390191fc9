"""The scheduler's own contexts: lists, dates and ratings are validated and cleaned like other fields."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from flowstate_daemon.mail.contexts import DueTask, FocusReport, OverdueSummary, OverdueTask, TaskReminder, TopTask
from flowstate_daemon.mail.field_types import MAX_TEXT_LENGTH
from tests.unit.mail.rendered_mails import sample

URL = "https://flowstate.example/tasks/1"


def test_parse_request_when_several_tasks() -> None:
    """Each row becomes a struct with defaults for missing fields."""
    full = {"title": " Buy\r\nmilk\u202e ", "project": "Home", "priority": 2, "minutes": 15.0, "url": URL, "more": 1}
    context = sample("task-reminder", taskCount=3, dueDate="2026-03-03", tasks=[full, {"title": None}, {}]).context
    assert isinstance(context, TaskReminder)
    assert (context.task_count, context.due_date) == (3, date(2026, 3, 3))
    assert context.tasks == (DueTask("Buy milk", "Home", 2, 15, URL), DueTask("…"), DueTask("…", "", 0, 0, ""))


def test_parse_request_when_overdue_list() -> None:
    """Days are required, titles are optional."""
    context = sample("overdue-summary", tasks=[{"title": "", "days": 6, "url": None}]).context
    assert isinstance(context, OverdueSummary)
    assert context.tasks == (OverdueTask(6, "…", ""),)


def test_parse_request_when_focus_report() -> None:
    """Null means no session in the week before, or no rating; it is not zero."""
    week = {"weekStart": "2026-03-02", "weekEnd": "2026-03-08", "bestDay": 2, "averageRating": 4, "ratedSessions": 3}
    context = sample("focus-report", **week, top=[{"title": "Write", "minutes": 90}], previousMinutes=None).context
    assert isinstance(context, FocusReport)
    assert (context.week_start, context.week_end) == (date(2026, 3, 2), date(2026, 3, 8))
    assert (context.best_day, context.average_rating, context.top) == (2, 4.0, (TopTask(90, "Write"),))
    assert context.previous_minutes is None


@pytest.mark.parametrize("missing", [None, ()])
def test_parse_request_when_list_is_null(missing: Any) -> None:
    """A producer may send null instead of an empty list."""
    assert sample("overdue-summary", tasks=missing).context == sample("overdue-summary").context


@pytest.mark.parametrize(("number", "read"), [(-1, 0), (10**30, 0), (2.9, 2), (None, 0)])
def test_parse_request_when_optional_number_invalid(number: Any, read: int) -> None:
    """An invalid priority or duration is not shown, and the reminder is sent."""
    context = sample("task-reminder", tasks=[{"priority": number, "minutes": number}]).context
    assert isinstance(context, TaskReminder)
    assert context.tasks is not None
    assert (context.tasks[0].priority, context.tasks[0].minutes) == (read, read)


def test_parse_request_when_title_has_control_characters() -> None:
    """They come from the application's tables and do not stop the email."""
    context = sample("task-reminder", tasks=[{"title": "a\x1b[31mb\x07"}]).context
    assert isinstance(context, TaskReminder)
    assert context.tasks == (DueTask("a[31mb"),)


@pytest.mark.parametrize(
    ("kind", "field", "value", "name", "default"),
    [
        ("task-reminder", "dueDate", "2026-02-30", "due_date", None),
        ("task-reminder", "dueDate", "20260302", "due_date", None),
        ("task-reminder", "dueDate", "٢٠٢٦-٠٣-٠٢", "due_date", None),
        ("task-reminder", "dueDate", "0000-01-01", "due_date", None),
        ("task-reminder", "dueDate", 5, "due_date", None),
        ("task-reminder", "tasks", "all", "tasks", ()),
        ("task-reminder", "tasks", {"0": {}}, "tasks", ()),
        ("task-reminder", "tasks", [None, "x", 7, []], "tasks", ()),
        ("task-reminder", "taskUrl", f"{URL}?{'x' * 2048}", "task_url", ""),
        ("focus-report", "bestDay", 0, "best_day", None),
        ("focus-report", "bestDay", 8, "best_day", None),
        ("focus-report", "averageRating", 5.1, "average_rating", None),
        ("focus-report", "top", [{"title": "x"}], "top", ()),
    ],
)
def test_invalid_optional_value_is_dropped(kind: str, field: str, value: Any, name: str, default: Any) -> None:
    """The field has its default, and the others keep their values."""
    context, unchanged = sample(kind, **{field: value}).context, sample(kind).context
    assert getattr(context, name) == default
    assert [getattr(context, other) for other in ("user_name", "settings_url")] == [
        getattr(unchanged, other) for other in ("user_name", "settings_url")
    ]


@pytest.mark.parametrize(
    ("kind", "rows", "kept"),
    [
        ("task-reminder", [{"title": "a"}, "x", None, {"title": "b"}], (DueTask("a"), DueTask("b"))),
        ("task-reminder", [{"title": "a", "url": "javascript:x"}], (DueTask("a"),)),
        ("task-reminder", [{"title": 7, "priority": "high", "url": URL}], (DueTask("…", url=URL),)),
        ("overdue-summary", [{"days": -1}, {"days": 2, "title": "b"}], (OverdueTask(2, "b"),)),
        ("overdue-summary", [{"days": 1.5}, {"days": "3"}, {}, {"days": 2.0}], (OverdueTask(2),)),
        ("task-reminder", [{"title": str(number)} for number in range(51)], tuple(DueTask(str(n)) for n in range(50))),
    ],
)
def test_invalid_row_is_dropped(kind: str, rows: list[Any], kept: tuple[Any, ...]) -> None:
    """A row that lacks what it needs is left out, one with a wrong ornament loses it; at most 50 rows are read."""
    context = sample(kind, tasks=rows).context
    assert isinstance(context, TaskReminder | OverdueSummary)
    assert context.tasks == kept


def test_title_of_a_row_is_cut() -> None:
    """Titles of rows have the same limit as other texts."""
    context = sample("task-reminder", tasks=[{}, {"title": "é" * (MAX_TEXT_LENGTH + 1)}]).context
    assert isinstance(context, TaskReminder)
    assert context.tasks is not None
    assert context.tasks[1].title == "é" * MAX_TEXT_LENGTH


@pytest.mark.parametrize("year", ["0001-01-01", "9999-12-31"])
def test_parse_request_when_extreme_year(year: str) -> None:
    """Every year that the application's date picker allows is accepted."""
    context = sample("task-reminder", dueDate=year).context
    assert isinstance(context, TaskReminder)
    assert context.due_date == date.fromisoformat(year)
