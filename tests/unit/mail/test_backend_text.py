"""English text of FlowState's backend, read into values."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.mail.backend_text import (
    find_streak_start,
    parse_backend_date,
    parse_minutes,
    parse_overdue,
    parse_score,
    parse_time,
    parse_titles,
)

JOB_DAY = (date(2026, 3, 4) - date(1970, 1, 1)).days


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("Pay rent - 3 days overdue\nCall home - 1 day overdue", [("Pay rent", 3), ("Call home", 1)]),
        ("Pay rent - 3 day(s) overdue", [("Pay rent", 3)]),
        ("A - 2 days overdue - 5 days overdue", [("A - 2 days overdue", 5)]),
        ("Re: a - b - 5 days overdue", [("Re: a - b", 5)]),
        ("first\nsecond - 4 days overdue", [("first second", 4)]),
        (" - 4 days overdue\n- 7 days overdue", [("…", 4), ("…", 7)]),
        ("One\nTwo", [("One", None), ("Two", None)]),
        ("One - 1 day overdue\nTwo", [("One", 1), ("Two", None)]),
        ("- One\n* Two\n• Three", [("One", None), ("Two", None), ("Three", None)]),
        ("Quelque chose - 3 jours de retard", [("Quelque chose - 3 jours de retard", None)]),
        ("", []),
        ("\n \n", []),
    ],
)
def test_overdue_lines(text: str, tasks: list[tuple[str, int | None]]) -> None:
    """Titles may contain anything, also what looks like the end of a line; other lists stay as they are."""
    assert [(task.title, task.days) for task in parse_overdue(text)] == tasks


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("Write: 120 min\nRead: 80 min", [("Write", 120), ("Read", 80)]),
        ("Re: call: 5 min", [("Re: call", 5)]),
        (": 0 min", [("…", 0)]),
        ("Write", [("Write", None)]),
    ],
)
def test_minutes_lines(text: str, tasks: list[tuple[str, int | None]]) -> None:
    """The last number is the duration."""
    assert [(task.title, task.minutes) for task in parse_minutes(text)] == tasks


def test_title_lines() -> None:
    """The tick stands before every task, done or not; only the first one belongs to the producer."""
    assert [task.title for task in parse_titles("✅ Done\n✅ ✅ Ticked\n✅\nPlain")] == [
        "Done",
        "✅ Ticked",
        "…",
        "Plain",
    ]


@pytest.mark.parametrize(
    ("text", "score"),
    [("4.2/5", 4.2), ("5/5", 5.0), ("4.25 / 5", 4.25), ("Not tracked/5", None), ("9/5", None)],
)
def test_score(text: str, score: float | None) -> None:
    """A rating in a form that is not known is not shown."""
    assert parse_score(text) == score


@pytest.mark.parametrize(("text", "known"), [("18:30", True), ("00:05", True), ("24:00", False), ("6:30 PM", False)])
def test_time(text: str, known: bool) -> None:
    """No email is refused for its time of day."""
    assert (parse_time(text) is not None) == known


@pytest.mark.parametrize(
    ("text", "order", "day"),
    [
        ("3/4/2026", "M/D/YYYY", date(2026, 3, 4)),
        ("3/4/2026", "D/M/YYYY", date(2026, 4, 3)),
        ("31/12/2026", "M/D/YYYY", date(2026, 12, 31)),
        ("12/31/2026", "D/M/YYYY", date(2026, 12, 31)),
        ("3/4/2026", "YYYY-MM-DD", None),
        ("2026-03-04", "M/D/YYYY", date(2026, 3, 4)),
        ("2026-03-04T10:00:00.000Z", "D/M/YYYY", date(2026, 3, 4)),
        ("2/30/2026", "M/D/YYYY", None),
        ("2 October 2026", "M/D/YYYY", None),
        ("", "M/D/YYYY", None),
        ("٣/٤/٢٠٢٦", "M/D/YYYY", None),
    ],
)
def test_backend_date(text: str, order: str, day: date | None) -> None:
    """ISO in any case; with slashes in the order of the setting, unless that is impossible."""
    assert parse_backend_date(text, order) == day


@pytest.mark.parametrize(
    ("text", "days", "start"),
    [
        ("2/4/2026", 28, date(2026, 2, 4)),
        ("4/2/2026", 28, date(2026, 2, 4)),
        ("3/2/2026", 2, date(2026, 3, 2)),
        ("2/3/2026", 2, date(2026, 3, 2)),
        ("2026-02-03", 28, date(2026, 2, 3)),
        ("2026-02-05", 28, date(2026, 2, 5)),
        ("04.02.2026", 28, date(2026, 2, 4)),
        ("2026-01-01", 28, date(2026, 1, 1)),
    ],
)
def test_streak_start(text: str, days: int, start: date) -> None:
    """The day of the job minus the days decides how a date is read, a day more or less for the server's zone."""
    assert find_streak_start(text, days, JOB_DAY, "M/D/YYYY") == start


def test_streak_start_when_the_job_is_not_known() -> None:
    """A preview has no job; an absurd number of days is no error."""
    assert find_streak_start("3/4/2026", 5, None, "M/D/YYYY") == date(2026, 3, 4)
    assert find_streak_start("x", 5, None, "M/D/YYYY") is None
    assert find_streak_start("x", 10**9, JOB_DAY, "M/D/YYYY") is None


@given(st.text(max_size=60))
def test_any_text_is_read(text: str) -> None:
    """Control characters are refused as in any other text; nothing else is."""
    for parse in (parse_overdue, parse_minutes, parse_titles):
        try:
            tasks = parse(text)
        except ValueError as error:
            assert str(error) == "text without control characters"  # noqa: PT017
        else:
            assert all(task.title for task in tasks)
    for order in ("M/D/YYYY", "D/M/YYYY", "YYYY-MM-DD"):
        parse_backend_date(text, order)
