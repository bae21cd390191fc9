"""The worker: all services that process jobs, started in order of dependency and drained in the order of a job."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar

import structlog

from flowstate_daemon.base.errors import LeaseHeldError, ServiceCrashedError
from flowstate_daemon.base.event_loop import UrgentPriority
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import Service, ServiceContext, cancel, run_until
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import QueueEvents
from flowstate_daemon.queue.lease import Lease
from flowstate_daemon.sending.dispatcher import Dispatcher
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.worker.completer import JobCompleter, JobLogger
from flowstate_daemon.worker.executor import Handler, ProcessorPool
from flowstate_daemon.worker.fetcher import Fetcher
from flowstate_daemon.worker.in_flight import AbortReason, InFlightJobs
from flowstate_daemon.worker.ledger_services import LedgerWriter, Pruner
from flowstate_daemon.worker.maintenance import (
    FailedJobPruner,
    LeaseRenewer,
    LockRenewer,
    Promoter,
    StalledJobChecker,
)
from flowstate_daemon.worker.results import OutcomeRecorder, RetryPolicy

log = structlog.get_logger()

T = TypeVar("T")

SECOND_SIGNAL = "a second SIGTERM or Ctrl-C ends at once: it releases the jobs in flight"
# Of the shutdown timeout, what is kept for releasing jobs, writing outcomes and closing connections.
CLOSING_S = 3.0
# How long the completer may write the released jobs.
RELEASE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Concurrency, Bull's lock and stall settings, and the shutdown timeout."""

    concurrency: int = 300
    urgent_concurrency: int = 20
    lock_duration_ms: int = 30_000
    stalled_interval_ms: int = 30_000
    max_stalled_count: int = 10
    max_recoveries: int = 10
    failed_retention_days: int = 90
    failed_max_count: int = 100_000
    jitter: float = 0.0
    shutdown_timeout_s: float = 8.0


def drain_timeout_s(shutdown_timeout_s: float) -> float:
    """How long jobs in flight may take when the daemon stops; the rest of the time is for the end. Pure."""
    return max(shutdown_timeout_s - CLOSING_S, shutdown_timeout_s / 2)


def raise_service_failure(group: ExceptionGroup) -> NoReturn:
    """Raise what ended the services: the lost lease as it is, or a bug, which is logged with its traceback."""
    error: BaseException | None = group.subgroup(LeaseHeldError)
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error
    log.critical("service_crashed", exc_info=group, remedy="the supervisor restarts the daemon; please report this bug")
    raise ServiceCrashedError("a service of the daemon has a bug; the log event service_crashed shows it") from group


class Worker:
    """Processes the jobs of one queue with one handler until it is stopped."""

    def __init__(  # noqa: PLR0913 - the worker connects everything that a job passes
        self,
        bull: BullQueue,
        events: QueueEvents,
        lease: Lease,
        handler: Handler,
        gate: SendGate,
        options: WorkerOptions,
        context: ServiceContext,
        *,
        dispatcher: Dispatcher | None = None,
        processors: Heartbeat | None = None,
        recorder: OutcomeRecorder | None = None,
        ledger_writer: LedgerWriter | None = None,
        pruner: Pruner | None = None,
        producers: tuple[Service, ...] = (),
    ) -> None:
        """`dispatcher` is None if the handler does not send. `producers` add jobs and stop together with the fetcher.

        `processors` is the heartbeat of the processor pool, if the dispatcher shares it.
        """
        health, metrics, clock = context.health, context.metrics, context.clock
        self._options = options
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._endings: list[asyncio.Task[None]] = []  # kept, because the event loop holds tasks weakly
        self.in_flight = InFlightJobs(options.concurrency, options.urgent_concurrency)
        metrics.track_jobs_in_flight(lambda: self.in_flight.busy)
        urgent_priority = UrgentPriority(clock) if dispatcher is None else dispatcher.urgent_priority
        completer = JobCompleter(
            bull, self.in_flight, JobLogger(context), urgent_priority, health.register(JobCompleter.name), ledger_writer
        )
        self._pool = ProcessorPool(
            handler,
            self.in_flight,
            completer,
            urgent_priority,
            processors or health.register(ProcessorPool.name),
            RetryPolicy(jitter=options.jitter),
            size=options.concurrency + options.urgent_concurrency,
            recorder=recorder,
        )
        fetcher = Fetcher(
            bull,
            self.in_flight,
            self._pool,
            gate,
            context,
            health.register(Fetcher.name),
            max_recoveries=options.max_recoveries,
        )
        promoter = Promoter(bull, events, health.register(Promoter.name), clock)
        stalled_checker = StalledJobChecker(
            bull,
            metrics,
            health.register(StalledJobChecker.name),
            clock,
            interval_ms=options.stalled_interval_ms,
            max_stalled_count=options.max_stalled_count,
        )
        lock_renewer = LockRenewer(
            bull,
            self.in_flight,
            metrics,
            health.register(LockRenewer.name),
            clock,
            lock_duration_ms=options.lock_duration_ms,
        )
        failed_job_pruner = FailedJobPruner(
            bull,
            metrics,
            health.register(FailedJobPruner.name),
            clock,
            retention_days=options.failed_retention_days,
            max_count=options.failed_max_count,
        )
        lease_renewer = LeaseRenewer(lease, health.register(LeaseRenewer.name), clock)
        # What settles jobs and keeps their locks starts first and stops last; what brings new jobs stops first.
        optional = [service for service in (dispatcher, ledger_writer, pruner) if service is not None]
        self._settling: list[Service] = [completer, lock_renewer, lease_renewer, *optional]
        self._claiming: list[Service] = [
            *producers,
            promoter,
            stalled_checker,
            failed_job_pruner,
            fetcher,
        ]  # it is last

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def set_shutdown_timeout(self, seconds: float) -> None:
        """Change the shutdown timeout; has no effect on a drain that has begun."""
        self._options = replace(self._options, shutdown_timeout_s=seconds)

    async def run_until_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await `work`, which must be safe to cancel; None when `stop()` came first."""
        return await run_until(self._stop, work)

    def stop(self) -> None:
        """Drain: claim no more jobs, let runs finish until the shutdown timeout, release the rest."""
        self._stop.set()

    def force_stop(self) -> None:
        """Release all jobs in flight now."""
        self._force.set()
        self._stop.set()

    def give_up(self) -> None:
        """End all services now, whatever they wait for: a store does not answer.

        Each one is cancelled until it ends. The task group cancels only once, and a service that loses that goes on
        to wait for the next store.
        """
        self._endings = [asyncio.create_task(cancel(task), name="give_up") for task in self._tasks]

    async def run(self) -> None:
        """Run all services until `stop()`. Raises LeaseHeldError, or ServiceCrashedError if a service has a bug."""
        try:
            await self._run()
        except ExceptionGroup as group:
            raise_service_failure(group)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            settling = [group.create_task(service.run(), name=service.name) for service in self._settling]
            processors = group.create_task(self._pool.run(), name=self._pool.name)
            claiming = [group.create_task(service.run(), name=service.name) for service in self._claiming]
            self._tasks = [*settling, processors, *claiming]
            try:
                await self._stop.wait()
                deadline_s = drain_timeout_s(self._options.shutdown_timeout_s)
                log.info("draining", in_flight=len(self.in_flight), deadline_s=deadline_s, hint=SECOND_SIGNAL)
                for service in self._claiming:
                    service.stop()
                # The others may wait for Postgres, and hold up no email.
                await self._drain(claiming[-1], deadline_s)
                processors.cancel()
            finally:
                # Locks are renewed until the last job is settled. After a bug in one service all others are stopped
                # too: the group cancels each once, and a library may swallow that (see `run_until`).
                for service in (*self._claiming, *self._settling):
                    service.stop()

    async def _drain(self, fetching: asyncio.Task[None], timeout_s: float) -> None:
        forced = asyncio.ensure_future(self._force.wait())
        settled = asyncio.ensure_future(self._all_settled(fetching))
        await asyncio.wait((forced, settled), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if not settled.done():
            self.in_flight.abort(self.in_flight.ids(), AbortReason.RELEASED)
            await asyncio.wait((settled,), timeout=RELEASE_TIMEOUT_S)
        settled.cancel()
        if len(self.in_flight):
            log.warning(
                "jobs_left_active", jobs=len(self.in_flight), remedy="this instance recovers them when it starts again"
            )

    async def _all_settled(self, fetching: asyncio.Task[None]) -> None:
        await asyncio.wait((fetching,))
        while len(self.in_flight):
            await self.in_flight.wait_for_change()
