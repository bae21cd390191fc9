"""Builders return a sendable email or a reason, for any data."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstate_daemon.database.app_data import Focus, FocusByTask, FocusWeek, Task, TaskList, week_boundaries
from flowstate_daemon.database.scheduled_mails import ScheduledMail
from flowstate_daemon.mail.field_types import MAX_NUMBER
from flowstate_daemon.mail_producer import NewMail
from flowstate_daemon.scheduler import focus_report, overdue_summary, task_reminder
from flowstate_daemon.scheduler.scheduled_mail import NothingToSend
from tests.unit.scheduler.builder_inputs import LINKS, mail, user

# Titles as users paste them: control characters, direction marks, emoji, markup, header lines.
TEXT = (
    st.none()
    | st.text(max_size=300)
    | st.sampled_from(["\r\nBcc: x", "<b>{{ 1 }}</b>", "\u202etxt", "👩‍👩‍👧" * 200, "\0"])
)
INT32 = st.none() | st.integers(-(2**31), 2**31 - 1)
LANGUAGE = st.none() | st.sampled_from(["fr", "en", "fr-CA", "xx", "zh_Hant_TW"])
ZONES = st.sampled_from(
    ["Europe/Paris", "Asia/Kathmandu", "Pacific/Apia", "America/St_Johns", "Pacific/Kiritimati", "UTC"]
)
COUNT = st.integers(0, 2**63 - 1)
TASK = st.builds(
    Task,
    id=st.text(max_size=40),
    title=TEXT,
    project=TEXT,
    priority=INT32,
    minutes=INT32,
    due_at=st.none()
    | st.dates(date(2, 1, 1), date(9998, 12, 31)).map(lambda day: datetime.combine(day, time(23, 59), UTC)),
)
TASKS = st.builds(TaskList, total=COUNT, items=st.lists(TASK, max_size=50).map(tuple))
FOCUS = st.builds(Focus, sessions=COUNT, minutes=COUNT, rated=st.integers(0, 10**6), ratings=st.integers(0, 10**6))
RATED = FOCUS.map(lambda f: Focus(f.sessions, f.minutes, f.rated, f.rated + f.ratings % (4 * f.rated + 1)))
FOCUS_TASK = st.builds(FocusByTask, task_id=st.none() | st.text(), title=TEXT, minutes=COUNT)
WEEKS = st.builds(
    FocusWeek,
    week=RATED,
    before=FOCUS,
    days=st.dictionaries(st.integers(1, 7), FOCUS),
    top=st.lists(FOCUS_TASK, max_size=3).map(tuple),
)


@st.composite
def scheduled_mails(draw: st.DrawFn, kind: str) -> ScheduledMail:
    zone, day = ZoneInfo(draw(ZONES)), draw(st.dates(date(1971, 1, 8), date(2999, 12, 31)))
    hour = draw(st.integers(0, 23))
    due_at = datetime(day.year, day.month, day.day, hour, tzinfo=zone).astimezone(UTC)
    return ScheduledMail(kind, "ada", day, zone.key, due_at, due_at, draw(st.sampled_from(["", "t-1"])))


@pytest.mark.parametrize(
    ("kind", "builder", "data"),
    [
        ("task-reminder", task_reminder, st.none() | TASKS),
        ("overdue-summary", overdue_summary, st.none() | TASKS),
        ("focus-report", focus_report, st.none() | WEEKS),
    ],
    ids=["task-reminder", "overdue-summary", "focus-report"],
)
def test_any_data_builds_a_sendable_mail(kind: str, builder: object, data: st.SearchStrategy[object]) -> None:
    """The context parses like a job's and renders with a subject of one line, in any language."""

    @given(TEXT, LANGUAGE, data, scheduled_mails(kind))
    @settings(max_examples=150, deadline=None)
    def claim(name: str | None, language: str | None, known: object, scheduled: ScheduledMail) -> None:
        built = builder.build(user(name, language), known, scheduled, LINKS)  # type: ignore[attr-defined]
        if isinstance(built, NothingToSend):
            assert built.reason.isprintable()
        else:
            sent = mail(kind, built)
            assert sent.subject.splitlines() == [sent.subject]

    claim()


@given(scheduled_mails("focus-report"))
@settings(max_examples=200, deadline=None)
def test_boundaries_of_a_week_are_ordered(scheduled: ScheduledMail) -> None:
    """With any clock change the boundaries ascend, and the week has at most eight local dates."""
    cuts = week_boundaries(focus_report.window(scheduled))
    assert cuts == sorted(cuts)
    assert 9 <= len(cuts) <= 10


def test_huge_totals_are_limited() -> None:
    """A total beyond the limit of the email is limited, not refused."""
    week = FocusWeek(Focus(1, 2**62), Focus(1, 2**62), {1: Focus(1, 2**62)}, (FocusByTask("t", "x", 2**62),))
    day = date(2026, 3, 15)
    due_at = datetime(2026, 3, 15, 16, tzinfo=UTC)
    scheduled = ScheduledMail("focus-report", "ada", day, "UTC", due_at, due_at)
    built = focus_report.build(user(), week, scheduled, LINKS)
    assert isinstance(built, NewMail)
    assert built.context["previousMinutes"] == MAX_NUMBER
    assert mail("focus-report", built)
