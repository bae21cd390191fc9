"""Plans the scheduled emails of each kind when it becomes due for a cohort: a time zone and a chosen hour.

Planning waits for the due time itself: a task created at 08:59 is in the reminder of 09:00. A daemon that was down
plans what it missed, past deadlines included, so that the enqueuer can record that it was too late. Several daemons
plan the same occurrences; the first one's run counts.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import ClassVar

import structlog

from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import HEARTBEAT_TIMEOUT_S, Service, ServiceContext
from flowstate_daemon.database.app_database import AppTablesUnavailableError
from flowstate_daemon.database.planning import Cohort, Occurrence, Planning, PlanResult
from flowstate_daemon.scheduler.blocked import RETRY_AFTER_S, BlockedSchedules
from flowstate_daemon.scheduler.definitions import Schedule

log = structlog.get_logger()

REFRESH_INTERVAL_S = 600.0  # a zone that the application gives its first user is found this late
MOVE_CHECK_INTERVAL_S = 5.0  # a choice made here is found this late
MOVE_LOOK_BACK = timedelta(hours=24)
CATCH_UP_WINDOW = timedelta(days=8)  # a missed weekly report is still recorded
MAX_WINDOW_AGE = timedelta(days=4)  # no window that is still open began before that
CLOCK_POLL_INTERVAL_S = 1.0
ALL_KINDS_LABEL = "every kind"
ZONES_PER_STEP = 25  # zones computed before the event loop runs other tasks


class Planner(Service):
    """One per daemon; any number of daemons may plan at the same time. `planned` is set when there are new rows."""

    name: ClassVar[str] = "planner"

    def __init__(
        self,
        schedules: Sequence[Schedule],
        planning: Planning,
        planned: asyncio.Event,
        heartbeat: Heartbeat,
        context: ServiceContext,
    ) -> None:
        super().__init__(heartbeat)
        self._schedules = {schedule.kind: schedule for schedule in schedules}
        self._planning = planning
        self._planned = planned
        self._clock = context.clock
        self._metrics = context.metrics
        self._blocked = BlockedSchedules(context, self.name)
        self._next: dict[tuple[str, Cohort], datetime] = {}
        self._computed_at: datetime | None = None
        self._refresh_at = self._check_moves_at = -math.inf
        self._last_move: datetime | None = None

    async def run_once(self) -> None:
        if not self._clock.reliable:
            await self.sleep(CLOCK_POLL_INTERVAL_S)
            return
        await self.plan_due()
        await self.sleep(self._idle_s())

    def upcoming(self) -> tuple[str, datetime] | None:
        """The kind that is due next in any zone, and when; None while no due time is known."""
        due = [(kind, due_at) for (kind, _), due_at in self._next.items() if not self._blocked.contains(kind)]
        return min(due, key=lambda one: one[1], default=None)

    async def plan_due(self) -> int:
        """Plan everything that is due now; returns the number of new scheduled emails. Raises StoreUnavailableError.

        While clocks disagree nothing is due: a host that is days ahead would use up the emails of those days.
        """
        if not self._clock.reliable:
            return 0
        moved = await self._has_moves()
        if moved or self._clock.monotonic() >= self._refresh_at or self._clock_set_back():
            await self._refresh()
        now, scheduled = self._clock.now(), 0
        self._computed_at = now
        for kind, schedule in self._schedules.items():
            due = [cohort for (of, cohort), due_at in self._next.items() if of == kind and due_at <= now]
            if due and not self._blocked.contains(kind) and not self.stopping:
                scheduled += await self._plan(schedule, sorted(due), now)
            if moved and not self._blocked.contains(kind) and not self.stopping:
                scheduled += await self._plan_moved(schedule, now)
        return scheduled

    async def _has_moves(self) -> bool:
        """Whether somebody has changed time zone or hour since the last check, also through another daemon."""
        if self._clock.monotonic() < self._check_moves_at:
            return False
        self._check_moves_at = self._clock.monotonic() + MOVE_CHECK_INTERVAL_S
        last_move = await self.run_until_stopped(self._planning.last_move())
        moved = last_move is not None and last_move != self._last_move
        self._last_move = last_move
        return moved and last_move is not None and last_move > self._clock.now() - MOVE_LOOK_BACK

    def _clock_set_back(self) -> bool:
        """Whether the wall clock shows an earlier time than before, so that the computed due times are invalid."""
        return self._computed_at is not None and self._clock.now() < self._computed_at

    async def _refresh(self) -> None:
        """Read the users' cohorts, and compute the next due times of new ones."""
        now = self._clock.now()
        try:
            cohorts = await self.run_until_stopped(self._planning.cohorts()) or []
        except AppTablesUnavailableError as error:
            self._blocked.block(ALL_KINDS_LABEL, error)
            self._next, self._refresh_at = {}, self._clock.monotonic() + RETRY_AFTER_S
            return
        self._blocked.unblock(ALL_KINDS_LABEL)
        known = {} if self._clock_set_back() else self._next
        pairs = list(
            dict.fromkeys((kind, schedule.cohort(one)) for one in cohorts for kind, schedule in self._schedules.items())
        )
        runs = {} if known.keys() >= {*pairs} else await self._planning.last_runs(now)
        following: dict[tuple[str, Cohort], datetime] = {}
        for number, pair in enumerate(pairs):
            if number % ZONES_PER_STEP == 0:
                await asyncio.sleep(0)
            kind, cohort = pair
            schedule, last = self._schedules[kind].for_hour(cohort.hour), runs.get((kind, cohort.key))
            following[pair] = known.get(pair) or self._first_due(schedule, cohort.zone, last, now)
        self._next, self._refresh_at = following, self._clock.monotonic() + REFRESH_INTERVAL_S

    @staticmethod
    def _first_due(schedule: Schedule, zone: str, last: datetime | None, now: datetime) -> datetime:
        """When a kind is next due in a zone: after its last run, or earlier today if its deadline has not passed."""
        if last is not None:
            return max(schedule.next_due_on_later_day(zone, last), schedule.next_due(zone, now - CATCH_UP_WINDOW))
        due_at = schedule.next_due(zone, now - MAX_WINDOW_AGE)
        while due_at <= now and schedule.occurrence(zone, due_at).expires_at <= now:
            due_at = schedule.next_due_on_later_day(zone, due_at)
        return due_at

    async def _plan(self, schedule: Schedule, cohorts: Sequence[Cohort], now: datetime) -> int:
        occurrences: list[Occurrence] = []
        following: dict[tuple[str, Cohort], datetime] = {}
        for number, cohort in enumerate(cohorts):
            if number % ZONES_PER_STEP == 0:
                await asyncio.sleep(0)
            due_at, own = self._next[schedule.kind, cohort], schedule.for_hour(cohort.hour)
            while due_at <= now:
                occurrences.append(own.occurrence(cohort.zone, due_at))
                due_at = own.next_due_on_later_day(cohort.zone, due_at)
            following[schedule.kind, cohort] = due_at
        log.info("schedule_started", kind=schedule.kind, message=f"Starting {schedule.title.lower()} job")
        # Planning for a million users takes a while, and so does waiting for the transaction of another planner.
        self.heartbeat.idle()
        try:
            work = self._planning.plan(schedule.kind, occurrences, now=now, options=schedule.plan_options)
            planned = await self.run_until_stopped(work)
        except AppTablesUnavailableError as error:
            self._blocked.block(schedule.kind, error)
            return 0
        if planned is None:
            return 0
        self._blocked.unblock(schedule.kind)
        self.progress()
        self._next.update(following)
        if planned.scheduled:
            self._planned.set()  # at once: a failure of the next kind must not delay these
        self._log_planned(schedule, occurrences, planned)
        return planned.scheduled

    async def _plan_moved(self, schedule: Schedule, now: datetime) -> int:
        """Plan today's emails for people who have moved to a cohort that got them earlier today."""
        occurrences = []
        for kind, cohort in self._next:
            own = schedule.for_hour(cohort.hour)
            if kind == schedule.kind and (past := own.last_open_occurrence(cohort.zone, now)) is not None:
                occurrences.append(past)
        if not occurrences:
            return 0
        try:
            work = self._planning.plan_moved(schedule.kind, occurrences, now=now, options=schedule.plan_options)
            planned = await self.run_until_stopped(work)
        except AppTablesUnavailableError as error:
            self._blocked.block(schedule.kind, error)
            return 0
        self.progress()
        if planned is None or not planned.scheduled:
            return 0
        self._planned.set()
        self._log_planned(schedule, occurrences, planned)
        return planned.scheduled

    def _log_planned(self, schedule: Schedule, occurrences: Sequence[Occurrence], planned: PlanResult) -> None:
        zones = sorted({occurrence.zone for occurrence in occurrences})
        log.info(
            "schedule_planned",
            kind=schedule.kind,
            message=f"Found {planned.found} {schedule.found_label}",
            recipients=planned.recipients,
            scheduled=planned.scheduled,
            zones=len(zones),
            zone=zones[0],
        )
        if planned.scheduled:
            self._metrics.scheduled_mails_planned(schedule.kind, planned.scheduled)

    def _idle_s(self) -> float:
        """Seconds until the next due time, limited so that a change of the wall clock is noticed soon."""
        now = self._clock.now()
        waits = [
            (due_at - now).total_seconds()
            for (kind, _), due_at in self._next.items()
            if not self._blocked.contains(kind)
        ]
        return max(0.0, min([HEARTBEAT_TIMEOUT_S, *waits]))
