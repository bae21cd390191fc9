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
from flowstate_daemon.base.errors import PermanentError
from flowstate_daemon.database.app_data import MAX_USERS_PER_QUERY
from flowstate_daemon.database.planning import Occurrence, Planning, Recipient, RunSummary
from flowstate_daemon.mail.kinds import MailRequest
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail_producer import InvalidMailError, parse_order
from flowstate_daemon.scheduler.definitions import Schedule, get_zone
from flowstate_daemon.scheduler.eligibility import EligibilityChecker, EligibilityResult
from flowstate_daemon.scheduler.scheduled_mail import Slot

DRY_RUN_JOB_ID = "rehearsal"
MANUAL_LIFETIME = timedelta(hours=6)  # what is run by hand is meant for now
LOOK_BACK = timedelta(days=31)
LOOK_AHEAD = timedelta(days=400)


class InvalidRunRequestError(PermanentError):
    """The wish makes no sense; the reason says what would."""


@dataclass(frozen=True, slots=True)
class NextRun:
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
    next: tuple[NextRun, ...]
    last: LastRun | None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What is to be run: the local dates of `at` in every zone. `force` also sends once more what has been sent."""

    name: str
    at: datetime
    force: bool = False


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run has brought: things found, for how many people, new slots, and slots opened once more."""

    name: str
    at: datetime
    found: int
    recipients: int
    slots: int
    reopened: int


@dataclass(frozen=True, slots=True)
class DryRunItem:
    """What one person would get, or the `reason` why not. `mail` is as it would be sent, but for its links to leave."""

    user_id: str
    to: str = field(repr=False)
    local_date: date
    zone: str
    item: str
    reason: str = ""
    mail: Email | None = field(default=None, repr=False)

    @property
    def would_send(self) -> bool:
        return self.mail is not None

    def to_dict(self, *, bodies: bool) -> dict[str, Any]:
        """The same for programs."""
        found = {name: getattr(self, name) for name in ("user_id", "to", "local_date", "zone", "item")}
        if self.mail is None:
            return {**found, "sends": False, "reason": self.reason}
        parts = {"html": self.mail.html, "text": self.mail.text} if bodies else {}
        return {**found, "sends": True, "subject": self.mail.subject, **parts}


class ManualRuns:
    """All that operators do with schedules. Methods raise Outage; Unreadable names what a schedule lacks."""

    def __init__(
        self,
        schedules: Sequence[Schedule],
        planning: Planning,
        eligibility: EligibilityChecker,
        render: Callable[[MailRequest], Email],
        clock: Clock,
    ) -> None:
        self._schedules = {schedule.kind: schedule for schedule in schedules}
        self._planning = planning
        self._eligibility = eligibility
        self._render = render
        self._clock = clock

    @property
    def names(self) -> list[str]:
        return list(self._schedules)

    async def overview(self) -> list[Overview]:
        """All schedules that are switched on."""
        now = self._clock.now()
        zones = await self._planning.zones()
        runs = await self._planning.recent_runs(now - LOOK_BACK)
        return [
            Overview(
                name=kind,
                cron=schedule.cron.removeprefix("0 "),
                per_task=schedule.per_task,
                next=next_runs(schedule, zones, now),
                last=last_run(one for one in runs if one.kind == kind),
            )
            for kind, schedule in self._schedules.items()
        ]

    async def run(self, request: RunRequest) -> RunResult:
        """Plan the mails of a schedule now; the daemons' feeders send them. Raises NotRun."""
        schedule, now = self._schedule(request), self._clock.now()
        if not now - LOOK_BACK <= request.at <= now:
            raise InvalidRunRequestError(
                "at: only the last 31 days can be run; with a dry run you may look further, and ahead"
            )
        occurrences = await self._occurrences(schedule, request.at)
        renewed = 0
        if request.force:
            async for page in self._pages(schedule, occurrences):
                renewed += await self._planning.reopen(schedule.kind, page, now)
        planned = await self._planning.plan_manual(schedule.kind, occurrences, per_task=schedule.per_task, now=now)
        return RunResult(schedule.kind, request.at, planned.found, planned.recipients, planned.scheduled, renewed)

    async def dry_run(self, request: RunRequest) -> AsyncIterator[DryRunItem]:
        """Everybody for whom the schedule finds something, in order; some hundred at a time are held in memory."""
        schedule, now = self._schedule(request), self._clock.now()
        if not now - LOOK_AHEAD <= request.at <= now + LOOK_AHEAD:
            raise InvalidRunRequestError("at: must lie within 400 days of now")
        occurrences = await self._occurrences(schedule, request.at)
        async for page in self._pages(schedule, occurrences):
            standing = {} if request.force else await self._planning.existing_states(schedule.kind, page)
            for one in await self._eligibility.check(schedule, [_slot(schedule.kind, each) for each in page]):
                yield self._dry_run(one, standing.get((one.slot.user_id, one.slot.item)))
                await asyncio.sleep(0)  # rendering is work, and a daemon that rehearses sends codes meanwhile

    def _dry_run(self, assessed: EligibilityResult, standing: str | None) -> DryRunItem:
        slot = assessed.slot
        output = partial(DryRunItem, slot.user_id, assessed.to, slot.local_date, slot.zone.key, slot.item)
        if standing is not None or assessed.mail is None:
            return output(standing or (assessed.reason.reason if assessed.reason else None) or "")
        try:
            return output(mail=self._render(parse_order(assessed.order(DRY_RUN_JOB_ID))))
        except InvalidMailError as refused:
            return output(refused.reason)

    async def _occurrences(self, schedule: Schedule, at: datetime) -> list[Occurrence]:
        expires_at = self._clock.now() + MANUAL_LIFETIME
        return [schedule.manual_occurrence(zone, at, expires_at) for zone in await self._planning.zones()]

    async def _pages(self, schedule: Schedule, occurrences: Sequence[Occurrence]) -> AsyncIterator[list[Recipient]]:
        after: Recipient | None = None
        while page := await self._planning.recipients(
            schedule.kind, occurrences, per_task=schedule.per_task, after=after, count=MAX_USERS_PER_QUERY
        ):
            yield page
            after = page[-1]

    def _schedule(self, request: RunRequest) -> Schedule:
        schedule = self._schedules.get(request.name)
        if schedule is None:
            known = ", ".join(self._schedules) or "none"
            raise InvalidRunRequestError(
                f"there is no schedule of that name, or it is switched off; known are: {known}"
            )
        return schedule


def next_runs(schedule: Schedule, zones: Iterable[str], now: datetime) -> tuple[NextRun, ...]:
    """The next instants, the earliest first, with the zones in which it is each of them. Pure."""
    found: dict[datetime, list[str]] = {}
    for zone in zones:
        found.setdefault(schedule.next_due(zone, now), []).append(zone)
    return tuple(NextRun(at, tuple(sorted(found[at]))) for at in sorted(found))


def last_run(runs: Iterable[RunSummary]) -> LastRun | None:
    """The last round of each zone as one run, or None when there was none lately. Pure."""
    output = list(runs)
    if not output:
        return None
    states: Counter[str] = Counter()
    for one in output:
        states.update(one.states)
    instants = [one.due_at for one in output]
    return LastRun(min(instants), max(instants), len(output), sum(one.scheduled_mails for one in output), dict(states))


def _slot(kind: str, candidate: Recipient) -> Slot:
    occurrence = candidate.occurrence
    zone = get_zone(occurrence.zone)
    return Slot(kind, candidate.user_id, occurrence.local_date, occurrence.due_at, zone, candidate.task_id)
