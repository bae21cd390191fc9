"""The processor pool: a fixed number of coroutines that run the handler and submit each result to the completer.

This is the only place where an exception of a handler becomes a failed attempt. It does not use Redis.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeAlias

import structlog

from flowstate_daemon.base.errors import (
    FlowstateError,
    InvalidDataError,
    LockLostError,
    MailExpired,
    MailSkipped,
    RetryableError,
)
from flowstate_daemon.base.event_loop import CHUNK_SIZE, UrgentPriority
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.mail.kinds import URGENT_PRIORITY
from flowstate_daemon.worker.completer import JobCompleter
from flowstate_daemon.worker.in_flight import AbortReason, InFlightJobs, JobRun
from flowstate_daemon.worker.results import (
    JobReleased,
    JobResult,
    OutcomeRecorder,
    RetryPolicy,
    result_for_error,
    result_for_return,
)

log = structlog.get_logger()

MAX_CHUNK_BYTES = 16_384  # of data of bulk jobs that start at once: to parse this takes a quarter of a millisecond

Handler: TypeAlias = Callable[[JobRun], Awaitable[Any]]
"""Processes one job. Returns a JSON-able value, or raises the error that decides what becomes of the job."""


class ProcessorPool:
    """`size` coroutines that process runs until they are cancelled."""

    name: ClassVar[str] = "processors"

    def __init__(  # noqa: PLR0913 - the pool connects all parts of a run
        self,
        handler: Handler,
        in_flight: InFlightJobs,
        completer: JobCompleter,
        urgent_priority: UrgentPriority,
        heartbeat: Heartbeat,
        retry_policy: RetryPolicy,
        *,
        size: int,
        recorder: OutcomeRecorder | None = None,
    ) -> None:
        """`recorder` adds the outcome for the ledger to each result."""
        self._handler = handler
        self._in_flight = in_flight
        self._completer = completer
        self._retry_policy = retry_policy
        self._recorder = recorder
        self._size = size
        self._urgent_priority = urgent_priority
        # Runs, and coroutines that wait for one. Two `asyncio.Queue`s would cost a tenth of the time of a job.
        self._bulk: deque[JobRun] = deque()
        self._bulk_arrived = asyncio.Event()
        self._ready: deque[JobRun] = deque()
        self._idle: deque[asyncio.Future[JobRun]] = deque()
        self._rng = random.Random()  # noqa: S311 - for jitter, not for secrets
        self.heartbeat = heartbeat
        self.heartbeat.idle()

    def submit(self, run: JobRun) -> None:
        """Queue a claimed run for the next free coroutine; codes are ready at once. The caller counted free slots."""
        urgent = run.job.priority == URGENT_PRIORITY
        if urgent:
            self._urgent_priority.started(run.job.id)
            self._start(run)
        else:
            self._bulk.append(run)
            self._bulk_arrived.set()
        if self.heartbeat.is_idle:
            self.heartbeat.beat()

    async def run(self) -> None:
        """Run the coroutines; ends only when cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._feed_bulk(), name="bulk-feeder")
            for number in range(self._size):
                group.create_task(self._work(), name=f"processor-{number}")

    async def _feed_bulk(self) -> None:
        """Start bulk runs in chunks: the first steps of fifty runs at once would delay a code that arrives then."""
        while True:
            await self._bulk_arrived.wait()
            self._bulk_arrived.clear()
            runs = size = 0
            while self._bulk:
                run = self._bulk.popleft()
                self._start(run)
                runs, size = runs + 1, size + len(run.job.data)
                if runs >= CHUNK_SIZE or size >= MAX_CHUNK_BYTES:
                    await self._urgent_priority.yield_to_urgent()
                    runs = size = 0

    def _start(self, run: JobRun) -> None:
        while self._idle:
            waiting = self._idle.popleft()
            if not waiting.done():  # it was cancelled
                waiting.set_result(run)
                return
        self._ready.append(run)

    async def _next_run(self) -> JobRun:
        if self._ready:
            return self._ready.popleft()
        waiting: asyncio.Future[JobRun] = asyncio.get_running_loop().create_future()
        self._idle.append(waiting)
        return await waiting

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "it runs in a task of the pool"
        while True:
            run = await self._next_run()
            result = await self._process(run, task)
            run.finished = True
            self._in_flight.free_slot()
            if run.trace is not None:
                run.trace.settling()
            if result is None:
                self._in_flight.remove(run.job)
                if run.trace is not None:
                    run.trace.end("abandoned")
            else:
                self._completer.submit(result if self._recorder is None else self._recorder.attach(run, result))
            self.heartbeat.beat()
            if not self._in_flight.busy:
                self.heartbeat.idle()

    async def _process(self, run: JobRun, task: asyncio.Task[None]) -> JobResult | None:
        """Process one run in the task of its processor. None if its result must not be written."""
        if run.abort_reason is None:
            run.task, cancelled_before = task, task.cancelling()
            try:
                return result_for_return(run.job, await self._run_handler(run))
            except asyncio.CancelledError:
                # `run.abort` cancels this task once; any other cancellation is the end of the pool.
                if run.abort_reason is None or task.uncancel() > cancelled_before:
                    raise
            except LockLostError:
                return None
            except Exception as error:
                if run.trace is not None:
                    run.trace.failed(error)
                if isinstance(error, MailSkipped):
                    run.skip_reason = "expired" if isinstance(error, MailExpired) else "skipped"
                    run.log_fields[run.skip_reason] = error.reason
                if isinstance(error, FlowstateError):
                    error.drop_frames()
                else:
                    log.exception("handler_error", job_id=run.job.id, kind=run.job.name)
                return result_for_error(run.job, error, self._retry_policy, self._rng)
            finally:
                run.task = None
        return JobReleased(run.job) if run.abort_reason is AbortReason.RELEASED else None

    async def _run_handler(self, run: JobRun) -> Any:
        job = run.job
        if job.invalid_reason is not None:
            raise InvalidDataError(job.invalid_reason)
        if job.options.timeout_ms is None:
            return await self._handler(run)
        deadline = asyncio.timeout(job.options.timeout_ms / 1000)
        try:
            async with deadline:
                return await self._handler(run)
        except TimeoutError:
            if not deadline.expired():
                raise
            # The message of Bull, which tools and operators know.
            timed_out = RetryableError(f"Promise timed out after {job.options.timeout_ms} milliseconds")
            timed_out.outcome_unknown = run.maybe_sent()
            raise timed_out from None
