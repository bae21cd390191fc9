"""Contexts of our own making: lists of structs, days and ratings, checked and cleaned like all other fields."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.mail.contexts import DueTask, FocusReport, OverdueSummary, OverdueTask, TaskReminder, TopTask
from flowstate_daemon.mail.field_types import MAX_FIELD_BYTES
from tests.unit.mail.rendered_mails import sample

URL = "https://flowstate.example/tasks/1"


def refusal(kind: str, **changes: Any) -> str:
    with pytest.raises(InvalidDataError) as caught:
        sample(kind, **changes)
    return caught.value.reason


def test_a_reminder_of_several_tasks_is_read() -> None:
    """Each row becomes a struct; what it does not know gets a default."""
    full = {"title": " Buy\r\nmilk\u202e ", "project": "Home", "priority": 2, "minutes": 15.0, "url": URL, "more": 1}
    context = sample("task-reminder", taskCount=3, dueDate="2026-03-03", tasks=[full, {"title": None}, {}]).context
    assert isinstance(context, TaskReminder)
    assert (context.task_count, context.due_date) == (3, date(2026, 3, 3))
    assert context.tasks == (DueTask("Buy milk", "Home", 2, 15, URL), DueTask("…"), DueTask("…", "", 0, 0, ""))


def test_an_overdue_list_is_read() -> None:
    """Days are needed, titles are not."""
    context = sample("overdue-summary", tasks=[{"title": "", "days": 6, "url": None}]).context
    assert isinstance(context, OverdueSummary)
    assert context.tasks == (OverdueTask(6, "…", ""),)


def test_a_week_is_read() -> None:
    """Null says that there was no session the week before, or no rating; it is not zero."""
    week = {"weekStart": "2026-03-02", "weekEnd": "2026-03-08", "bestDay": 2, "averageRating": 4, "ratedSessions": 3}
    context = sample("focus-report", **week, top=[{"title": "Write", "minutes": 90}], previousMinutes=None).context
    assert isinstance(context, FocusReport)
    assert (context.week_start, context.week_end) == (date(2026, 3, 2), date(2026, 3, 8))
    assert (context.best_day, context.average_rating, context.top) == (2, 4.0, (TopTask(90, "Write"),))
    assert context.previous_minutes is None


@pytest.mark.parametrize("missing", [None, ()])
def test_null_is_an_empty_list(missing: Any) -> None:
    """A producer may send null where it has no rows."""
    assert sample("overdue-summary", tasks=missing).context == sample("overdue-summary").context


@pytest.mark.parametrize(("number", "read"), [(-1, 0), (10**30, 0), (2.9, 2), (None, 0)])
def test_what_a_person_left_to_chance_is_not_refused(number: Any, read: int) -> None:
    """A priority or a length that means nothing is not shown, and the reminder still goes."""
    context = sample("task-reminder", tasks=[{"priority": number, "minutes": number}]).context
    assert isinstance(context, TaskReminder)
    assert context.tasks is not None
    assert (context.tasks[0].priority, context.tasks[0].minutes) == (read, read)


def test_control_characters_in_one_title_do_not_cost_the_mail() -> None:
    """They come from the application's own table, where nobody can mend them."""
    context = sample("task-reminder", tasks=[{"title": "a\x1b[31mb\x07"}]).context
    assert isinstance(context, TaskReminder)
    assert context.tasks == (DueTask("a [31mb"),)


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
def test_broken_rich_fields_are_refused_with_their_place(kind: str, changes: dict[str, Any], reason: str) -> None:
    """The row and the field are named, the value is not."""
    assert refusal(kind, **changes).startswith(reason)


def test_titles_of_rows_have_a_limit_too() -> None:
    """The same as every other text."""
    reason = refusal("task-reminder", tasks=[{}, {"title": "é" * (MAX_FIELD_BYTES // 2 + 1)}])
    assert reason == "Text too long: 65538 bytes, at most 65536 are allowed - at `$.context.tasks[1].title`"


@pytest.mark.parametrize("year", ["0001-01-01", "9999-12-31"])
def test_the_ends_of_the_calendar_are_days(year: str) -> None:
    """Whatever the application's date picker let through."""
    context = sample("task-reminder", dueDate=year).context
    assert isinstance(context, TaskReminder)
    assert context.due_date == date.fromisoformat(year)
