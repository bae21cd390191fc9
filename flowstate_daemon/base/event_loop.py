"""Who goes first on the event loop: while a code is on its way to the wire, bulk work waits at its next pause.

The bus's order decides who leaves first; but there are a dozen turns of the loop between a claim and its request, and
whatever else is ready runs in each of them. The fetcher announces, the carrier lets go; everything that works on many
mails gives way between pieces of about a millisecond.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import ClassVar, TypeVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import Service

log = structlog.get_logger()

CHECK_INTERVAL_S = 1.0
WARN_LAG_S = 1.0


class EventLoopLagMonitor(Service):
    """Sleeps for a known time and reports how much longer it took."""

    name: ClassVar[str] = "lag_meter"

    def __init__(
        self, metrics: Metrics, heartbeat: Heartbeat, clock: Clock, *, every_s: float = CHECK_INTERVAL_S
    ) -> None:
        super().__init__(heartbeat)
        self._metrics = metrics
        self._clock = clock
        self._every_s = every_s

    async def run_once(self) -> None:
        slept_at = self._clock.monotonic()
        await self.sleep(self._every_s)
        if self.stopping:
            return  # woken early: nothing was measured
        lag_s = max(self._clock.monotonic() - slept_at - self._every_s, 0.0)
        self._metrics.observe_event_loop_lag(lag_s)
        if lag_s >= WARN_LAG_S:
            log.warning(
                "event_loop_lagged", seconds=round(lag_s, 3), remedy="give the process more CPU or lower its load"
            )


T = TypeVar("T")

CHUNK_SIZE = 5  # mails that bulk work touches before it looks up
YIELD_S = 0.002
MAX_YIELDS = 15  # bulk waits 30 ms at most, however many codes come: it gets slow, it does not stand still
URGENT_TIMEOUT_S = 0.03  # from claim to wire; a code that takes longer, or ends otherwise, has lost its right
WRITE_GRACE_S = 0.003  # between handing a request to the HTTP client and its bytes leaving


class UrgentPriority:
    """The codes on their way, by job id; each holds its right for a bounded time, so nobody can forget to return it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def started(self, job_id: str) -> None:
        """A code is in our hands."""
        self._until[job_id] = self._clock.monotonic() + URGENT_TIMEOUT_S

    def finished(self, job_id: str) -> None:
        """Its request is being written to the wire; nothing to do for any other mail."""
        if job_id in self._until:
            self._until[job_id] = self._clock.monotonic() + WRITE_GRACE_S

    async def yield_to_urgent(self) -> None:
        """Let the loop look up; while codes are on their way, wait for them, but not for ever."""
        await asyncio.sleep(0)
        for _ in range(MAX_YIELDS):
            if not self._taken():
                return
            await asyncio.sleep(YIELD_S)

    async def chunked(self, mails: Iterable[T]) -> AsyncIterator[T]:
        """The mails, with a pause after every few."""
        for number, mail in enumerate(mails, start=1):
            yield mail
            if number % CHUNK_SIZE == 0:
                await self.yield_to_urgent()

    def _taken(self) -> bool:
        if self._until:
            now = self._clock.monotonic()
            self._until = {job_id: until for job_id, until in self._until.items() if until > now}
        return bool(self._until)
