"""The pool of sender coroutines: each takes a run, performs it, and hands its ending to the settler.

Here, and only here, an exception of a performer becomes an ordinary failed attempt. Knows nothing of Redis.
"""

from __future__ import annotations

import asyncio
import random
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

Handler: TypeAlias = Callable[[JobRun], Awaitable[Any]]
"""Does one job; returns its JSON-able result or raises by fate."""


class ProcessorPool:
    """`size` coroutines that perform runs until they are cancelled."""

    name: ClassVar[str] = "senders"

    def __init__(  # noqa: PLR0913 - the pool stands between all parts of a run
        self,
        perform: Handler,
        inflight: InFlightJobs,
        completer: JobCompleter,
        right_of_way: UrgentPriority,
        heartbeat: Heartbeat,
        rules: RetryPolicy,
        *,
        size: int,
        recorder: OutcomeRecorder | None = None,
    ) -> None:
        """`scribe` adds to each ending what the ledger wants of it."""
        self._perform = perform
        self._inflight = inflight
        self._completer = completer
        self._rules = rules
        self._recorder = recorder
        self._size = size
        self._right_of_way = right_of_way
        self._bulk_queue: asyncio.Queue[JobRun] = asyncio.Queue()
        self._ready_queue: asyncio.Queue[JobRun] = asyncio.Queue()
        self._rng = random.Random()  # noqa: S311 - jitter, not secrecy
        self.heartbeat = heartbeat
        self.heartbeat.idle()

    def submit(self, run: JobRun) -> None:
        """Give a claimed run to the next idle coroutine, a code at once; the caller has counted the free slots."""
        urgent = run.job.priority == URGENT_PRIORITY
        if urgent:
            self._right_of_way.started(run.job.id)
        (self._ready_queue if urgent else self._bulk_queue).put_nowait(run)
        if self.heartbeat.is_idle:
            self.heartbeat.beat()

    async def run(self) -> None:
        """Keep `size` senders at work; returns when cancelled."""
        async with asyncio.TaskGroup() as crew:
            crew.create_task(self._feed_bulk(), name="usher")
            for number in range(self._size):
                crew.create_task(self._work(), name=f"sender-{number}")

    async def _feed_bulk(self) -> None:
        """A claim of fifty begins in pieces: the first steps of all at once would hold up a code that comes then."""
        while True:
            self._ready_queue.put_nowait(await self._bulk_queue.get())
            if self._ready_queue.qsize() >= CHUNK_SIZE:
                await self._right_of_way.yield_to_urgent()

    async def _work(self) -> None:
        while True:
            run = await self._ready_queue.get()
            ending = await self._process(run)
            run.finished = True
            self._inflight.free_slot()
            if ending is None:
                self._inflight.remove(run.job)
            else:
                self._completer.submit(ending if self._recorder is None else self._recorder.attach(run, ending))
            self.heartbeat.beat()
            if not self._inflight.busy:
                self.heartbeat.idle()

    async def _process(self, run: JobRun) -> JobResult | None:
        """Perform one run; None when its result is nobody's business any more."""
        if run.called_off is None:
            run.task = task = asyncio.current_task()
            try:
                return result_for_return(run.job, await self._performed(run))
            except asyncio.CancelledError:
                if run.called_off is None or task is None:
                    raise
                task.uncancel()
            except LockLostError:
                return None
            except Exception as error:
                if isinstance(error, MailSkipped):
                    run.skip_reason = "expired" if isinstance(error, MailExpired) else "skipped"
                    run.log_fields[run.skip_reason] = error.reason
                elif not isinstance(error, FlowstateError):
                    log.exception("handler_error", job_id=run.job.id, kind=run.job.name)
                return result_for_error(run.job, error, self._rules, self._rng)
            finally:
                run.task = None
        return JobReleased(run.job) if run.called_off is AbortReason.RELEASED else None

    async def _performed(self, run: JobRun) -> Any:
        job = run.job
        if job.invalid_reason is not None:
            raise InvalidDataError(job.invalid_reason)
        if job.options.timeout_ms is None:
            return await self._perform(run)
        scope = asyncio.timeout(job.options.timeout_ms / 1000)
        try:
            async with scope:
                return await self._perform(run)
        except TimeoutError:
            if not scope.expired():
                raise
            # Bull's own words, which tools and people know.
            raise RetryableError(f"Promise timed out after {job.options.timeout_ms} milliseconds") from None
