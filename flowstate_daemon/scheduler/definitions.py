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

from flowstate_daemon.base.cron import next_occurrence, parse_cron
from flowstate_daemon.config.settings import ScheduleSettings as Settings
from flowstate_daemon.config.validators import deadline_to_cron
from flowstate_daemon.database.app_data import AppData, TimeWindow, start_of_day
from flowstate_daemon.database.planning import Occurrence
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.scheduler import focus_report, overdue_summary, task_reminder
from flowstate_daemon.scheduler.scheduled_mail import Builder, Slot

Loader = Callable[[AppData, Sequence[TimeWindow]], Awaitable[Mapping[Any, Any]]]


@dataclass(frozen=True, slots=True)
class LogLabels:
    """What operators know from the log: `title` of the job, `found` with a number before it, `mails` at its end."""

    title: str
    found: str
    noun: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """One kind of mail that the calendar sends. `cron` and `until` are read, on each person's own clock."""

    kind: str
    cron: str
    deadline: str
    text: LogLabels
    window: Callable[[Slot], TimeWindow]
    load: Loader
    build: Builder
    per_task: bool = False

    @property
    def priority(self) -> int:
        return KINDS[self.kind].priority

    def next_due(self, zone: str, after: datetime) -> datetime:
        """The first time after this when it is due in a zone. Raises ValueError when there is none."""
        return _instant(next_occurrence(self.cron, get_zone(zone), _ms(after)))

    def next_due_on_later_day(self, zone: str, due_at: datetime) -> datetime:
        """The same on a later local date: a slot has one time of its day, the first. Raises ValueError."""
        clock = get_zone(zone)
        tomorrow = start_of_day(due_at.astimezone(clock).date() + timedelta(days=1), clock)
        return self.next_due(zone, max(due_at, tomorrow - timedelta(milliseconds=1)))

    def occurrence(self, zone: str, due_at: datetime) -> Occurrence:
        """What `due_at` means for people in a zone."""
        expires_at = _instant(next_occurrence(self.deadline, get_zone(zone), _ms(due_at)))
        return self.manual_occurrence(zone, due_at, expires_at)

    def manual_occurrence(self, zone: str, due_at: datetime, expires_at: datetime) -> Occurrence:
        """The same at any time, with an end of its own."""
        clock = get_zone(zone)
        local_date = due_at.astimezone(clock).date()
        window = self.window(Slot(self.kind, "", local_date, due_at, clock))
        return Occurrence(zone, local_date, due_at, expires_at, window.begins_at, window.ends_at)

    async def load_data(self, facts: AppData, windows: Sequence[TimeWindow]) -> list[Any]:
        """What the builder needs, for each window in its order; None where nothing is known."""
        answers: dict[int, Any] = {}
        for numbers in self._askable(windows):
            found = await self.load(facts, [windows[number] for number in numbers])
            for number in numbers:
                window = windows[number]
                answers[number] = found.get(window, found.get(window.user_id))
        return [answers[number] for number in range(len(windows))]

    def _askable(self, windows: Sequence[TimeWindow]) -> Iterable[list[int]]:
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
def get_zone(name: str) -> ZoneInfo:
    """A zone by the name under which the calendar knows it."""
    return ZoneInfo(name)


def find_zone(name: str) -> ZoneInfo | None:
    """The same, or None: the machine of another daemon, which has planned, may know more zones than this one."""
    try:
        return get_zone(name)
    except (ZoneInfoNotFoundError, ValueError):
        return None


def build_schedules(settings: Settings) -> tuple[Schedule, ...]:
    """The table, without the kinds that are switched off."""
    rows = (
        (
            settings.task_reminder,
            Schedule(
                kind="task-reminder",
                cron=parse_cron(settings.task_reminder_cron),
                deadline=parse_cron(deadline_to_cron(settings.task_reminder_deadline)),
                text=LogLabels("Task reminder", "tasks due tomorrow", "reminders"),
                window=task_reminder.window,
                load=lambda facts, windows: facts.tasks_due(windows),
                build=task_reminder.build,
                per_task=settings.task_reminder_per_task,
            ),
        ),
        (
            settings.overdue_summary,
            Schedule(
                kind="overdue-summary",
                cron=parse_cron(settings.overdue_summary_cron),
                deadline=parse_cron(deadline_to_cron(settings.overdue_summary_deadline)),
                text=LogLabels("Overdue summary", "people with overdue tasks", "summaries"),
                window=overdue_summary.window,
                load=lambda facts, windows: facts.tasks_overdue(windows),
                build=overdue_summary.build,
            ),
        ),
        (
            settings.focus_report,
            Schedule(
                kind="focus-report",
                cron=parse_cron(settings.focus_report_cron),
                deadline=parse_cron(deadline_to_cron(settings.focus_report_deadline)),
                text=LogLabels("Weekly focus report", "focus sessions in the last 7 days", "reports"),
                window=focus_report.window,
                load=lambda facts, windows: facts.focus_weeks(windows),
                build=focus_report.build,
            ),
        ),
    )
    return tuple(schedule for on, schedule in rows if on)


def _ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def _instant(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)
