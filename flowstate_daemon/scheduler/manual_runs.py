"""What operators do with schedules: list next and last runs, run one now, or dry-run one.

The command line and the web API use it. A manual run plans like the planner, for the local dates of one instant in
every time zone, so that no user gets a second email for the same date; a dry run writes nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

from flowstate_daemon.base.address import normalise_address
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import PermanentError
from flowstate_daemon.database.app_data import MAX_USERS_PER_QUERY
from flowstate_daemon.database.planning import Cohort, ManualRun, Occurrence, Planning, RunSummary, Source
from flowstate_daemon.database.recipients import UNKNOWN_ACTOR
from flowstate_daemon.database.scheduled_mails import ScheduledMail
from flowstate_daemon.mail.kinds import MailRequest
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail_producer import InvalidMailError, parse_new_mail
from flowstate_daemon.scheduler.definitions import Schedule
from flowstate_daemon.scheduler.eligibility import EligibilityChecker, EligibilityResult

MANUAL_LIFETIME = timedelta(hours=6)  # a manual run is meant for now
LOOK_BACK = timedelta(days=31)
LOOK_AHEAD = timedelta(days=400)


class InvalidRunRequestError(PermanentError):
    """The request is invalid; the reason says what is expected."""


@dataclass(frozen=True, slots=True)
class NextRun:
    """When a schedule is next due, and in which time zones."""

    at: datetime
    zones: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UpcomingRun:
    """One run of a schedule, in the zones where it is due at that time."""

    kind: str
    at: datetime
    zones: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run: when, how many emails, and their states.

    By the clock, the last run of every time zone taken together; a manual run, by `actor`, is one for all time zones.
    """

    first_at: datetime
    last_at: datetime
    zones: int
    scheduled: int
    states: Mapping[str, int]
    source: Source = "clock"
    actor: str = ""


@dataclass(frozen=True, slots=True)
class Overview:
    """One schedule. `cron` is in each user's local time."""

    name: str
    cron: str
    per_task: bool
    next: tuple[NextRun, ...]
    last: LastRun | None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Run a schedule for the local dates of `at` in every time zone. `force` also sends again what has been sent."""

    name: str
    at: datetime
    force: bool = False


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of a run: tasks or sessions found, their recipients, new scheduled emails, and reopened ones."""

    name: str
    at: datetime
    found: int
    recipients: int
    scheduled: int
    reopened: int


@dataclass(frozen=True, slots=True)
class DryRunItem:
    """The email that one user would get, or the `reason` why not. `mail` has no unsubscribe links."""

    user_id: str
    to: str = field(repr=False)
    local_date: date
    zone: str
    task_id: str
    reason: str = ""
    mail: Email | None = field(default=None, repr=False)

    @property
    def would_send(self) -> bool:
        return self.mail is not None

    def to_dict(self, *, bodies: bool) -> dict[str, Any]:
        """The same as JSON values."""
        found = {name: getattr(self, name) for name in ("user_id", "to", "local_date", "zone", "task_id")}
        if self.mail is None:
            return {**found, "sends": False, "reason": self.reason}
        parts = {"html": self.mail.html, "text": self.mail.text} if bodies else {}
        return {**found, "sends": True, "subject": self.mail.subject, **parts}


class ManualRuns:
    """Lists and runs schedules.

    Methods raise StoreUnavailableError; AppTablesUnavailableError names what is missing.
    """

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

    async def refusals(self, address: str) -> dict[str, str]:
        """The schedules whose emails no user with this address gets now, whatever their content; with the reasons."""
        return await self._eligibility.refusals(address, self.names)

    async def overview(self) -> list[Overview]:
        """All enabled schedules."""
        now = self._clock.now()
        cohorts = await self._planning.cohorts()
        runs = await self._planning.recent_runs(now - LOOK_BACK)
        manual = await self._planning.manual_runs(now - LOOK_BACK)
        return [
            Overview(
                name=kind,
                cron=schedule.cron.removeprefix("0 "),
                per_task=schedule.per_task,
                next=next_runs(schedule, cohorts, now),
                last=last_run([one for one in runs if one.kind == kind], manual.get(kind), count_zones(cohorts)),
            )
            for kind, schedule in self._schedules.items()
        ]

    async def next_days(self, days: int) -> list[UpcomingRun]:
        """Every run of the next days, the earliest first."""
        now, cohorts = self._clock.now(), await self._planning.cohorts()
        until = now + timedelta(days=days)
        runs = [one for schedule in self._schedules.values() for one in upcoming_runs(schedule, cohorts, now, until)]
        return sorted(runs, key=lambda one: (one.at, one.kind))

    async def run(self, request: RunRequest, *, actor: str = UNKNOWN_ACTOR) -> RunResult:
        """Plan the emails of a schedule now; the enqueuers of the daemons send them. `actor` is recorded with the run.

        Raises InvalidRunRequestError.
        """
        schedule, now = self._schedule(request), self._clock.now()
        if self._clock.disagreement is not None:
            raise InvalidRunRequestError(f"nothing is planned while clocks disagree: {self._clock.disagreement}")
        if not now - LOOK_BACK <= request.at <= now:
            raise InvalidRunRequestError(
                "at: only the last 31 days can be run; a dry run accepts 400 days in both directions"
            )
        occurrences = await self._occurrences(schedule, request.at)
        reopened = 0
        if request.force:
            async for page in self._pages(schedule, occurrences):
                reopened += await self._planning.reopen(schedule.kind, page, now)
        planned = await self._planning.plan_manual(schedule.kind, occurrences, now=now, options=schedule.plan_options)
        count = planned.scheduled + reopened
        await self._planning.record_manual_run(schedule.kind, request.at, count, actor=actor, now=now)
        return RunResult(schedule.kind, request.at, planned.found, planned.recipients, planned.scheduled, reopened)

    async def dry_run(self, request: RunRequest, to: str = "") -> AsyncIterator[DryRunItem]:
        """All recipients that the schedule finds, in order; a few hundred at a time are held in memory.

        With `to`, only what this address would get.
        """
        schedule, now = self._schedule(request), self._clock.now()
        if not now - LOOK_AHEAD <= request.at <= now + LOOK_AHEAD:
            raise InvalidRunRequestError("at: must be within 400 days of now")
        occurrences = await self._occurrences(schedule, request.at)
        async for page in self._pages(schedule, occurrences):
            existing = {} if request.force else await self._planning.existing_states(schedule.kind, page)
            for checked in await self._eligibility.check(schedule, page):
                if to and normalise_address(checked.address) != normalise_address(to):
                    continue
                yield self._dry_run(checked, existing.get((checked.scheduled.user_id, checked.scheduled.task_id)))
                await asyncio.sleep(0)  # rendering takes CPU, and this process may be sending codes

    def _dry_run(self, checked: EligibilityResult, existing: str | None) -> DryRunItem:
        one = checked.scheduled
        item = partial(DryRunItem, one.user_id, checked.address, one.local_date, one.zone, one.task_id)
        if existing is not None or checked.mail is None:
            return item(existing or (checked.reason.reason if checked.reason else None) or "")
        try:
            return item(mail=self._render(parse_new_mail(checked.mail, kinds=self._eligibility.kinds)))
        except InvalidMailError as error:
            return item(error.reason)

    async def _occurrences(self, schedule: Schedule, at: datetime) -> list[Occurrence]:
        expires_at = self._clock.now() + MANUAL_LIFETIME
        cohorts = {schedule.cohort(cohort) for cohort in await self._planning.cohorts()}
        found = []
        for cohort in sorted(cohorts):
            own = schedule.for_hour(cohort.hour)
            due_at = own.open_since(cohort.zone, at) or at
            found.append(own.manual_occurrence(cohort.zone, due_at, expires_at))
        return found

    async def _pages(self, schedule: Schedule, occurrences: Sequence[Occurrence]) -> AsyncIterator[list[ScheduledMail]]:
        after: ScheduledMail | None = None
        while page := await self._planning.recipients(
            schedule.kind, occurrences, after=after, count=MAX_USERS_PER_QUERY, options=schedule.plan_options
        ):
            yield page
            after = page[-1]

    def _schedule(self, request: RunRequest) -> Schedule:
        schedule = self._schedules.get(request.name)
        if schedule is None:
            if not self._schedules:
                raise InvalidRunRequestError("no schedule is enabled")
            known = ", ".join(self._schedules)
            raise InvalidRunRequestError(f"no schedule has that name, or it is disabled; enabled schedules: {known}")
        return schedule


def next_runs(schedule: Schedule, cohorts: Iterable[Cohort], now: datetime) -> tuple[NextRun, ...]:
    """The next due times, the earliest first, each with its time zones; a chosen hour is behind the zone. Pure."""
    found: dict[datetime, set[str]] = {}
    for cohort in map(schedule.cohort, cohorts):
        found.setdefault(schedule.for_hour(cohort.hour).next_due(cohort.zone, now), set()).add(cohort.key)
    return tuple(NextRun(at, tuple(sorted(found[at]))) for at in sorted(found))


def upcoming_runs(schedule: Schedule, cohorts: Iterable[Cohort], now: datetime, until: datetime) -> list[UpcomingRun]:
    """The due times before `until`, the earliest first, each with its time zones as in `next_runs`. Pure."""
    found: dict[datetime, list[str]] = {}
    for cohort in {schedule.cohort(cohort) for cohort in cohorts}:
        at_hour = schedule.for_hour(cohort.hour)
        due_at = at_hour.next_due(cohort.zone, now)
        while due_at < until:
            found.setdefault(due_at, []).append(cohort.key)
            due_at = at_hour.next_due_on_later_day(cohort.zone, due_at)
    return [UpcomingRun(schedule.kind, at, tuple(sorted(found[at]))) for at in sorted(found)]


def count_zones(cohorts: Iterable[Cohort]) -> int:
    """How many time zones the cohorts are in. Pure."""
    return len({cohort.zone for cohort in cohorts})


def last_run(found: Sequence[RunSummary], manual: ManualRun | None, zones: int) -> LastRun | None:
    """The last manual run, or if it is later the last run of each time zone; None when there was none lately. Pure."""
    if manual is not None and all(one.planned_at <= manual.at for one in found):
        return LastRun(manual.at, manual.at, zones, manual.scheduled, manual.states, "manual", manual.actor)
    if not found:
        return None
    states: Counter[str] = Counter()
    for one in found:
        states.update(one.states)
    instants = [one.due_at for one in found]
    zones = len({one.zone.partition(" ")[0] for one in found})  # a chosen hour is behind the zone
    return LastRun(min(instants), max(instants), zones, sum(one.scheduled for one in found), dict(states))
