"""Takes part in Bull's stalled check: jobs whose worker died go back to the wait list, or fail in the end."""

from __future__ import annotations

from typing import ClassVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import PeriodicService
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.queue.bull import Bull

log = structlog.get_logger()


class Reclaimer(PeriodicService):
    """Checks once an interval, first at the start; all workers of a queue share one check by a key in Redis."""

    name: ClassVar[str] = "reclaimer"

    def __init__(
        self, bull: Bull, metrics: Metrics, pulse: Pulse, clock: Clock, *, interval_ms: int, max_stalled: int
    ) -> None:
        super().__init__(pulse, clock, every_s=interval_ms / 1000, first_s=0.0)
        self._bull = bull
        self._metrics = metrics
        self._interval_ms = interval_ms
        self._max_stalled = max_stalled

    async def act(self) -> None:
        reclaimed = await self._bull.reclaim(max_stalled=self._max_stalled, interval_ms=self._interval_ms)
        if reclaimed.requeued or reclaimed.failed:
            log.warning("jobs_stalled", requeued=list(reclaimed.requeued), failed=list(reclaimed.failed))
            self._metrics.jobs_stalled(len(reclaimed.requeued) + len(reclaimed.failed))
