"""Mails out of this daemon's own contexts: lists of tasks, true counts, weeks compared, as the reader writes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.mail.samples import rich_contexts
from tests.support.html import Page
from tests.unit.mail.rendered_mails import BRAND, sample

RENDERER = Renderer(BRAND)
RICH = rich_contexts()
URL = "https://flowstate.example/tasks/1"


def rich(kind: str, locale: str = "en", **changes: Any) -> Email:
    return RENDERER.render(replace(sample(kind, **{**RICH[kind], **changes}), locale=locale))


def rows(mail: Email) -> int:
    return len([line for line in mail.text.splitlines() if line.startswith("- ")])


def test_a_reminder_lists_what_is_due() -> None:
    """Each title opens its task, with its project, length and priority; the button opens the list."""
    mail = rich("task-reminder")
    page = Page(mail.html)
    assert {task["url"] for task in RICH["task-reminder"]["tasks"]} <= page.links
    assert "Send the framer the final sizes Autumn exhibition · 45 min · priority 4 of 5" in page.text
    assert "Book the van for the big frames 15 min" in page.text
    assert RICH["task-reminder"]["tasksUrl"] in page.links
    assert "Tuesday, March 3, 2026" in page.text
    assert "- Book the van for the big frames\n  15 min\n  https://flowstate.example/tasks/9d4f2a80\n" in mail.text


@pytest.mark.parametrize(
    ("locale", "subject", "day", "rest"),
    [("en", "5 tasks due tomorrow", "Tuesday, March 3, 2026", "and 1 more"),
     ("fr", "5 tâches pour demain", "Mardi 3 mars 2026", "et 1 autre")],
)  # fmt: skip
def test_a_reminder_counts_what_it_does_not_list(locale: str, subject: str, day: str, rest: str) -> None:
    """The subject has the true number, the list says how many are missing, the day is the reader's."""
    mail = rich("task-reminder", locale)
    page = Page(mail.html)
    assert mail.subject == subject
    for said in (day, rest):
        assert said in page.text
        assert said in mail.text
    assert len(page.all("li")) == rows(mail) == len(RICH["task-reminder"]["tasks"]) + 1


def test_one_task_is_no_list() -> None:
    """It has its own subject, its facts and a button that opens it."""
    (task, *_) = RICH["task-reminder"]["tasks"]
    mail = rich("task-reminder", tasks=[task], taskCount=1)
    page = Page(mail.html)
    assert mail.subject == "Due tomorrow: Send the framer the final sizes"
    assert page.all("li") == []
    assert "\nEstimated time: 45 min\n" in mail.text.replace("\u202f", " ")
    assert (RICH["task-reminder"]["tasksUrl"] in page.links, task["url"] in page.links) == (False, True)


def test_fifty_tasks_are_fifty_rows() -> None:
    """As many as a context may hold, and the thousands behind them as a number."""
    mail = rich("task-reminder", tasks=[{"title": f"Task {n}", "url": URL} for n in range(50)], taskCount=50_000)
    assert len(Page(mail.html).all("li")) == rows(mail) == 51
    assert mail.subject == "50,000 tasks due tomorrow"
    assert "and 49,950 more" in mail.text


def test_an_overdue_list_tells_how_late() -> None:
    """Each task with its days in the right plural, the oldest first, and what is not listed as a number."""
    mail = rich("overdue-summary", "fr")
    text = Page(mail.html).text
    places = [
        text.index(said) for said in ("36 jours de retard", "9 jours de retard", "1 jour de retard", "et 10 autres")
    ]
    assert places == sorted(places)
    assert mail.subject == "Vous avez 14 tâches en retard"
    assert "- Water the plants (1 jour de retard)\n" in mail.text


def test_a_task_without_an_address_is_no_link() -> None:
    """Its title stands there all the same."""
    mail = rich("overdue-summary", tasks=[{"title": "Alone", "days": 2}], reviewUrl=None, settingsUrl=None)
    assert Page(mail.html).all("a") == []
    assert "<strong><bdi>Alone</bdi></strong>" in mail.html


@pytest.mark.parametrize(
    ("before", "english", "french"),
    [
        (570, "2 hr 10 min more than the week before.", "2\u202fh 10\u202fmin de plus que la semaine précédente."),
        (760, "1 hr less than the week before.", "1\u202fh de moins que la semaine précédente."),
        (700, "As much as the week before.", "Autant que la semaine précédente."),
        (0, "11 hr 40 min more than the week before.", "11\u202fh 40\u202fmin de plus que la semaine précédente."),
        (None, "No session the week before.", "Aucune séance la semaine précédente."),
    ],
)
def test_weeks_are_compared(before: int | None, english: str, french: str) -> None:
    """More, less, as much; a week without minutes is not a week without sessions."""
    for locale, said in (("en", english), ("fr", french)):
        mail = rich("focus-report", locale, previousMinutes=before)
        for part in (Page(mail.html).text, mail.text):
            assert " ".join(said.split()) in " ".join(part.split())


@pytest.mark.parametrize(
    ("locale", "week", "day", "rating", "spent"),
    [("en", "Mar 2 \u2013 8, 2026", "Tuesday", "4.2 / 5", "11 hr 40 min"),
     ("fr", "2\u20138 mars 2026", "mardi", "4,2 / 5", "11 h 40 min")],
)  # fmt: skip
def test_a_week_is_told_in_the_readers_language(locale: str, week: str, day: str, rating: str, spent: str) -> None:
    """Dates, weekday, decimal sign and lengths of time, whatever English the old fields hold."""
    mail = rich("focus-report", locale, mostProductiveDay="Friday")
    for part in (Page(mail.html).text, " ".join(mail.text.split())):
        for said in (week, day, rating, spent):
            assert " ".join(said.split()) in part
        assert "Friday" not in part


def test_a_week_across_two_years() -> None:
    """Both years are told."""
    mail = rich("focus-report", weekStart="2026-12-28", weekEnd="2027-01-03")
    assert "Dec 28, 2026" in " ".join(mail.text.split())
    assert "Jan 3, 2027" in " ".join(mail.text.split())


def test_bars_are_as_long_as_their_share() -> None:
    """Of the longest task; a week of nothing but zeros divides by none."""
    mail = rich("focus-report", top=[{"title": "a", "minutes": 200}, {"title": "b", "minutes": 50}])
    assert (
        mail.html.count('<div style="width:100%;height:6px') == mail.html.count('<div style="width:25%;height:6px') == 1
    )
    assert '<div style="width:0%;' in rich("focus-report", top=[{"title": "a", "minutes": 0}]).html
