"""The loops of this room, put together: started in the order of need, drained in the order of a mail's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

import structlog

from flowstate_daemon.base.errors import LeaseHeldError, ServiceCrashedError
from flowstate_daemon.base.event_loop import UrgentPriority
from flowstate_daemon.base.service import Service, ServiceContext, run_until
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import QueueEvents
from flowstate_daemon.queue.lease import Lease
from flowstate_daemon.sending.dispatcher import Dispatcher
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.worker.completer import JobCompleter, JobLogger
from flowstate_daemon.worker.executor import Handler, ProcessorPool
from flowstate_daemon.worker.fetcher import Fetcher
from flowstate_daemon.worker.in_flight import AbortReason, InFlightJobs
from flowstate_daemon.worker.maintenance import LeaseRenewer, LockRenewer, Promoter, StalledJobChecker
from flowstate_daemon.worker.results import OutcomeRecorder, RetryPolicy

log = structlog.get_logger()

T = TypeVar("T")

# After the drain's deadline, how long the settler may still write what was handed back.
RELEASE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Numbers of the engine: slots, Bull's lock and stall settings, the drain's deadline."""

    concurrency: int = 300
    urgent_concurrency: int = 20
    lock_duration_ms: int = 30_000
    stalled_interval_ms: int = 30_000
    max_stalled_count: int = 1
    max_recoveries: int = 10
    jitter: float = 0.0
    shutdown_timeout_s: float = 25.0


@dataclass(frozen=True, slots=True)
class Records:
    """Who writes outcomes down: the scribe beside each ending, and the loops that carry them on."""

    recorder: OutcomeRecorder | None = None
    services: tuple[Service, ...] = ()
    scheduled_mail: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """What a run goes through: the performer, the lane, the bus if it posts to one, and who writes its outcome down.

    `sources` are loops that bring new jobs; they stop with those that claim.
    """

    perform: Handler
    gate: SendGate
    dispatcher: Dispatcher | None = None
    records: Records = field(default_factory=Records)
    sources: tuple[Service, ...] = ()


def raise_service_failure(group: ExceptionGroup) -> NoReturn:
    """One loop has ended the house: by losing the lease, which is told as such, or by a bug, told whole in the log."""
    error: BaseException | None = group.subgroup(LeaseHeldError)
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error
    log.critical(
        "service_crashed", exc_info=group, remedy="a supervisor should start the daemon again; please report this"
    )
    raise ServiceCrashedError("a loop of the daemon had a bug; the log's line loop_bug tells which") from group


class Worker:
    """Runs jobs of one queue with one performer until it is told to stop."""

    def __init__(
        self,
        bull: BullQueue,
        signals: QueueEvents,
        lease: Lease,
        way: Way,
        settings: WorkerOptions,
        context: ServiceContext,
    ) -> None:
        health, metrics, clock = context.health, context.metrics, context.clock
        self._settings = settings
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._dispatcher = dispatcher = way.dispatcher
        right_of_way = UrgentPriority(clock) if dispatcher is None else dispatcher.right_of_way
        self.inflight = InFlightJobs(settings.concurrency, settings.urgent_concurrency)
        reporter = JobLogger(context)
        self._records = way.records
        self._sources = way.sources
        self._completer = JobCompleter(
            bull, self.inflight, reporter, right_of_way, health.register("settler"), self._records.scheduled_mail
        )
        rules = RetryPolicy(jitter=settings.jitter)
        size = settings.concurrency + settings.urgent_concurrency
        self._pool = ProcessorPool(
            way.perform,
            self.inflight,
            self._completer,
            right_of_way,
            health.register("senders"),
            rules,
            size=size,
            recorder=self._records.recorder,
        )
        if dispatcher is not None:
            dispatcher.watch(self._pool.heartbeat)
        self._fetcher = Fetcher(
            bull,
            self.inflight,
            self._pool,
            way.gate,
            context,
            health.register("fetcher"),
            max_recoveries=settings.max_recoveries,
        )
        metrics.track_jobs_in_flight(lambda: self.inflight.busy)
        self._promoter = Promoter(bull, signals, health.register("promoter"), clock)
        self._stalled_checker = StalledJobChecker(
            bull,
            metrics,
            health.register("reclaimer"),
            clock,
            interval_ms=settings.stalled_interval_ms,
            max_stalled=settings.max_stalled_count,
        )
        self._lock_keeper = LockRenewer(
            bull, self.inflight, metrics, health.register("lock_keeper"), clock, lock_ms=settings.lock_duration_ms
        )
        self._lease_keeper = LeaseRenewer(lease, health.register("lease_keeper"), clock)

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def set_shutdown_timeout(self, seconds: float) -> None:
        """Change how long a drain that has not begun may last."""
        self._settings = replace(self._settings, shutdown_timeout_s=seconds)

    async def run_until_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await `work`, which must be safe to cancel; None when `stop()` came first."""
        return await run_until(self._stop, work)

    def stop(self) -> None:
        """Drain: take nothing new, let runs end until the deadline, hand back the rest."""
        self._stop.set()

    def force_stop(self) -> None:
        """Hand back now."""
        self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Run all loops until `stop()`. Raises LeaseTaken, or LoopBug when a loop has one."""
        try:
            await self._run()
        except ExceptionGroup as group:
            raise_service_failure(group)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            # What writes down and what holds on start before what claims.
            keepers: list[Service] = [self._completer, self._lock_keeper, self._lease_keeper]
            if self._dispatcher is not None:
                keepers.append(self._dispatcher)
            keepers.extend(self._records.services)
            for keeper in keepers:
                group.create_task(keeper.run(), name=keeper.name)
            senders = group.create_task(self._pool.run(), name=self._pool.name)
            movers = (*self._sources, self._promoter, self._stalled_checker, self._fetcher)
            moving = [group.create_task(mover.run(), name=mover.name) for mover in movers]
            try:
                await self._stop.wait()
                log.info("draining", in_flight=len(self.inflight), deadline_s=self._settings.shutdown_timeout_s)
                for mover in movers:
                    mover.stop()
                await asyncio.wait(moving)
                await self._drain()
                senders.cancel()
            finally:
                # Locks are renewed until the last job has ended. After a bug in one loop all are told as well: the
                # group cancels each once, and a library may swallow that (see `unless`).
                for service in (*movers, *keepers):
                    service.stop()

    async def _drain(self) -> None:
        hurry = asyncio.ensure_future(self._hurry.wait())
        ended = asyncio.ensure_future(self._none_left())
        await asyncio.wait(
            (hurry, ended), timeout=self._settings.shutdown_timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        hurry.cancel()
        if not ended.done():
            self.inflight.abort(self.inflight.ids(), AbortReason.RELEASED)
            await asyncio.wait((ended,), timeout=RELEASE_TIMEOUT_S)
        ended.cancel()
        if len(self.inflight):
            log.warning(
                "jobs_left_active", jobs=len(self.inflight), remedy="the next start of this instance takes them up"
            )

    async def _none_left(self) -> None:
        while len(self.inflight):
            await self.inflight.wait_for_change()
