"""The summary of overdue tasks: their total number, and the ten oldest with their days overdue. Pure.

It is sent every day, or once a week: to people who have chosen that, and when the list has not changed for a week.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from typing import Any

from flowstate_daemon.database.app_data import Task, TaskList, TimeWindow, User, start_of_day
from flowstate_daemon.database.scheduled_mails import EarlierList, ScheduledMail
from flowstate_daemon.mail.app_links import AppLinks
from flowstate_daemon.mail.policy import SKIP, Decision
from flowstate_daemon.mail.preferences import Cadence
from flowstate_daemon.scheduler.scheduled_mail import BuildResult, NothingToSend, new_mail
from flowstate_daemon.scheduler.text import display_name, format_title, pluralise, positive_or_none

NOTHING_OVERDUE = "nothing overdue"
UNCHANGED_AFTER = timedelta(days=7)
LOOK_BACK_DAYS = 15  # two weeks show whether the list was already the same when the last weekly email was sent
WEEKLY, UNCHANGED = "weekly", "unchanged"  # the field `cadence` of the email
CHOSEN_WEEKLY = Decision("cadence", SKIP, "the recipient wants overdue summaries once a week")
UNCHANGED_LIST = Decision("cadence", SKIP, "the list has not changed for a week, so it is sent once a week")
MIN_DATETIME = datetime(2, 1, 1, tzinfo=UTC)


def window(scheduled: ScheduledMail) -> TimeWindow:
    """All time before the local date, in the user's time zone."""
    return TimeWindow(
        scheduled.user_id, MIN_DATETIME, start_of_day(scheduled.local_date, scheduled.time_zone), scheduled.time_zone
    )


def build(user: User, data: TaskList | None, scheduled: ScheduledMail, links: AppLinks) -> BuildResult:
    """The summary, or nothing when all tasks were completed, moved or deleted by then."""
    if data is None or not data.items:
        return NothingToSend(NOTHING_OVERDUE)
    listed = [(format_title(task.title), days_overdue(task, scheduled), task.id) for task in data.items]
    context: dict[str, Any] = {
        "userName": display_name(user),
        "overdueCount": positive_or_none(data.total) or len(data.items),
        "overdueTasks": "\n".join(f"{title} - {pluralise(days, 'day')} overdue" for title, days, _ in listed),
        "reviewUrl": links.overdue,
        "tasks": [{"title": title, "days": days, "url": links.task(key)} for title, days, key in listed],
    }
    return new_mail(user, scheduled, context)


@dataclass(frozen=True, slots=True)
class Frequency:
    """Whether a summary is due today: `skip` says why not. `cadence` is the field of the email, "" for daily."""

    cadence: str = ""
    skip: Decision | None = None


def choose_frequency(
    today: date, fingerprint: str, earlier: Sequence[EarlierList], *, chosen: Cadence | None, weekly_on: int
) -> Frequency:
    """Whether to send today. `earlier` has the newest list first; `weekly_on` is the ISO weekday of weekly summaries.

    Without a choice, a list that has not changed for a week is sent once a week: the first email after such a week says
    so, and the next one follows a week later.
    """
    if chosen == "weekly":
        return Frequency(WEEKLY, None if today.isoweekday() == weekly_on else CHOSEN_WEEKLY)
    if chosen == "daily":
        return Frequency()
    same = list(takewhile(lambda one: one.fingerprint == fingerprint, earlier))
    weekly_from = (same[-1].local_date if same else today) + UNCHANGED_AFTER
    if today < weekly_from:
        return Frequency()
    recent = (one for one in same if one.sent and one.local_date > today - UNCHANGED_AFTER)
    sent = any(one.local_date >= weekly_from for one in recent)
    return Frequency(UNCHANGED, UNCHANGED_LIST if sent else None)


def days_overdue(task: Task, scheduled: ScheduledMail) -> int:
    """Local days between the due date and the local date of the email: due yesterday at any hour is 1."""
    if task.due_at is None:
        return 1
    due: date = task.due_at.astimezone(scheduled.time_zone).date()
    return max(1, (scheduled.local_date - due).days)
