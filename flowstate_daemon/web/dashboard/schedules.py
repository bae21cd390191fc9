"""Schedules: the next seven days, what became of the last runs by kind and zone, dry runs, and manual runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import structlog
from aiohttp import web

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.database.mail_list import ScheduledCount
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.scheduler.manual_runs import DryRunItem, ManualRuns, RunRequest
from flowstate_daemon.web.dashboard.emails import FRAME_HEADERS, actor
from flowstate_daemon.web.dashboard.filters import parse_instant
from flowstate_daemon.web.dashboard.guard import Form, Guard, read_part, redirect
from flowstate_daemon.web.dashboard.rendering import ROOT, PageRenderer, Viewer

log = structlog.get_logger()

PAST = timedelta(hours=36)
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
            web.get(f"{ROOT}/schedules/{{name}}/dry-run", page(self.dry_run)),
            web.get(f"{ROOT}/schedules/{{name}}/dry-run/html", page(self.frame)),
            web.post(f"{ROOT}/schedules/{{name}}/run", action(self.run)),
        ]

    async def show(self, _request: web.Request, viewer: Viewer) -> web.StreamResponse:
        schedules, recipients, now = self._operator.schedules, self._operator.recipients, self._operator.clock.now()
        overview = None if schedules is None else await read_part(schedules.overview())
        week = None if schedules is None else await read_part(schedules.next_days(7))
        outcomes = None if recipients is None else await read_part(recipients.mails.scheduled(now - PAST, now))
        return self._pages.page(
            "schedules.html",
            viewer,
            active="schedules",
            overview=overview,
            week=week,
            outcomes=outcomes,
            runs=[] if outcomes is None else group_runs(outcomes.value or ()),
        )

    async def dry_run(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Whom a run would write to, and why not to the others. Nothing is written."""
        items, is_whole = await self._dry_run(request)
        return self._pages.page(
            "dry_run.html",
            viewer,
            active="schedules",
            name=request.match_info["name"],
            at=request.query.get("at", ""),
            force=request.query.get("force") == "yes",
            items=items,
            is_whole=is_whole,
            sends=sum(item.would_send for item in items),
        )

    async def frame(self, request: web.Request, _viewer: Viewer) -> web.StreamResponse:
        """The HTML of one email of a dry run."""
        items, _ = await self._dry_run(request)
        wanted = (request.query.get("user", ""), request.query.get("task", ""))
        html = next((one.mail.html for one in items if one.mail and (one.user_id, one.task_id) == wanted), "")
        return web.Response(text=html, headers=FRAME_HEADERS, content_type="text/html", charset="utf-8")

    async def run(self, request: web.Request, viewer: Viewer, form: Form) -> web.StreamResponse:
        """Plan the emails of a schedule now; who has one already for the date gets none, unless forced."""
        name, force = request.match_info["name"], form.get("force") == "yes"
        at = parse_instant(form.get("at", "")) or self._operator.clock.now()
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
        at = parse_instant(request.query.get("at", "")) or self._operator.clock.now()
        run_request = RunRequest(request.match_info["name"], at, request.query.get("force") == "yes")
        found: list[DryRunItem] = []
        async with asyncio.timeout(DRY_RUN_TIMEOUT_S):
            async for item in self._manual_runs().dry_run(run_request):
                if len(found) == MAX_DRY_RUN:
                    return found, False
                found.append(item)
        return found, True

    def _manual_runs(self) -> ManualRuns:
        if self._operator.schedules is None:
            raise InvalidDataError("this daemon has no schedules: set DATABASE_URL and schedule.enabled")
        return self._operator.schedules


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
