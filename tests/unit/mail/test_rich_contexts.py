"""The scheduler's own contexts: lists, dates and ratings are validated and cleaned like other fields."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
import pytest

from flowstate_daemon.mail.field_types import MAX_TEXT_LENGTH
from tests.unit.mail.rendered_mails import sample

URL = "https://flowstate.example/tasks/1"


def rows(context: Any, name: str) -> list[tuple[Any, ...]]:
    """The rows of a list, each as the values of its fields in the order of `kind.toml`, the required ones first."""
    return [msgspec.structs.astuple(row) for row in getattr(context, name)]


def due(title: str, url: str = "") -> tuple[Any, ...]:
    """A row of a reminder that contains only these."""
    return (title, "", 0, 0, None, url)


def test_parse_request_when_several_tasks() -> None:
    """Each row becomes a struct with defaults for missing fields."""
    full = {"title": " Buy\r\nmilk\u202e ", "project": "Home", "priority": 2, "minutes": 15.0, "url": URL, "more": 1}
    context: Any = sample("task-reminder", taskCount=3, dueDate="2026-03-03", tasks=[full, {"title": None}, {}]).context
    assert (context.task_count, context.due_date) == (3, date(2026, 3, 3))
    assert rows(context, "tasks") == [
        ("Buy milk", "Home", 2, 15, None, URL), ("…", "", 0, 0, None, ""), ("…", "", 0, 0, None, "")
    ]  # fmt: skip


def test_parse_request_when_overdue_list() -> None:
    """Days are required, titles are optional."""
    context: Any = sample("overdue-summary", tasks=[{"title": "", "days": 6, "url": None}]).context
    assert rows(context, "tasks") == [(6, "…", "")]


def test_parse_request_when_focus_report() -> None:
    """Null means no session in the week before, or no rating; it is not zero."""
    week = {"weekStart": "2026-03-02", "weekEnd": "2026-03-08", "bestDay": 2, "averageRating": 4, "ratedSessions": 3}
    context: Any = sample("focus-report", **week, top=[{"title": "Write", "minutes": 90}], previousMinutes=None).context
    assert (context.week_start, context.week_end) == (date(2026, 3, 2), date(2026, 3, 8))
    assert (context.best_day, context.average_rating, rows(context, "top")) == (2, 4.0, [(90, "Write")])
    assert context.previous_minutes is None


@pytest.mark.parametrize("missing", [None, ()])
def test_parse_request_when_list_is_null(missing: Any) -> None:
    """A producer may send null instead of an empty list."""
    assert sample("overdue-summary", tasks=missing).context == sample("overdue-summary").context


@pytest.mark.parametrize(("number", "read"), [(-1, 0), (10**30, 0), (2.9, 2), (None, 0)])
def test_parse_request_when_optional_number_invalid(number: Any, read: int) -> None:
    """An invalid priority or duration is not shown, and the reminder is sent."""
    context: Any = sample("task-reminder", tasks=[{"priority": number, "minutes": number}]).context
    assert (context.tasks[0].priority, context.tasks[0].minutes) == (read, read)


def test_parse_request_when_title_has_control_characters() -> None:
    """They come from the application's tables and do not stop the email."""
    context: Any = sample("task-reminder", tasks=[{"title": "a\x1b[31mb\x07"}]).context
    assert rows(context, "tasks") == [("a[31mb", "", 0, 0, None, "")]


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
    assert msgspec.structs.replace(context, **{name: getattr(unchanged, name)}) == unchanged


@pytest.mark.parametrize(
    ("kind", "given", "kept"),
    [
        ("task-reminder", [{"title": "a"}, "x", None, {"title": "b"}], [due("a"), due("b")]),
        ("task-reminder", [{"title": "a", "url": "javascript:x"}], [due("a")]),
        ("task-reminder", [{"title": 7, "priority": "high", "url": URL}], [due("…", URL)]),
        ("overdue-summary", [{"days": -1}, {"days": 2, "title": "b"}], [(2, "b", "")]),
        ("overdue-summary", [{"days": 1.5}, {"days": "3"}, {}, {"days": 2.0}], [(2, "…", "")]),
        ("task-reminder", [{"title": str(number)} for number in range(51)], [due(str(n)) for n in range(50)]),
    ],
)
def test_invalid_row_is_dropped(kind: str, given: list[Any], kept: list[tuple[Any, ...]]) -> None:
    """A row that lacks what it needs is left out, one with a wrong ornament loses it; at most 50 rows are read."""
    assert rows(sample(kind, tasks=given).context, "tasks") == kept


def test_title_of_a_row_is_cut() -> None:
    """Titles of rows have the same limit as other texts."""
    context: Any = sample("task-reminder", tasks=[{}, {"title": "é" * (MAX_TEXT_LENGTH + 1)}]).context
    assert context.tasks[1].title == "é" * MAX_TEXT_LENGTH


@pytest.mark.parametrize("year", ["0001-01-01", "9999-12-31"])
def test_parse_request_when_extreme_year(year: str) -> None:
    """Every year that the application's date picker allows is accepted."""
    context: Any = sample("task-reminder", dueDate=year).context
    assert context.due_date == date.fromisoformat(year)
