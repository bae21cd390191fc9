"""Schedules as an operator looks at them and runs them: what is next, what the last run has brought, run now, rehearse.

The command line and the web API call it. A run by hand plans slots like the clock does, for the local dates of one
instant in every zone, so that nobody who has had the day's mail gets it twice; a rehearsal writes nothing at all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import Final
from flowstate_daemon.database.facts import MOST_PEOPLE
from flowstate_daemon.database.planning import Candidate, Occasion, Planning, RoundTold
from flowstate_daemon.intake import Refused, requested
from flowstate_daemon.mail.catalogue import MailRequest
from flowstate_daemon.mail.message import Email
from flowstate_daemon.schedule.assessor import Assessed, Assessor
from flowstate_daemon.schedule.plan import Schedule, zone_of
from flowstate_daemon.schedule.slot import Slot

NO_JOB = "rehearsal"
LIFE = timedelta(hours=6)  # what is run by hand is meant for now
LOOK_BACK = timedelta(days=31)
LOOK_AHEAD = timedelta(days=400)


class NotRun(Final):
    """The wish makes no sense; the reason says what would."""


@dataclass(frozen=True, slots=True)
class Next:
    """When a schedule is next due, and in which zones at that instant."""

    at: datetime
    zones: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last round of every zone taken together: when, how many slots, and what became of them."""

    first_at: datetime
    last_at: datetime
    zones: int
    slots: int
    states: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Overview:
    """One schedule. `cron` is on each person's own clock."""

    name: str
    cron: str
    per_task: bool
    next: tuple[Next, ...]
    last: LastRun | None


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be run: the local dates of `at` in every zone. `force` also sends once more what has been sent."""

    name: str
    at: datetime
    force: bool = False


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run has brought: things found, for how many people, new slots, and slots opened once more."""

    name: str
    at: datetime
    found: int
    people: int
    slots: int
    renewed: int


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What one person would get, or the `reason` why not. `mail` is as it would be sent, but for its links to leave."""

    user_id: str
    to: str = field(repr=False)
    local_date: date
    zone: str
    item: str
    reason: str = ""
    mail: Email | None = field(default=None, repr=False)

    @property
    def sends(self) -> bool:
        return self.mail is not None

    def document(self, *, bodies: bool) -> dict[str, Any]:
        """The same for programs."""
        found = {name: getattr(self, name) for name in ("user_id", "to", "local_date", "zone", "item")}
        if self.mail is None:
            return {**found, "sends": False, "reason": self.reason}
        parts = {"html": self.mail.html, "text": self.mail.text} if bodies else {}
        return {**found, "sends": True, "subject": self.mail.subject, **parts}


class ByHand:
    """All that operators do with schedules. Methods raise Outage; Unreadable names what a schedule lacks."""

    def __init__(
        self,
        schedules: Sequence[Schedule],
        planning: Planning,
        assessor: Assessor,
        render: Callable[[MailRequest], Email],
        clock: Clock,
    ) -> None:
        self._schedules = {schedule.kind: schedule for schedule in schedules}
        self._planning = planning
        self._assessor = assessor
        self._render = render
        self._clock = clock

    @property
    def names(self) -> list[str]:
        return list(self._schedules)

    async def overview(self) -> list[Overview]:
        """All schedules that are switched on."""
        now = self._clock.now()
        zones = await self._planning.zones()
        rounds = await self._planning.tell(now - LOOK_BACK)
        return [
            Overview(
                name=kind,
                cron=schedule.cron.removeprefix("0 "),
                per_task=schedule.per_task,
                next=next_of(schedule, zones, now),
                last=last_of(one for one in rounds if one.kind == kind),
            )
            for kind, schedule in self._schedules.items()
        ]

    async def run(self, wish: Wish) -> Ran:
        """Plan the mails of a schedule now; the daemons' feeders send them. Raises NotRun."""
        schedule, now = self._schedule(wish), self._clock.now()
        if not now - LOOK_BACK <= wish.at <= now:
            raise NotRun("at: only the last 31 days can be run; with a dry run you may look further, and ahead")
        occasions = await self._occasions(schedule, wish.at)
        renewed = 0
        if wish.force:
            async for page in self._pages(schedule, occasions):
                renewed += await self._planning.renew(schedule.kind, page, now)
        planned = await self._planning.plan_by_hand(schedule.kind, occasions, per_task=schedule.per_task, now=now)
        return Ran(schedule.kind, wish.at, planned.found, planned.people, planned.slots, renewed)

    async def rehearse(self, wish: Wish) -> AsyncIterator[Rehearsed]:
        """Everybody for whom the schedule finds something, in order; some hundred at a time are held in memory."""
        schedule, now = self._schedule(wish), self._clock.now()
        if not now - LOOK_AHEAD <= wish.at <= now + LOOK_AHEAD:
            raise NotRun("at: must lie within 400 days of now")
        occasions = await self._occasions(schedule, wish.at)
        async for page in self._pages(schedule, occasions):
            standing = {} if wish.force else await self._planning.standing(schedule.kind, page)
            for one in await self._assessor.assess(schedule, [_slot(schedule.kind, each) for each in page]):
                yield self._rehearsed(one, standing.get((one.slot.user_id, one.slot.item)))
                await asyncio.sleep(0)  # rendering is work, and a daemon that rehearses sends codes meanwhile

    def _rehearsed(self, assessed: Assessed, standing: str | None) -> Rehearsed:
        slot = assessed.slot
        told = partial(Rehearsed, slot.user_id, assessed.to, slot.local_date, slot.zone.key, slot.item)
        if standing is not None or assessed.mail is None:
            return told(standing or (assessed.refusal.why if assessed.refusal else None) or "")
        try:
            return told(mail=self._render(requested(assessed.order(NO_JOB))))
        except Refused as refused:
            return told(refused.reason)

    async def _occasions(self, schedule: Schedule, at: datetime) -> list[Occasion]:
        expires_at = self._clock.now() + LIFE
        return [schedule.occasion_by_hand(zone, at, expires_at) for zone in await self._planning.zones()]

    async def _pages(self, schedule: Schedule, occasions: Sequence[Occasion]) -> AsyncIterator[list[Candidate]]:
        after: Candidate | None = None
        while page := await self._planning.candidates(
            schedule.kind, occasions, per_task=schedule.per_task, after=after, count=MOST_PEOPLE
        ):
            yield page
            after = page[-1]

    def _schedule(self, wish: Wish) -> Schedule:
        schedule = self._schedules.get(wish.name)
        if schedule is None:
            known = ", ".join(self._schedules) or "none"
            raise NotRun(f"there is no schedule of that name, or it is switched off; known are: {known}")
        return schedule


def next_of(schedule: Schedule, zones: Iterable[str], now: datetime) -> tuple[Next, ...]:
    """The next instants, the earliest first, with the zones in which it is each of them. Pure."""
    found: dict[datetime, list[str]] = {}
    for zone in zones:
        found.setdefault(schedule.due_after(zone, now), []).append(zone)
    return tuple(Next(at, tuple(sorted(found[at]))) for at in sorted(found))


def last_of(rounds: Iterable[RoundTold]) -> LastRun | None:
    """The last round of each zone as one run, or None when there was none lately. Pure."""
    told = list(rounds)
    if not told:
        return None
    states: Counter[str] = Counter()
    for one in told:
        states.update(one.states)
    instants = [one.due_at for one in told]
    return LastRun(min(instants), max(instants), len(told), sum(one.notices for one in told), dict(states))


def _slot(kind: str, candidate: Candidate) -> Slot:
    occasion = candidate.occasion
    zone = zone_of(occasion.zone)
    return Slot(kind, candidate.user_id, occasion.local_date, occasion.due_at, zone, candidate.item)
