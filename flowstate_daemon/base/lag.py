"""Measures how late the event loop runs what is due: the first thing to look at when everything is slow.

Run as one more loop of the house. It uses a local timer only, so its pulse says that the loop itself turns.
"""

from __future__ import annotations

from typing import ClassVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.vitals import Pulse

log = structlog.get_logger()

EVERY_S = 1.0
WORTH_A_WARNING_S = 1.0


class LagMeter(Service):
    """Sleeps for a known time and reports how much longer it took."""

    name: ClassVar[str] = "lag_meter"

    def __init__(self, metrics: Metrics, pulse: Pulse, clock: Clock, *, every_s: float = EVERY_S) -> None:
        super().__init__(pulse)
        self._metrics = metrics
        self._clock = clock
        self._every_s = every_s

    async def turn(self) -> None:
        slept_at = self._clock.mono()
        await self.pause(self._every_s)
        if self.stopping:
            return  # woken early: nothing was measured
        lag_s = max(self._clock.mono() - slept_at - self._every_s, 0.0)
        self._metrics.loop_lag(lag_s)
        if lag_s >= WORTH_A_WARNING_S:
            log.warning("loop_lagged", seconds=round(lag_s, 3), remedy="give the process more CPU or lower its load")
