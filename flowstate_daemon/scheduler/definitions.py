"""The table of schedules: for each kind when it is due, its deadline, its data and its builder. Pure.

The planner, the enqueuer and manual runs use it. A new schedule is a row here, a builder, and a query for its
recipients.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from flowstate_daemon.base.cron import next_occurrence, parse_cron
from flowstate_daemon.base.time_zones import get_zone
from flowstate_daemon.config.settings import ScheduleSettings
from flowstate_daemon.config.validators import deadline_to_cron
from flowstate_daemon.database.app_data import AppData, TimeWindow, start_of_day
from flowstate_daemon.database.planning import NO_HOUR, Cohort, Occurrence, PlanOptions
from flowstate_daemon.database.scheduled_mails import ScheduledMail
from flowstate_daemon.scheduler import focus_report, overdue_summary, task_reminder
from flowstate_daemon.scheduler.scheduled_mail import Builder

LONGEST_GRACE = timedelta(days=7)  # between a due time and its deadline, as far as runs by hand look back
A_SUNDAY = datetime(2026, 1, 4, 23, 59, 59, tzinfo=UTC)  # the week after it begins on a Monday
MINUTES_A_DAY = 24 * 60

Loader = Callable[[AppData, Sequence[TimeWindow]], Awaitable[Mapping[Any, Any]]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """One kind of scheduled email. `cron` and `deadline` are cron expressions in each user's local time.

    `title`, `found_label` and `mails_label` are used in log messages. `morning`: people may choose its hour; `hour` is
    the chosen one. `same_day`: what it says is true until the end of the local date only.
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
    morning: bool = False
    same_day: bool = False
    hour: int = NO_HOUR

    @property
    def usual_hour(self) -> int:
        """The hour at which the kind is due on each of its days; NO_HOUR when it is not a full hour."""
        second, minute, hour = self.cron.split()[:3]
        return int(hour) if self.morning and (second, minute) == ("0", "0") and hour.isdecimal() else NO_HOUR

    @property
    def plan_options(self) -> PlanOptions:
        return PlanOptions(self.per_task, self.usual_hour)

    @property
    def weekly_day(self) -> int:
        """The ISO weekday on which people get the kind who want it once a week: its first one after Sunday."""
        return self.next_due("UTC", A_SUNDAY).isoweekday()

    def cohort(self, cohort: Cohort) -> Cohort:
        """The cohort as far as it makes a difference for this kind."""
        return cohort if self.morning and cohort.hour != self.usual_hour else Cohort(cohort.zone)

    def for_hour(self, hour: int) -> Schedule:
        """The schedule for people who have chosen this hour. They get the same grace period, at any hour."""
        return self if hour in {NO_HOUR, self.usual_hour} or not self.morning else _at_hour(self, hour)

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
        """An occurrence at any time, with the given deadline, or an earlier one when what it says ends before."""
        time_zone = get_zone(zone)
        local_date = due_at.astimezone(time_zone).date()
        if self.same_day:
            expires_at = min(expires_at, start_of_day(local_date + timedelta(days=1), time_zone))
        window = self.window(ScheduledMail(self.kind, "", local_date, zone, due_at, expires_at))
        return Occurrence(zone, local_date, due_at, expires_at, window.begins_at, window.ends_at, self.hour)

    def last_open_occurrence(self, zone: str, now: datetime) -> Occurrence | None:
        """Today's occurrence if it is past and what it says is still true, for people it has passed over.

        A kind that is true all day may be sent until the end of the day, any other one until its deadline.
        """
        time_zone = get_zone(zone)
        today = start_of_day(now.astimezone(time_zone).date(), time_zone)
        due_at = self.next_due(zone, today - timedelta(milliseconds=1))
        if due_at > now:
            return None
        late = now + timedelta(days=1)
        occurrence = self.manual_occurrence(zone, due_at, late) if self.same_day else self.occurrence(zone, due_at)
        return occurrence if occurrence.expires_at > now else None

    def open_since(self, zone: str, at: datetime) -> datetime | None:
        """When the occurrence of an earlier local date was due whose deadline has not passed at `at`; None without one.

        The report of Sunday evening may be sent until Monday noon, and a run by hand until then is that report.
        """
        time_zone = get_zone(zone)
        today, found = at.astimezone(time_zone).date(), None
        due_at = self.next_due(zone, at - LONGEST_GRACE)
        while due_at <= at and due_at.astimezone(time_zone).date() < today:
            if self.occurrence(zone, due_at).expires_at > at:
                found = due_at
            due_at = self.next_due_on_later_day(zone, due_at)
        return found

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
        """Split the window numbers so that no query has two windows for one user: most results are keyed by user."""
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
                morning=True,
                same_day=True,
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
                morning=True,
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


@lru_cache(maxsize=64)
def _at_hour(schedule: Schedule, hour: int) -> Schedule:
    rest = schedule.cron.split()[3:]
    return replace(schedule, hour=hour, cron=" ".join(("0", "0", str(hour), *rest)), deadline=_deadline(schedule, hour))


def _deadline(schedule: Schedule, hour: int) -> str:
    """The deadline as long after a chosen hour as it is after the hour of the schedule; one on a weekday stays."""
    minute, hours, *rest = schedule.deadline.split()[1:]
    if rest[-1] != "*":
        return schedule.deadline
    due_at = schedule.next_due("UTC", A_SUNDAY)
    grace = int(hours) * 60 + int(minute) - (due_at.hour * 60 + due_at.minute)
    end = (hour * 60 + grace % MINUTES_A_DAY) % MINUTES_A_DAY
    return f"0 {end % 60} {end // 60} * * *"


def _ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def _instant(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)
