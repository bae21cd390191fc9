"""The scheduler's own contexts: lists, dates and ratings are validated and cleaned like other fields."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
import pytest

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.mail.field_types import MAX_FIELD_BYTES
from tests.unit.mail.rendered_mails import sample

URL = "https://flowstate.example/tasks/1"


def rows(context: Any, name: str) -> list[tuple[Any, ...]]:
    """The rows of a list, each as the values of its fields in the order of `kind.toml`, the required ones first."""
    return [msgspec.structs.astuple(row) for row in getattr(context, name)]


def refusal(kind: str, **changes: Any) -> str:
    with pytest.raises(InvalidDataError) as caught:
        sample(kind, **changes)
    return caught.value.reason


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
    assert rows(context, "tasks") == [("a [31mb", "", 0, 0, None, "")]


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("task-reminder", {"dueDate": "2026-02-30"}, "Expected a day as YYYY-MM-DD - at `$.context.dueDate`"),
        ("task-reminder", {"dueDate": "20260302"}, "Expected a day as YYYY-MM-DD - at `$.context.dueDate`"),
        ("task-reminder", {"dueDate": "٢٠٢٦-٠٣-٠٢"}, "Expected a day as YYYY-MM-DD - at `$.context.dueDate`"),
        ("task-reminder", {"dueDate": "0000-01-01"}, "Expected a day as YYYY-MM-DD - at `$.context.dueDate`"),
        ("task-reminder", {"dueDate": 5}, "Expected `str | null`, got `int` - at `$.context.dueDate`"),
        ("task-reminder", {"tasks": "all"}, "Expected `array | null`, got `str` - at `$.context.tasks`"),
        ("task-reminder", {"tasks": [{}] * 51}, "Expected `array` of length <= 50 - at `$.context.tasks`"),
        ("task-reminder", {"tasks": [{}, "x"]}, "Expected `object`, got `str` - at `$.context.tasks[1]`"),
        (
            "task-reminder",
            {"tasks": [{}, {"url": "javascript:x"}]},
            "Expected an http or https address - at `$.context.tasks[1].url`",
        ),
        ("task-reminder", {"taskUrl": f"{URL}?{'x' * 2048}"}, "Expected an address of at most 2048 characters - at "),
        ("overdue-summary", {"tasks": [{"days": -1}]}, "Expected `int` >= 0 - at `$.context.tasks[0].days`"),
        ("overdue-summary", {"tasks": [{"days": 1.5}]}, "Expected `int`, got `float` - at `$.context.tasks[0].days`"),
        ("focus-report", {"bestDay": 0}, "Expected `int` >= 1 - at `$.context.bestDay`"),
        ("focus-report", {"bestDay": 8}, "Expected `int` <= 7 - at `$.context.bestDay`"),
        ("focus-report", {"averageRating": 5.1}, "Expected `float` <= 5.0 - at `$.context.averageRating`"),
        ("focus-report", {"top": [{"title": "x"}]}, "Object missing required field `minutes` - at `$.context.top[0]`"),
    ],
)
def test_parse_request_when_row_invalid(kind: str, changes: dict[str, Any], reason: str) -> None:
    """The error contains the row and the field, not the value."""
    assert refusal(kind, **changes).startswith(reason)


def test_parse_request_when_row_title_too_long() -> None:
    """Titles of rows have the same limit as other texts."""
    reason = refusal("task-reminder", tasks=[{}, {"title": "é" * (MAX_FIELD_BYTES // 2 + 1)}])
    assert reason == "Text too long: 65538 bytes, at most 65536 are allowed - at `$.context.tasks[1].title`"


@pytest.mark.parametrize("year", ["0001-01-01", "9999-12-31"])
def test_parse_request_when_extreme_year(year: str) -> None:
    """Every year that the application's date picker allows is accepted."""
    context: Any = sample("task-reminder", dueDate=year).context
    assert context.due_date == date.fromisoformat(year)
