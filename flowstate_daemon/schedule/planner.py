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

from flowstate_daemon.base.instruments import Instruments
from flowstate_daemon.base.service import LONGEST_SILENCE_S, Service
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.database.application import Unreadable
from flowstate_daemon.database.planning import Occasion, Planned, Planning
from flowstate_daemon.schedule.plan import Schedule
from flowstate_daemon.schedule.rest import REST_S, Rests

log = structlog.get_logger()

REFRESH_S = 600.0  # how long a zone in which nobody has lived before stays unnoticed; its windows are longer
LOOK_BACK = timedelta(days=8)  # a week's report that was missed is still told of
WINDOWS = timedelta(days=4)  # no window of today began before that
EVERY_KIND = "every kind"
AT_ONCE = 25  # zones reckoned before the loop may look up


class Planner(Service):
    """One of these per daemon; they need not know of each other."""

    name: ClassVar[str] = "planner"

    def __init__(
        self, schedules: Sequence[Schedule], planning: Planning, pulse: Pulse, instruments: Instruments
    ) -> None:
        super().__init__(pulse)
        self._schedules = {schedule.kind: schedule for schedule in schedules}
        self._planning = planning
        self._clock = instruments.clock
        self._metrics = instruments.metrics
        self._rests = Rests(instruments, "planner")
        self._next: dict[tuple[str, str], datetime] = {}
        self._reckoned_at: datetime | None = None
        self._refresh_at = -math.inf
        self.announce: Callable[[], None] = _nobody  # called when there are new slots

    async def turn(self) -> None:
        await self.plan_due()
        await self.pause(self._idle_s())

    def upcoming(self) -> tuple[str, datetime] | None:
        """The kind whose hour strikes next somewhere, and when; None while nothing is known to come."""
        due = [(kind, due_at) for (kind, _), due_at in self._next.items() if not self._rests.resting(kind)]
        return min(due, key=lambda one: one[1], default=None)

    async def plan_due(self) -> None:
        """Plan all that is due by now. Raises Outage."""
        if self._clock.mono() >= self._refresh_at or self._put_back():
            await self._reckon()
        now = self._reckoned_at = self._clock.now()
        for kind, schedule in self._schedules.items():
            due = [zone for (of, zone), due_at in self._next.items() if of == kind and due_at <= now]
            if due and not self._rests.resting(kind) and not self.stopping:
                await self._plan(schedule, sorted(due), now)

    def _put_back(self) -> bool:
        """Whether the clock on the wall shows an earlier time than before: what was reckoned is void."""
        return self._reckoned_at is not None and self._clock.now() < self._reckoned_at

    async def _reckon(self) -> None:
        """Find out where people live, and what is next in zones that are new."""
        now = self._clock.now()
        try:
            zones = await self.unless_stopped(self._planning.zones()) or []
        except Unreadable as lack:
            self._rests.rest(EVERY_KIND, lack)
            self._next, self._refresh_at = {}, self._clock.mono() + REST_S
            return
        self._rests.over(EVERY_KIND)
        known = {} if self._put_back() else self._next
        places = [(kind, zone) for zone in zones for kind in self._schedules]
        rounds = {} if known.keys() >= {*places} else await self._planning.last_rounds(now)
        following: dict[tuple[str, str], datetime] = {}
        for number, place in enumerate(places):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            kind, zone = place
            following[place] = known.get(place) or self._first(self._schedules[kind], zone, rounds.get(place), now)
        self._next, self._refresh_at = following, self._clock.mono() + REFRESH_S

    @staticmethod
    def _first(schedule: Schedule, zone: str, last: datetime | None, now: datetime) -> datetime:
        """When a kind is next due in a zone: after its last round, or in a window that is still open."""
        if last is not None:
            return max(schedule.next_day_after(zone, last), schedule.due_after(zone, now - LOOK_BACK))
        due_at = schedule.due_after(zone, now - WINDOWS)
        while due_at <= now and schedule.occasion(zone, due_at).expires_at <= now:
            due_at = schedule.next_day_after(zone, due_at)
        return due_at

    async def _plan(self, schedule: Schedule, zones: Sequence[str], now: datetime) -> None:
        occasions: list[Occasion] = []
        following: dict[tuple[str, str], datetime] = {}
        for number, zone in enumerate(zones):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            due_at = self._next[schedule.kind, zone]
            while due_at <= now:
                occasions.append(schedule.occasion(zone, due_at))
                due_at = schedule.next_day_after(zone, due_at)
            following[schedule.kind, zone] = due_at
        log.info("schedule_started", kind=schedule.kind, said=f"Starting {schedule.words.title.lower()} job")
        self.pulse.rest()  # a million people take a while, and so does waiting for another planner
        try:
            work = self._planning.plan(schedule.kind, occasions, per_task=schedule.per_task, now=now)
            planned = await self.unless_stopped(work)
        except Unreadable as lack:
            self._rests.rest(schedule.kind, lack)
            return
        if planned is None:
            return
        self._rests.over(schedule.kind)
        self.progressed()
        self._next.update(following)
        self._say(schedule, occasions, planned)

    def _say(self, schedule: Schedule, occasions: Sequence[Occasion], planned: Planned) -> None:
        zones = sorted({occasion.zone for occasion in occasions})
        log.info(
            "schedule_planned",
            kind=schedule.kind,
            said=f"Found {planned.found} {schedule.words.found}",
            people=planned.people,
            slots=planned.slots,
            zones=len(zones),
            zone=zones[0],
        )
        if planned.slots:
            self._metrics.notices_planned(schedule.kind, planned.slots)
            self.announce()

    def _idle_s(self) -> float:
        """Until the next hour strikes somewhere, but never so long that a clock that was set goes unnoticed."""
        now = self._clock.now()
        waits = [
            (due_at - now).total_seconds() for (kind, _), due_at in self._next.items() if not self._rests.resting(kind)
        ]
        return max(0.0, min([LONGEST_SILENCE_S, *waits]))


def _nobody() -> None:
    """Without a feeder beside it, a planner tells nobody."""
