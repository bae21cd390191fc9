"""Plans the scheduled emails of each kind when it becomes due in a time zone.

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
from flowstate_daemon.database.planning import Occurrence, Planning, PlanResult
from flowstate_daemon.scheduler.blocked import RETRY_AFTER_S, BlockedSchedules
from flowstate_daemon.scheduler.definitions import Schedule

log = structlog.get_logger()

REFRESH_INTERVAL_S = 600.0  # a zone that no user had before is found this late; its deadlines are longer
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
        self._next: dict[tuple[str, str], datetime] = {}
        self._computed_at: datetime | None = None
        self._refresh_at = -math.inf

    async def run_once(self) -> None:
        if not self._clock.reliable:
            await self.sleep(CLOCK_POLL_INTERVAL_S)
            return
        await self.plan_due()
        await self.sleep(self._idle_s())

    def upcoming(self) -> tuple[str, datetime] | None:
        """The kind that is due next in any zone, and when; None while no due time is known."""
        due = [(kind, due_at) for (kind, _), due_at in self._next.items() if not self._blocked.active(kind)]
        return min(due, key=lambda one: one[1], default=None)

    async def plan_due(self) -> int:
        """Plan everything that is due now; returns the number of new scheduled emails. Raises StoreUnavailableError.

        While clocks disagree nothing is due: a host that is days ahead would use up the emails of those days.
        """
        if not self._clock.reliable:
            return 0
        if self._clock.monotonic() >= self._refresh_at or self._clock_set_back():
            await self._refresh()
        now, scheduled = self._clock.now(), 0
        self._computed_at = now
        for kind, schedule in self._schedules.items():
            due = [zone for (of, zone), due_at in self._next.items() if of == kind and due_at <= now]
            if due and not self._blocked.active(kind) and not self.stopping:
                scheduled += await self._plan(schedule, sorted(due), now)
        return scheduled

    def _clock_set_back(self) -> bool:
        """Whether the wall clock shows an earlier time than before, so that the computed due times are invalid."""
        return self._computed_at is not None and self._clock.now() < self._computed_at

    async def _refresh(self) -> None:
        """Read the users' time zones, and compute the next due times in new ones."""
        now = self._clock.now()
        try:
            zones = await self.run_until_stopped(self._planning.zones()) or []
        except AppTablesUnavailableError as error:
            self._blocked.block(ALL_KINDS_LABEL, error)
            self._next, self._refresh_at = {}, self._clock.monotonic() + RETRY_AFTER_S
            return
        self._blocked.unblock(ALL_KINDS_LABEL)
        known = {} if self._clock_set_back() else self._next
        pairs = [(kind, zone) for zone in zones for kind in self._schedules]
        runs = {} if known.keys() >= {*pairs} else await self._planning.last_runs(now)
        following: dict[tuple[str, str], datetime] = {}
        for number, pair in enumerate(pairs):
            if number % ZONES_PER_STEP == 0:
                await asyncio.sleep(0)
            kind, zone = pair
            following[pair] = known.get(pair) or self._first_due(self._schedules[kind], zone, runs.get(pair), now)
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

    async def _plan(self, schedule: Schedule, zones: Sequence[str], now: datetime) -> int:
        occurrences: list[Occurrence] = []
        following: dict[tuple[str, str], datetime] = {}
        for number, zone in enumerate(zones):
            if number % ZONES_PER_STEP == 0:
                await asyncio.sleep(0)
            due_at = self._next[schedule.kind, zone]
            while due_at <= now:
                occurrences.append(schedule.occurrence(zone, due_at))
                due_at = schedule.next_due_on_later_day(zone, due_at)
            following[schedule.kind, zone] = due_at
        log.info("schedule_started", kind=schedule.kind, message=f"Starting {schedule.title.lower()} job")
        # Planning for a million users takes a while, and so does waiting for the transaction of another planner.
        self.heartbeat.idle()
        try:
            work = self._planning.plan(schedule.kind, occurrences, per_task=schedule.per_task, now=now)
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
            (due_at - now).total_seconds() for (kind, _), due_at in self._next.items() if not self._blocked.active(kind)
        ]
        return max(0.0, min([HEARTBEAT_TIMEOUT_S, *waits]))
