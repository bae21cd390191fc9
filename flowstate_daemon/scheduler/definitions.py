"""The table of schedules: for each kind when it is due, its deadline, its data and its builder. Pure.

The planner, the enqueuer and manual runs use it. A new schedule is a row here, a builder, and a query for its
recipients.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flowstate_daemon.base.cron import next_occurrence, parse_cron
from flowstate_daemon.config.settings import ScheduleSettings
from flowstate_daemon.config.validators import deadline_to_cron
from flowstate_daemon.database.app_data import AppData, TimeWindow, start_of_day
from flowstate_daemon.database.planning import Occurrence
from flowstate_daemon.database.scheduled_mails import ScheduledMail, get_zone
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.scheduler import focus_report, overdue_summary, task_reminder
from flowstate_daemon.scheduler.scheduled_mail import Builder

Loader = Callable[[AppData, Sequence[TimeWindow]], Awaitable[Mapping[Any, Any]]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """One kind of scheduled email. `cron` and `deadline` are cron expressions in each user's local time.

    `title`, `found_label` and `mails_label` are used in log messages.
    """

    kind: str
    cron: str
    deadline: str
    title: str
    found_label: str
    mails_label: str
    window: Callable[[ScheduledMail], TimeWindow]
    load: Loader
    build: Builder
    per_task: bool = False

    @property
    def priority(self) -> int:
        return KINDS[self.kind].priority

    def next_due(self, zone: str, after: datetime) -> datetime:
        """The first due time in a zone after `after`. Raises ValueError when there is none."""
        return _instant(next_occurrence(self.cron, get_zone(zone), _ms(after)))

    def next_due_on_later_day(self, zone: str, due_at: datetime) -> datetime:
        """The first due time on a later local date: a kind is due once a day. Raises ValueError."""
        time_zone = get_zone(zone)
        tomorrow = start_of_day(due_at.astimezone(time_zone).date() + timedelta(days=1), time_zone)
        return self.next_due(zone, max(due_at, tomorrow - timedelta(milliseconds=1)))

    def occurrence(self, zone: str, due_at: datetime) -> Occurrence:
        """The occurrence of a due time in a zone, with the deadline of the schedule."""
        expires_at = _instant(next_occurrence(self.deadline, get_zone(zone), _ms(due_at)))
        return self.manual_occurrence(zone, due_at, expires_at)

    def manual_occurrence(self, zone: str, due_at: datetime, expires_at: datetime) -> Occurrence:
        """An occurrence at any time, with the given deadline."""
        local_date = due_at.astimezone(get_zone(zone)).date()
        window = self.window(ScheduledMail(self.kind, "", local_date, zone, due_at, expires_at))
        return Occurrence(zone, local_date, due_at, expires_at, window.begins_at, window.ends_at)

    async def load_data(self, app_data: AppData, windows: Sequence[TimeWindow]) -> list[Any]:
        """The builder's data for each window, in the same order; None where there is none."""
        data: dict[int, Any] = {}
        for numbers in self._queries(windows):
            found = await self.load(app_data, [windows[number] for number in numbers])
            for number in numbers:
                window = windows[number]
                data[number] = found.get(window, found.get(window.user_id))
        return [data[number] for number in range(len(windows))]

    def _queries(self, windows: Sequence[TimeWindow]) -> Iterable[list[int]]:
        """Split the window numbers so that no query has two windows of one user: most results are keyed by user."""
        if self.per_task:
            return [list(range(len(windows)))]
        queries: list[list[int]] = []
        seen: dict[str, int] = defaultdict(int)
        for number, window in enumerate(windows):
            index = seen[window.user_id]
            seen[window.user_id] += 1
            if index == len(queries):
                queries.append([])
            queries[index].append(number)
        return queries


def build_schedules(settings: ScheduleSettings) -> tuple[Schedule, ...]:
    """The schedules that are enabled."""
    rows = (
        (
            settings.task_reminder,
            Schedule(
                kind="task-reminder",
                cron=parse_cron(settings.task_reminder_cron),
                deadline=parse_cron(deadline_to_cron(settings.task_reminder_deadline)),
                title="Task reminder",
                found_label="tasks due tomorrow",
                mails_label="reminders",
                window=task_reminder.window,
                load=AppData.tasks_due,
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
                title="Overdue summary",
                found_label="people with overdue tasks",
                mails_label="summaries",
                window=overdue_summary.window,
                load=AppData.tasks_overdue,
                build=overdue_summary.build,
            ),
        ),
        (
            settings.focus_report,
            Schedule(
                kind="focus-report",
                cron=parse_cron(settings.focus_report_cron),
                deadline=parse_cron(deadline_to_cron(settings.focus_report_deadline)),
                title="Weekly focus report",
                found_label="focus sessions in the last 7 days",
                mails_label="reports",
                window=focus_report.window,
                load=AppData.focus_weeks,
                build=focus_report.build,
            ),
        ),
    )
    return tuple(schedule for enabled, schedule in rows if enabled)


def _ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def _instant(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)
