"""Emails from the scheduler's own contexts: task lists, totals and comparisons of weeks, localised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Renderer
from tests.support.html import Page
from tests.support.mail_samples import RICH
from tests.unit.mail.rendered_mails import BRAND, sample

RENDERER = Renderer(BRAND)
URL = "https://flowstate.example/tasks/1"


def rich(kind: str, locale: str = "en", **changes: Any) -> Email:
    return RENDERER.render(replace(sample(kind, **{**RICH[kind], **changes}), locale=locale))


def rows(mail: Email) -> int:
    return len([line for line in mail.text.splitlines() if line.startswith("- ")])


def test_task_reminder_when_several_tasks() -> None:
    """Each title links to its task, with project, duration and priority; the button opens the list."""
    mail = rich("task-reminder")
    page = Page(mail.html)
    assert {task["url"] for task in RICH["task-reminder"]["tasks"]} <= page.links
    assert "Send the framer the final sizesAutumn exhibition · 6:30 PM · 45 min · High priority" in page.text
    assert "Book the van for the big frames15 min" in page.text
    assert RICH["task-reminder"]["tasksUrl"] in page.links
    assert "Tuesday, March 3, 2026" in page.text
    assert "- Book the van for the big frames\n  15 min\n  https://flowstate.example/today\n" in mail.text


@pytest.mark.parametrize(
    ("locale", "subject", "day", "rest"),
    [("en", "5 tasks due tomorrow", "Tuesday, March 3, 2026", "and 1 more"),
     ("fr", "5 tâches pour demain", "Mardi 3 mars 2026", "et 1 autre")],
)  # fmt: skip
def test_task_reminder_when_not_all_are_listed(locale: str, subject: str, day: str, rest: str) -> None:
    """The subject has the total, the list the number of missing tasks, the date is localised."""
    mail = rich("task-reminder", locale)
    page = Page(mail.html)
    assert mail.subject == subject
    for said in (day, rest):
        assert said in page.text
        assert said in mail.text
    assert len(page.items) == rows(mail) == len(RICH["task-reminder"]["tasks"]) + 1


def test_task_reminder_when_one_task() -> None:
    """It has its own subject, its facts and a button that opens it."""
    (task, *_) = RICH["task-reminder"]["tasks"]
    mail = rich("task-reminder", tasks=[task], taskCount=1)
    page = Page(mail.html)
    assert mail.subject == "Due tomorrow: Send the framer the final sizes"
    assert page.items == []
    assert "\nEstimated time: 45 min\n" in mail.text.replace("\u00a0", " ")
    assert task["url"] in page.links


def test_task_reminder_when_list_is_full() -> None:
    """The maximum number of rows is shown, and the number of the rest."""
    mail = rich("task-reminder", tasks=[{"title": f"Task {n}", "url": URL} for n in range(50)], taskCount=50_000)
    assert len(Page(mail.html).items) == rows(mail) == 51
    assert mail.subject == "50,000 tasks due tomorrow"
    assert "and 49,950 more" in mail.text


def test_overdue_summary_when_tasks_given() -> None:
    """Each task with its days in the right plural, the oldest first, and the number of the rest."""
    mail = rich("overdue-summary", "fr")
    text = Page(mail.html).text
    places = [
        text.index(said) for said in ("36 jours de retard", "9 jours de retard", "1 jour de retard", "et 10 autres")
    ]
    assert places == sorted(places)
    assert mail.subject == "Vous avez 14 tâches en retard"
    assert "- Water the plants (1 jour de retard)\n" in mail.text


def test_task_when_url_missing() -> None:
    """Its title is shown without a link."""
    mail = rich("overdue-summary", tasks=[{"title": "Alone", "days": 2}], reviewUrl=None, settingsUrl=None)
    assert Page(mail.html).all("a") == []
    assert "<strong><bdi>Alone</bdi></strong>" in mail.html


@pytest.mark.parametrize(
    ("before", "english", "french"),
    [
        (570, "2h 10m more than the week before.", "2 h 10 de plus que la semaine précédente."),
        (760, "1h less than the week before.", "1 h de moins que la semaine précédente."),
        (700, "Same as the week before.", "Autant que la semaine précédente."),
        (0, "11h 40m more than the week before.", "11 h 40 de plus que la semaine précédente."),
        (None, "No sessions the week before.", "Aucune séance la semaine précédente."),
    ],
)
def test_focus_report_compares_weeks(before: int | None, english: str, french: str) -> None:
    """More, less or the same; a week without minutes differs from a week without sessions."""
    for locale, said in (("en", english), ("fr", french)):
        mail = rich("focus-report", locale, previousMinutes=before)
        for part in (Page(mail.html).text, mail.text):
            assert " ".join(said.split()) in " ".join(part.split())


@pytest.mark.parametrize(
    ("locale", "week", "day", "rating", "spent"),
    [("en", "March 2 \u2013 8, 2026", "Tuesday", "4.2 / 5", "11h 40m"),
     ("fr", "2\u20138 mars 2026", "mardi", "4,2 / 5", "11 h 40")],
)  # fmt: skip
def test_focus_report_is_localised(locale: str, week: str, day: str, rating: str, spent: str) -> None:
    """Dates, weekday, decimal sign and durations, whatever English the old fields contain."""
    mail = rich("focus-report", locale, mostProductiveDay="Friday")
    for part in (Page(mail.html).text, " ".join(mail.text.split())):
        for said in (week, day, rating, spent):
            assert " ".join(said.split()) in part
        assert "Friday" not in part


def test_focus_report_when_week_spans_two_years() -> None:
    """Both years are shown."""
    mail = rich("focus-report", weekStart="2026-12-28", weekEnd="2027-01-03")
    assert "December 28, 2026" in " ".join(mail.text.split())
    assert "January 3, 2027" in " ".join(mail.text.split())


def test_bars_are_proportional() -> None:
    """Relative to the longest task; a week of zeros causes no division by zero."""
    mail = rich("focus-report", top=[{"title": "a", "minutes": 200}, {"title": "b", "minutes": 50}])
    assert mail.html.count('<td width="100%" height="6"') == mail.html.count('<td width="25%" height="6"') == 1
    empty = rich("focus-report", top=[{"title": "a", "minutes": 0}]).html
    assert '<td width="0%"' not in empty
    assert empty.count('<td class="rail" height="6"') == 1
