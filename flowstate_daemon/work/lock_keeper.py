"""Renews the locks of all jobs in flight, and calls off the runs whose lock another worker has taken."""

from __future__ import annotations

from typing import ClassVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import PeriodicService
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.work.inflight import CalledOff, InFlight

log = structlog.get_logger()


class LockKeeper(PeriodicService):
    """Renews at half of the locks' life; the last loop to stop."""

    name: ClassVar[str] = "lock_keeper"

    def __init__(
        self, bull: Bull, inflight: InFlight, metrics: Metrics, pulse: Pulse, clock: Clock, *, lock_ms: int
    ) -> None:
        super().__init__(pulse, clock, every_s=lock_ms / 2000)
        self._bull = bull
        self._inflight = inflight
        self._metrics = metrics

    async def act(self) -> None:
        held = self._inflight.ids()
        if not held:
            return
        # Who has ended meanwhile has given the lock back, or is told so when the ending is written.
        lost = self._inflight.running(await self._bull.extend_locks(held))
        if lost:
            log.warning("locks_lost", job_ids=sorted(lost))
            self._metrics.locks_lost(len(lost))
            self._inflight.call_off(lost, CalledOff.LOCK_LOST)
