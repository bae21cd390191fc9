"""Maintenance services: renew locks and the instance lease, promote delayed jobs, check for stalled jobs, and delete
old failed ones.
"""

from __future__ import annotations

from typing import ClassVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import PeriodicService, Service
from flowstate_daemon.queue.bull_queue import PRUNE_BATCH, BullQueue
from flowstate_daemon.queue.events import QueueEvents
from flowstate_daemon.queue.lease import RENEW_S, Lease
from flowstate_daemon.worker.in_flight import AbortReason, InFlightJobs

log = structlog.get_logger()

# Events may be lost: check the delayed set at least this often.
MAX_SLEEP_S = 60.0
HEARTBEAT_TIMEOUT_S = 10.0
PRUNE_INTERVAL_S = 3600.0
PRUNE_DELAY_S = 600.0  # not at startup: an urgent restart should not wait, and a wrong setting can be corrected


class LockRenewer(PeriodicService):
    """Renews the locks of jobs in flight at half of their lifetime; the last service to stop."""

    name: ClassVar[str] = "lock_renewer"

    def __init__(
        self,
        bull: BullQueue,
        in_flight: InFlightJobs,
        metrics: Metrics,
        heartbeat: Heartbeat,
        clock: Clock,
        *,
        lock_duration_ms: int,
    ) -> None:
        super().__init__(heartbeat, clock, every_s=lock_duration_ms / 2000)
        self._bull = bull
        self._in_flight = in_flight
        self._metrics = metrics

    async def run_once(self) -> None:
        held = self._in_flight.ids()
        if not held:
            return
        # A job that has just finished has returned its lock, or learns that it is lost when its result is written.
        lost = self._in_flight.running(await self._bull.extend_locks(held))
        if lost:
            log.warning("locks_lost", job_ids=sorted(lost))
            self._metrics.locks_lost(len(lost))
            self._in_flight.abort(lost, AbortReason.LOCK_LOST)


class LeaseRenewer(PeriodicService):
    """Renews the instance lease. This detects a second daemon with the same instance id."""

    name: ClassVar[str] = "lease_renewer"

    def __init__(self, lease: Lease, heartbeat: Heartbeat, clock: Clock) -> None:
        super().__init__(heartbeat, clock, every_s=RENEW_S)
        self._lease = lease

    async def run_once(self) -> None:
        await self._lease.renew()


class Promoter(Service):
    """Moves due jobs from `delayed` to the wait list, with one timer for the whole set."""

    name: ClassVar[str] = "promoter"

    def __init__(self, bull: BullQueue, events: QueueEvents, heartbeat: Heartbeat, clock: Clock) -> None:
        super().__init__(heartbeat)
        self._bull = bull
        self._events = events
        self._clock = clock

    async def run_once(self) -> None:
        promoted = await self._bull.promote()
        self.progress()
        await self._sleep_until(promoted.next_due_ms)

    async def _sleep_until(self, due_ms: int | None) -> None:
        """Sleep until `due_ms`, or until an event announces an earlier job."""
        wake_ms = self._clock.now_ms() + int(MAX_SLEEP_S * 1000)
        if due_ms is not None:
            wake_ms = min(wake_ms, due_ms)
        while (left_ms := wake_ms - self._clock.now_ms()) > 0 and not self.stopping:
            event = await self.run_until_stopped(self._events.next(min(left_ms / 1000, HEARTBEAT_TIMEOUT_S)))
            self.progress()
            if event is not None and event.due_ms is not None:
                wake_ms = min(wake_ms, event.due_ms)


class StalledJobChecker(PeriodicService):
    """Checks for stalled jobs at startup and once per interval; a key in Redis shares one check between all workers."""

    name: ClassVar[str] = "stalled_checker"

    def __init__(
        self,
        bull: BullQueue,
        metrics: Metrics,
        heartbeat: Heartbeat,
        clock: Clock,
        *,
        interval_ms: int,
        max_stalled_count: int,
    ) -> None:
        super().__init__(heartbeat, clock, every_s=interval_ms / 1000, first_s=0.0)
        self._bull = bull
        self._metrics = metrics
        self._interval_ms = interval_ms
        self._max_stalled_count = max_stalled_count

    async def run_once(self) -> None:
        stalled = await self._bull.check_stalled(
            max_stalled_count=self._max_stalled_count, interval_ms=self._interval_ms
        )
        if stalled.requeued or stalled.failed:
            log.warning("jobs_stalled", requeued=list(stalled.requeued), failed=list(stalled.failed))
            self._metrics.jobs_stalled(len(stalled.requeued) + len(stalled.failed))


class FailedJobPruner(PeriodicService):
    """Deletes failed jobs that are older or more than the settings keep, in batches that block Redis only briefly."""

    name: ClassVar[str] = "failed_job_pruner"

    def __init__(
        self,
        bull: BullQueue,
        metrics: Metrics,
        heartbeat: Heartbeat,
        clock: Clock,
        *,
        retention_days: int,
        max_count: int,
    ) -> None:
        """0 means no limit."""
        super().__init__(heartbeat, clock, every_s=PRUNE_INTERVAL_S, first_s=PRUNE_DELAY_S)
        self._bull = bull
        self._metrics = metrics
        self._retention_days = retention_days
        self._max_count = max_count

    async def run_once(self) -> None:
        age_ms = self._retention_days * 86_400_000 or None
        deleted = 0
        while not self.stopping:
            batch = await self._bull.prune_failed(age_ms, self._max_count or None)
            deleted += batch
            self._metrics.failed_jobs_pruned(batch)
            self.progress()
            if batch < PRUNE_BATCH:
                break
        if deleted:
            policy = {"retention_days": self._retention_days, "max_count": self._max_count}
            log.info("failed_jobs_pruned", jobs=deleted, **policy)
