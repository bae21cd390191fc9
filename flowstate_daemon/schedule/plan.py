"""The calendar's table: the three kinds, when they are due, until when they may be late, and who says what. Pure.

Planner, feeder and runs by hand read it. A new schedule is a row here, a builder, and a query that finds its people.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flowstate_daemon.base.cron import cron_after, read_cron
from flowstate_daemon.base.forms import until_cron
from flowstate_daemon.base.settings import Schedule as Settings
from flowstate_daemon.database.facts import Facts, Window, start_of
from flowstate_daemon.database.planning import Occasion
from flowstate_daemon.mail.catalogue import KINDS
from flowstate_daemon.schedule import focus_report, overdue_summary, task_reminder
from flowstate_daemon.schedule.slot import Build, Slot

Ask = Callable[[Facts, Sequence[Window]], Awaitable[Mapping[Any, Any]]]


@dataclass(frozen=True, slots=True)
class Words:
    """What operators know from the log: `title` of the job, `found` with a number before it, `mails` at its end."""

    title: str
    found: str
    mails: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """One kind of mail that the calendar sends. `cron` and `until` are read, on each person's own clock."""

    kind: str
    cron: str
    until: str
    words: Words
    window: Callable[[Slot], Window]
    ask: Ask
    build: Build
    per_task: bool = False

    @property
    def priority(self) -> int:
        return KINDS[self.kind].priority

    def due_after(self, zone: str, after: datetime) -> datetime:
        """The first time after this when it is due in a zone. Raises ValueError when there is none."""
        return _instant(cron_after(self.cron, zone_of(zone), _ms(after)))

    def next_day_after(self, zone: str, due_at: datetime) -> datetime:
        """The same on a later local date: a slot has one time of its day, the first. Raises ValueError."""
        clock = zone_of(zone)
        tomorrow = start_of(due_at.astimezone(clock).date() + timedelta(days=1), clock)
        return self.due_after(zone, max(due_at, tomorrow - timedelta(milliseconds=1)))

    def occasion(self, zone: str, due_at: datetime) -> Occasion:
        """What `due_at` means for people in a zone."""
        expires_at = _instant(cron_after(self.until, zone_of(zone), _ms(due_at)))
        return self.occasion_by_hand(zone, due_at, expires_at)

    def occasion_by_hand(self, zone: str, due_at: datetime, expires_at: datetime) -> Occasion:
        """The same at any time, with an end of its own."""
        clock = zone_of(zone)
        local_date = due_at.astimezone(clock).date()
        window = self.window(Slot(self.kind, "", local_date, due_at, clock))
        return Occasion(zone, local_date, due_at, expires_at, window.begins_at, window.ends_at)

    async def facts(self, facts: Facts, windows: Sequence[Window]) -> list[Any]:
        """What the builder needs, for each window in its order; None where nothing is known."""
        answers: dict[int, Any] = {}
        for numbers in self._askable(windows):
            found = await self.ask(facts, [windows[number] for number in numbers])
            for number in numbers:
                window = windows[number]
                answers[number] = found.get(window, found.get(window.user_id))
        return [answers[number] for number in range(len(windows))]

    def _askable(self, windows: Sequence[Window]) -> Iterable[list[int]]:
        """The windows' numbers, in questions that ask for nobody twice: some answers are by person."""
        if self.per_task:
            return [list(range(len(windows)))]
        questions: list[list[int]] = []
        asked: dict[str, int] = defaultdict(int)
        for number, window in enumerate(windows):
            question = asked[window.user_id]
            asked[window.user_id] += 1
            if question == len(questions):
                questions.append([])
            questions[question].append(number)
        return questions


@cache
def zone_of(name: str) -> ZoneInfo:
    """A zone by the name under which the calendar knows it."""
    return ZoneInfo(name)


def zone_if_known(name: str) -> ZoneInfo | None:
    """The same, or None: the machine of another daemon, which has planned, may know more zones than this one."""
    try:
        return zone_of(name)
    except (ZoneInfoNotFoundError, ValueError):
        return None


def schedules_of(settings: Settings) -> tuple[Schedule, ...]:
    """The table, without the kinds that are switched off."""
    rows = (
        (
            settings.task_reminder,
            Schedule(
                kind="task-reminder",
                cron=read_cron(settings.task_reminder_cron),
                until=read_cron(until_cron(settings.task_reminder_until)),
                words=Words("Task reminder", "tasks due tomorrow", "reminders"),
                window=task_reminder.window,
                ask=lambda facts, windows: facts.tasks_due(windows),
                build=task_reminder.build,
                per_task=settings.task_reminder_per_task,
            ),
        ),
        (
            settings.overdue_summary,
            Schedule(
                kind="overdue-summary",
                cron=read_cron(settings.overdue_summary_cron),
                until=read_cron(until_cron(settings.overdue_summary_until)),
                words=Words("Overdue summary", "people with overdue tasks", "summaries"),
                window=overdue_summary.window,
                ask=lambda facts, windows: facts.overdue(windows),
                build=overdue_summary.build,
            ),
        ),
        (
            settings.focus_report,
            Schedule(
                kind="focus-report",
                cron=read_cron(settings.focus_report_cron),
                until=read_cron(until_cron(settings.focus_report_until)),
                words=Words("Weekly focus report", "focus sessions in the last 7 days", "reports"),
                window=focus_report.window,
                ask=lambda facts, windows: facts.focus_weeks(windows),
                build=focus_report.build,
            ),
        ),
    )
    return tuple(schedule for on, schedule in rows if on)


def _ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def _instant(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)
