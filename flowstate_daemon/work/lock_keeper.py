"""Renews the locks of all jobs in flight, and calls off the runs whose lock another worker has taken."""

from __future__ import annotations

from typing import ClassVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.work.inflight import CalledOff, InFlight

log = structlog.get_logger()

LONGEST_SLEEP_S = 10.0


class LockKeeper(Service):
    """Renews at half of the locks' life; the last loop to stop."""

    name: ClassVar[str] = "lock_keeper"

    def __init__(
        self, bull: Bull, inflight: InFlight, metrics: Metrics, pulse: Pulse, clock: Clock, *, lock_ms: int
    ) -> None:
        super().__init__(pulse)
        self._bull = bull
        self._inflight = inflight
        self._metrics = metrics
        self._clock = clock
        self._every_s = lock_ms / 2000
        self._next = clock.mono() + self._every_s

    async def turn(self) -> None:
        await self.pause(min(LONGEST_SLEEP_S, self._next - self._clock.mono()))
        if self._clock.mono() < self._next or self.stopping:
            return
        held = self._inflight.ids()
        if held:
            await self._renew(held)
        self._next = self._clock.mono() + self._every_s

    async def _renew(self, held: list[str]) -> None:
        lost = await self._bull.extend_locks(held)
        if lost:
            log.warning("locks_lost", job_ids=sorted(lost))
            self._metrics.locks_lost(len(lost))
            self._inflight.call_off(lost, CalledOff.LOCK_LOST)
