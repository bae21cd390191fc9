"""The first page: is it healthy, what waits, what comes next, what to do. Kept live by server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.operations.statistics import MINUTE_MS, SPANS, Point
from flowstate_daemon.web.dashboard.charts import Line, line_chart
from flowstate_daemon.web.dashboard.guard import EXPIRED_EVENT, Guard, Part, read_part, read_shared
from flowstate_daemon.web.dashboard.rendering import (
    HEADERS,
    ROOT,
    PageRenderer,
    Viewer,
    localise_number,
    ms_to_datetime,
)
from flowstate_daemon.web.health import find_problems

LIVE_INTERVAL_S = 2.0
MAX_LIVE = 20
MAILS_PER_REQUEST = 100
MAX_RUNS = 4  # of the schedules, that come next
RECENT_MS = 15 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class Recent:
    """The last RECENT_MS of the statistics, or a little more."""

    sent_per_minute: float
    failed: int
    urgent_p50: float | None
    urgent_p99: float | None
    bulk_p50: float | None
    bulk_p99: float | None


@dataclass(frozen=True, slots=True)
class LiveValues:
    """What the live part shows, and the event that shows it by language."""

    values: dict[str, Any]
    events: dict[str, bytes] = field(default_factory=dict)


class NowPage:
    """`/dashboard/` and its live part."""

    def __init__(self, operator: Operator, guard: Guard, pages: PageRenderer) -> None:
        self._operator = operator
        self._guard = guard
        self._pages = pages
        self._live = 0
        self._shared: asyncio.Task[LiveValues] | None = None
        self._shared_until = float("-inf")

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(f"{ROOT}/", self._guard.page(self.show)),
            web.get(f"{ROOT}/now/events", self._guard.page(self.events)),
        ]

    async def show(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        span = request.query.get("span", "hour")
        charts = await read_part(self._charts(viewer, span if span in SPANS else "hour"))
        return self._pages.page(
            "now.html",
            viewer,
            active="now",
            charts=charts,
            span=span,
            spans=list(SPANS),
            warnings=list(self._operator.health.warnings.values()),
            **await self._values(),
        )

    async def events(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """The live part of the page, every LIVE_INTERVAL_S, until the browser leaves or the session ends."""
        if self._live >= MAX_LIVE:
            return web.Response(status=503, headers={"Retry-After": "10"})
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        self._live += 1
        try:
            await response.prepare(request)
            while not self._operator.health.draining:
                if self._guard.sessions.find(request) is None:
                    await response.write(EXPIRED_EVENT)
                    break
                await response.write(await self._event(viewer))
                await asyncio.sleep(LIVE_INTERVAL_S)
        except ConnectionResetError:
            return response  # the browser has left
        finally:
            self._live -= 1
        return response

    async def _event(self, viewer: Viewer) -> bytes:
        """The live part as an event. It is the same for all viewers of one language: read and rendered once for all."""
        now = self._operator.clock.monotonic()
        if self._shared is None or now >= self._shared_until:
            self._shared = asyncio.create_task(self._read_live(), name="live values")
            self._shared_until = now + LIVE_INTERVAL_S
        live = await asyncio.shield(self._shared)  # a viewer who leaves does not end the reading of the others
        if viewer.locale not in live.events:
            html = self._pages.html("now_live.html", Viewer(None, viewer.locale), **live.values)
            lines = b"".join(b"data: %b\n" % line for line in html.encode().split(b"\n"))
            live.events[viewer.locale] = b"retry: 1000\nevent: now\n" + lines + b"\n"
        return live.events[viewer.locale]

    async def _read_live(self) -> LiveValues:
        return LiveValues(await self._values())

    async def _values(self) -> dict[str, Any]:
        operator = self._operator
        snapshot, limit, recent, schedules = await asyncio.gather(
            read_part(operator.inspector.snapshot()),
            read_part(operator.rate_limiter.state()),
            read_part(self._recent()),
            self._next_runs(),
        )
        now_ms = operator.clock.now_ms()
        oldest_ms = snapshot.value.oldest_waiting_ms if snapshot.value else None
        allowance = limit.value.limit * 60 * MAILS_PER_REQUEST if limit.value and limit.value.limit else None
        problems = find_problems(operator.health)
        return {
            "problems": problems,
            "health": health_state(problems, snapshot, limit),
            "snapshot": snapshot,
            "limit": limit,
            "allowance": allowance,
            "recent": recent,
            "schedules": schedules,
            "oldest_s": None if oldest_ms is None else max(0, now_ms - oldest_ms) / 1000,
            "updated_at": ms_to_datetime(now_ms),
        }

    async def _next_runs(self) -> Part | None:
        """The next runs, the earliest first; None when this daemon has no schedules."""
        found = await read_shared(self._operator.next_week)
        return None if found is None else Part((found.value or ())[:MAX_RUNS], found.error)

    async def _recent(self) -> Recent:
        points = await self._operator.statistics.points(
            self._operator.clock.now_ms(), span_ms=2 * RECENT_MS, step_ms=RECENT_MS
        )
        last = points[-2:]  # the step that has begun is short: with the one before, at least RECENT_MS
        minutes = max(1.0, (self._operator.clock.now_ms() - last[0].at) / MINUTE_MS)
        newest = next((point for point in reversed(last) if point.sent or point.failed), last[-1])
        return Recent(
            sum(point.sent for point in last) / minutes,
            sum(point.failed for point in last),
            newest.urgent_p50,
            newest.urgent_p99,
            newest.bulk_p50,
            newest.bulk_p99,
        )

    async def _charts(self, viewer: Viewer, span: str) -> list[Any]:
        span_ms, step_ms = SPANS[span]
        points = await self._operator.statistics.points(self._operator.clock.now_ms(), span_ms=span_ms, step_ms=step_ms)
        labels = [self._pages.text(viewer.locale, f"chart.{name}") for name in (f"{span}_ago", "now")]
        minutes = step_ms / MINUTE_MS
        decimal = localise_number(".", viewer.locale)

        def text(name: str) -> str:
            return self._pages.text(viewer.locale, f"chart.{name}")

        return [
            line_chart(
                text("throughput"),
                labels,
                [Line(text("sent"), "sent", per(points, "sent", minutes))],
                decimal=decimal,
            ),
            line_chart(
                text("latency"),
                labels,
                [
                    Line(text("urgent_p50"), "urgent", values(points, "urgent_p50")),
                    Line(text("urgent_p99"), "urgent-high", values(points, "urgent_p99")),
                    Line(text("bulk_p50"), "bulk", values(points, "bulk_p50")),
                ],
                unit=" s",
                decimal=decimal,
            ),
            line_chart(
                text("failures"),
                labels,
                [
                    Line(text("failed"), "failed", per(points, "failed", minutes)),
                    Line(text("retried"), "retried", per(points, "retried", minutes)),
                ],
                decimal=decimal,
            ),
        ]


def per(points: Sequence[Point], name: str, minutes: float) -> list[float | None]:
    """The counts of each point, a minute."""
    return [getattr(point, name) / minutes for point in points]


def values(points: Sequence[Point], name: str) -> list[float | None]:
    return [getattr(point, name) for point in points]


def health_state(problems: Sequence[tuple[str, str]], snapshot: Part, limit: Part) -> str:
    """What the top of the page says: not_ready, unknown (Redis does not answer), blocked, paused or healthy. Pure."""
    if problems:
        return "not_ready"
    if snapshot.error:
        return "unknown"
    if limit.value is not None and limit.value.state != "accepting":
        return "blocked"
    return "paused" if snapshot.value.is_paused else "healthy"
