"""Takes part in Bull's stalled check: jobs whose worker died go back to the wait list, or fail in the end."""

from __future__ import annotations

from typing import ClassVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.queue.bull import Bull

log = structlog.get_logger()

LONGEST_SLEEP_S = 10.0


class Reclaimer(Service):
    """Checks once an interval; all workers of a queue share one check by a key in Redis."""

    name: ClassVar[str] = "reclaimer"

    def __init__(
        self, bull: Bull, metrics: Metrics, pulse: Pulse, clock: Clock, *, interval_ms: int, max_stalled: int
    ) -> None:
        super().__init__(pulse)
        self._bull = bull
        self._metrics = metrics
        self._clock = clock
        self._interval_ms = interval_ms
        self._max_stalled = max_stalled
        self._next = clock.mono()

    async def turn(self) -> None:
        await self.pause(min(LONGEST_SLEEP_S, self._next - self._clock.mono()))
        if self._clock.mono() < self._next or self.stopping:
            return
        reclaimed = await self._bull.reclaim(max_stalled=self._max_stalled, interval_ms=self._interval_ms)
        self._next = self._clock.mono() + self._interval_ms / 1000
        if reclaimed.requeued or reclaimed.failed:
            log.warning("jobs_stalled", requeued=list(reclaimed.requeued), failed=list(reclaimed.failed))
            self._metrics.jobs_stalled(len(reclaimed.requeued) + len(reclaimed.failed))
