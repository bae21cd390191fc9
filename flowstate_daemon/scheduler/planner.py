"""Watches the clocks of all zones where people live, and plans each kind's slots when it is due there.

Planning waits for the hour itself: a task that is made at 08:59 is in the reminder of 09:00. What a daemon that was
down has missed it plans when it is back; slots past their window are planned as well, so that the feeder can write down
that it was too late. Several daemons plan the same; the first one's rounds stand.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
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

REFRESH_INTERVAL_S = 600.0  # how long a zone in which nobody has lived before stays unnoticed; its windows are longer
CATCH_UP_WINDOW = timedelta(days=8)  # a week's report that was missed is still told of
MAX_WINDOW_AGE = timedelta(days=4)  # no window of today began before that
ALL_KINDS_LABEL = "every kind"
ZONES_PER_STEP = 25  # zones reckoned before the loop may look up


class Planner(Service):
    """One of these per daemon; they need not know of each other."""

    name: ClassVar[str] = "planner"

    def __init__(
        self, schedules: Sequence[Schedule], planning: Planning, heartbeat: Heartbeat, context: ServiceContext
    ) -> None:
        super().__init__(heartbeat)
        self._schedules = {schedule.kind: schedule for schedule in schedules}
        self._planning = planning
        self._clock = context.clock
        self._metrics = context.metrics
        self._rests = BlockedSchedules(context, "planner")
        self._next: dict[tuple[str, str], datetime] = {}
        self._computed_at: datetime | None = None
        self._refresh_at = -math.inf
        self.announce: Callable[[], None] = _no_one  # called when there are new slots

    async def run_once(self) -> None:
        await self.plan_due()
        await self.sleep(self._idle_s())

    def upcoming(self) -> tuple[str, datetime] | None:
        """The kind whose hour strikes next somewhere, and when; None while nothing is known to come."""
        due = [(kind, due_at) for (kind, _), due_at in self._next.items() if not self._rests.active(kind)]
        return min(due, key=lambda one: one[1], default=None)

    async def plan_due(self) -> None:
        """Plan all that is due by now. Raises Outage."""
        if self._clock.monotonic() >= self._refresh_at or self._put_back():
            await self._reckon()
        now = self._computed_at = self._clock.now()
        for kind, schedule in self._schedules.items():
            due = [zone for (of, zone), due_at in self._next.items() if of == kind and due_at <= now]
            if due and not self._rests.active(kind) and not self.stopping:
                await self._plan(schedule, sorted(due), now)

    def _put_back(self) -> bool:
        """Whether the clock on the wall shows an earlier time than before: what was reckoned is void."""
        return self._computed_at is not None and self._clock.now() < self._computed_at

    async def _reckon(self) -> None:
        """Find out where people live, and what is next in zones that are new."""
        now = self._clock.now()
        try:
            zones = await self.run_until_stopped(self._planning.zones()) or []
        except AppTablesUnavailableError as lack:
            self._rests.block(ALL_KINDS_LABEL, lack)
            self._next, self._refresh_at = {}, self._clock.monotonic() + RETRY_AFTER_S
            return
        self._rests.unblock(ALL_KINDS_LABEL)
        known = {} if self._put_back() else self._next
        places = [(kind, zone) for zone in zones for kind in self._schedules]
        runs = {} if known.keys() >= {*places} else await self._planning.last_runs(now)
        following: dict[tuple[str, str], datetime] = {}
        for number, place in enumerate(places):
            if number % ZONES_PER_STEP == 0:
                await asyncio.sleep(0)
            kind, zone = place
            following[place] = known.get(place) or self._first(self._schedules[kind], zone, runs.get(place), now)
        self._next, self._refresh_at = following, self._clock.monotonic() + REFRESH_INTERVAL_S

    @staticmethod
    def _first(schedule: Schedule, zone: str, last: datetime | None, now: datetime) -> datetime:
        """When a kind is next due in a zone: after its last round, or in a window that is still open."""
        if last is not None:
            return max(schedule.next_due_on_later_day(zone, last), schedule.next_due(zone, now - CATCH_UP_WINDOW))
        due_at = schedule.next_due(zone, now - MAX_WINDOW_AGE)
        while due_at <= now and schedule.occurrence(zone, due_at).expires_at <= now:
            due_at = schedule.next_due_on_later_day(zone, due_at)
        return due_at

    async def _plan(self, schedule: Schedule, zones: Sequence[str], now: datetime) -> None:
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
        log.info("schedule_started", kind=schedule.kind, said=f"Starting {schedule.text.title.lower()} job")
        self.heartbeat.idle()  # a million people take a while, and so does waiting for another planner
        try:
            work = self._planning.plan(schedule.kind, occurrences, per_task=schedule.per_task, now=now)
            planned = await self.run_until_stopped(work)
        except AppTablesUnavailableError as lack:
            self._rests.block(schedule.kind, lack)
            return
        if planned is None:
            return
        self._rests.unblock(schedule.kind)
        self.progress()
        self._next.update(following)
        self._say(schedule, occurrences, planned)

    def _say(self, schedule: Schedule, occurrences: Sequence[Occurrence], planned: PlanResult) -> None:
        zones = sorted({occurrence.zone for occurrence in occurrences})
        log.info(
            "schedule_planned",
            kind=schedule.kind,
            said=f"Found {planned.found} {schedule.text.found}",
            people=planned.recipients,
            slots=planned.scheduled,
            zones=len(zones),
            zone=zones[0],
        )
        if planned.scheduled:
            self._metrics.scheduled_mails_planned(schedule.kind, planned.scheduled)
            self.announce()

    def _idle_s(self) -> float:
        """Until the next hour strikes somewhere, but never so long that a clock that was set goes unnoticed."""
        now = self._clock.now()
        waits = [
            (due_at - now).total_seconds() for (kind, _), due_at in self._next.items() if not self._rests.active(kind)
        ]
        return max(0.0, min([HEARTBEAT_TIMEOUT_S, *waits]))


def _no_one() -> None:
    """Without a feeder beside it, a planner tells nobody."""
