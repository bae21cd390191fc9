"""Measures the lag of the event loop: how late it runs what is due. High values mean a lack of CPU."""

from __future__ import annotations

from typing import ClassVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import Service

log = structlog.get_logger()

CHECK_INTERVAL_S = 1.0
WARN_LAG_S = 1.0


class EventLoopLagMonitor(Service):
    """Sleeps for a known time and reports how late it woke up."""

    name: ClassVar[str] = "event_loop_monitor"

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
            return  # woken early by `stop()`: nothing was measured
        lag_s = max(self._clock.monotonic() - slept_at - self._every_s, 0.0)
        self._metrics.observe_event_loop_lag(lag_s)
        if lag_s >= WARN_LAG_S:
            log.warning(
                "event_loop_lagged", duration_s=round(lag_s, 3), remedy="give the process more CPU or lower its load"
            )
