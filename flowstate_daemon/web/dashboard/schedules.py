"""Schedules: the next seven days, what became of the last runs by kind and zone, dry runs, and manual runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from typing import Any

import structlog
from aiohttp import web

from flowstate_daemon.base.errors import InvalidDataError, StoreUnavailableError
from flowstate_daemon.base.time_zones import find_zone
from flowstate_daemon.database.mail_list import ScheduledCount
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.scheduler.manual_runs import DryRunItem, ManualRuns, RunRequest, UpcomingRun
from flowstate_daemon.web.dashboard.emails import actor, frame
from flowstate_daemon.web.dashboard.filters import parse_at
from flowstate_daemon.web.dashboard.guard import Form, Guard, read_shared, redirect
from flowstate_daemon.web.dashboard.rendering import NONE, ROOT, PageRenderer, Viewer

log = structlog.get_logger()

MAX_DRY_RUN = 100  # recipients that a page shows
DRY_RUN_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What became of one kind on one local date in one zone."""

    kind: str
    zone: str
    local_date: str
    due_at: datetime
    counts: tuple[ScheduledCount, ...]

    @property
    def total(self) -> int:
        return sum(count.count for count in self.counts)


@dataclass(frozen=True, slots=True)
class CalendarRow:
    """The local times at which one kind is due in one zone, for each day of the calendar: "" where it is not due."""

    kind: str
    zone: str
    times: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Calendar:
    """The next days; each zone has its own dates."""

    days: tuple[date, ...]
    rows: tuple[CalendarRow, ...]


class SchedulePages:
    """`/dashboard/schedules`."""

    def __init__(self, operator: Operator, guard: Guard, pages: PageRenderer) -> None:
        self._operator = operator
        self._guard = guard
        self._pages = pages
        self._run_lock = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        page, action = self._guard.page, self._guard.action
        return [
            web.get(f"{ROOT}/schedules", page(self.show)),
            web.get(f"{ROOT}/schedules/{{name:[^/]+}}/dry-run", page(self.dry_run)),
            web.get(f"{ROOT}/schedules/{{name:[^/]+}}/dry-run/html", page(self.frame)),
            web.post(f"{ROOT}/schedules/{{name:[^/]+}}/run", action(self.run)),
        ]

    async def show(self, _request: web.Request, viewer: Viewer) -> web.StreamResponse:
        shared = (self._operator.overview, self._operator.next_week, self._operator.runs)
        overview, week, outcomes = await asyncio.gather(*(read_shared(value) for value in shared))
        return self._pages.page(
            "schedules.html",
            viewer,
            active="schedules",
            overview=overview,
            week=week,
            calendar=None if week is None else build_calendar(week.value or ()),
            outcomes=outcomes,
            runs=[] if outcomes is None else group_runs(outcomes.value or ()),
        )

    async def dry_run(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Whom a run would write to, and why not to the others; or to one address only. Nothing is written."""
        items, is_whole = await self._dry_run(request)
        given = request.query.get("address", "")
        return self._pages.page(
            "dry_run.html",
            viewer,
            active="schedules",
            name=request.match_info["name"],
            at=request.query.get("at", ""),
            force=request.query.get("force") == "yes",
            given=given,
            items=sorted(items, key=lambda item: not item.would_send),
            is_whole=is_whole,
            sends=sum(item.would_send for item in items),
        )

    async def frame(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """The HTML of one email of a dry run."""
        wanted = (request.query.get("user", ""), request.query.get("task", ""))
        async with asyncio.timeout(DRY_RUN_TIMEOUT_S):
            async for item in self._manual_runs().dry_run(self._request(request)):
                if item.mail is not None and (item.user_id, item.task_id) == wanted:
                    return frame(viewer, item.mail.html)
        return frame(viewer, NONE)

    async def run(self, request: web.Request, viewer: Viewer, form: Form) -> web.StreamResponse:
        """Plan the emails of a schedule now; who has one already for the date gets none, unless forced."""
        name, force = request.match_info["name"], form.get("force") == "yes"
        at = parse_at(form.get("at", "")) or self._operator.clock.now()
        if self._run_lock.locked():
            raise InvalidDataError("another run is in progress: wait until it has ended")
        async with self._run_lock:
            result = await self._manual_runs().run(RunRequest(name, at, force))
        audit = self._operator.audit(actor(viewer))
        await audit.record("schedule run", f"{name}{', forced' if force else ''}", result.scheduled + result.reopened)
        log.info("schedule_run_manual", kind=name, scheduled=result.scheduled, reopened=result.reopened)
        return redirect(f"{ROOT}/schedules")

    async def _dry_run(self, request: web.Request) -> tuple[list[DryRunItem], bool]:
        """The first items, and whether these are all."""
        found: list[DryRunItem] = []
        to = request.query.get("address", "").strip()
        try:
            async with asyncio.timeout(DRY_RUN_TIMEOUT_S):
                async for item in self._manual_runs().dry_run(self._request(request), to):
                    if len(found) == MAX_DRY_RUN:
                        return found, False
                    found.append(item)
        except TimeoutError:
            raise StoreUnavailableError(f"the dry run has not ended within {DRY_RUN_TIMEOUT_S:g} s") from None
        return found, True

    def _request(self, request: web.Request) -> RunRequest:
        at = parse_at(request.query.get("at", "")) or self._operator.clock.now()
        return RunRequest(request.match_info["name"], at, request.query.get("force") == "yes")

    def _manual_runs(self) -> ManualRuns:
        if self._operator.schedules is None:
            raise InvalidDataError("this daemon has no schedules: set DATABASE_URL and schedule.enabled")
        return self._operator.schedules


def build_calendar(runs: Sequence[UpcomingRun]) -> Calendar:
    """The runs by kind and zone, a column for each local date. A chosen hour behind a zone is left out. Pure."""
    found: dict[tuple[str, str], dict[date, set[str]]] = {}
    for run in runs:
        for key in run.zones:
            zone = key.partition(" ")[0]
            at = run.at.astimezone(find_zone(zone) or UTC)
            found.setdefault((run.kind, zone), {}).setdefault(at.date(), set()).add(at.strftime("%H:%M"))
    days = tuple(sorted({day for times in found.values() for day in times}))
    rows = (
        CalendarRow(kind, zone, tuple(", ".join(sorted(times.get(day, ()))) for day in days))
        for (kind, zone), times in sorted(found.items())
    )
    return Calendar(days, tuple(rows))


def group_runs(counts: Sequence[ScheduledCount]) -> list[RunOutcome]:
    """The counts by kind, zone and local date, the newest run first. Pure."""

    def run(count: ScheduledCount) -> tuple[Any, ...]:
        return count.kind, count.zone, count.local_date

    runs = [
        RunOutcome(kind, zone, str(local_date), min(one.due_at for one in found), tuple(found))
        for (kind, zone, local_date), every in groupby(sorted(counts, key=run), key=run)
        if (found := list(every))
    ]
    return sorted(runs, key=lambda one: (one.due_at, one.kind), reverse=True)
