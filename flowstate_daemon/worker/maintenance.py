"""Moves due jobs from `delayed` to the wait list: sleeps until the next one is due or a nearer one is announced."""

from __future__ import annotations

from typing import ClassVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import PeriodicService, Service
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import QueueEvents
from flowstate_daemon.queue.lease import RENEW_S, Lease
from flowstate_daemon.worker.in_flight import AbortReason, InFlightJobs

log = structlog.get_logger()


class LockRenewer(PeriodicService):
    """Renews at half of the locks' life; the last loop to stop."""

    name: ClassVar[str] = "lock_keeper"

    def __init__(
        self,
        bull: BullQueue,
        inflight: InFlightJobs,
        metrics: Metrics,
        heartbeat: Heartbeat,
        clock: Clock,
        *,
        lock_ms: int,
    ) -> None:
        super().__init__(heartbeat, clock, every_s=lock_ms / 2000)
        self._bull = bull
        self._inflight = inflight
        self._metrics = metrics

    async def run_once(self) -> None:
        held = self._inflight.ids()
        if not held:
            return
        # Who has ended meanwhile has given the lock back, or is told so when the ending is written.
        lost = self._inflight.running(await self._bull.extend_locks(held))
        if lost:
            log.warning("locks_lost", job_ids=sorted(lost))
            self._metrics.locks_lost(len(lost))
            self._inflight.abort(lost, AbortReason.LOCK_LOST)


class LeaseRenewer(PeriodicService):
    """Two calls a minute, the price of noticing a second daemon under one name."""

    name: ClassVar[str] = "lease_keeper"

    def __init__(self, lease: Lease, heartbeat: Heartbeat, clock: Clock) -> None:
        super().__init__(heartbeat, clock, every_s=RENEW_S)
        self._lease = lease

    async def run_once(self) -> None:
        await self._lease.renew()


# Announcements are fire and forget: look at the set at least this often.
MAX_SLEEP_S = 60.0
HEARTBEAT_TIMEOUT_S = 10.0


class Promoter(Service):
    """One timer for the whole delayed set."""

    name: ClassVar[str] = "promoter"

    def __init__(self, bull: BullQueue, signals: QueueEvents, heartbeat: Heartbeat, clock: Clock) -> None:
        super().__init__(heartbeat)
        self._bull = bull
        self._signals = signals
        self._clock = clock

    async def run_once(self) -> None:
        promoted = await self._bull.promote()
        self.progress()
        await self._sleep_until(promoted.next_due_ms)

    async def _sleep_until(self, due_ms: int | None) -> None:
        """Sleep until `due_ms`, or until something nearer is announced."""
        wake_ms = self._clock.now_ms() + int(MAX_SLEEP_S * 1000)
        if due_ms is not None:
            wake_ms = min(wake_ms, due_ms)
        while (left_ms := wake_ms - self._clock.now_ms()) > 0 and not self.stopping:
            signal = await self.run_until_stopped(self._signals.next(min(left_ms / 1000, HEARTBEAT_TIMEOUT_S)))
            self.progress()
            if signal is not None and signal.due_ms is not None:
                wake_ms = min(wake_ms, signal.due_ms)


class StalledJobChecker(PeriodicService):
    """Checks once an interval, first at the start; all workers of a queue share one check by a key in Redis."""

    name: ClassVar[str] = "reclaimer"

    def __init__(
        self,
        bull: BullQueue,
        metrics: Metrics,
        heartbeat: Heartbeat,
        clock: Clock,
        *,
        interval_ms: int,
        max_stalled: int,
    ) -> None:
        super().__init__(heartbeat, clock, every_s=interval_ms / 1000, first_s=0.0)
        self._bull = bull
        self._metrics = metrics
        self._interval_ms = interval_ms
        self._max_stalled = max_stalled

    async def run_once(self) -> None:
        reclaimed = await self._bull.check_stalled(max_stalled=self._max_stalled, interval_ms=self._interval_ms)
        if reclaimed.requeued or reclaimed.failed:
            log.warning("jobs_stalled", requeued=list(reclaimed.requeued), failed=list(reclaimed.failed))
            self._metrics.jobs_stalled(len(reclaimed.requeued) + len(reclaimed.failed))
