"""Writes the results of jobs to Redis: complete, retry, fail or release, up to 100 in one call.

A result that cannot be written because Redis is unreachable waits here, while the lock renewer keeps the job's lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice, takewhile
from typing import Any, ClassVar

import structlog

from flowstate_daemon.base.event_loop import UrgentPriority
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.logs import is_enabled
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Job, JobFailed, JobRetried, JobSucceeded, WriteResult
from flowstate_daemon.worker.in_flight import InFlightJobs, JobRun
from flowstate_daemon.worker.ledger_services import LedgerWriter
from flowstate_daemon.worker.results import JobReleased, JobResult

log = structlog.get_logger()

BATCH_SIZE = 100
CHUNK_SIZE = 25  # written results between two yields: to log and count them takes a quarter of a millisecond
IDLE_S = 10.0


class JobLogger:
    """Logs and counts the result of a job after it was written."""

    def __init__(self, context: ServiceContext) -> None:
        self._metrics = context.metrics
        self._clock = context.clock
        self._health = context.health
        self._log = log.bind()  # the module's logger is looked up at each call

    def log(self, result: JobResult, run: JobRun | None) -> None:
        """Log one written result."""
        job = result.job
        duration_s = self._clock.monotonic() - run.claimed_at if run else 0.0
        extra: dict[str, Any] = run.log_fields if run else {}
        match result:
            case JobSucceeded() if "expired" in extra:
                self._metrics.mail_expired(job.name)
                self._log.warning("mail_expired", **_fields(job, duration_s, extra))
            case JobSucceeded() if "skipped" in extra:
                self._metrics.mail_skipped(job.name)
                self._log.info("mail_skipped", **_fields(job, duration_s, extra))
            case JobSucceeded():
                created_ms = job.created_ms
                age_ms = self._clock.now_ms() - created_ms if created_ms else None
                self._metrics.mail_sent(job.name, duration_s)
                if age_ms is not None:
                    self._metrics.observe_mail_latency(job.name, age_ms / 1000)
                if is_enabled("info"):
                    self._log.info("mail_sent", age_ms=age_ms, **_fields(job, duration_s, extra))
            case JobRetried():
                self._metrics.mail_retried(job.name)
                self._health.record_error(f"{job.name}: {result.reason}")
                fields = _fields(job, duration_s, extra)
                self._log.warning("mail_retried", reason=result.reason, retry_in_ms=result.delay_ms, **fields)
            case JobFailed():
                self._metrics.mail_failed(job.name)
                self._health.record_error(f"{job.name}: {result.reason}")
                self._log.error("mail_failed", reason=result.reason, **_fields(job, duration_s, extra))
            case _:
                self._metrics.mail_released(job.name)
                self._log.info("mail_released", **_fields(job, duration_s, extra))


def _fields(job: Job, duration_s: float, extra: dict[str, Any]) -> dict[str, Any]:
    return {"job_id": job.id, "kind": job.name, "attempt": job.attempt, "duration_s": round(duration_s, 4), **extra}


class JobCompleter(Service):
    """The only service that settles jobs."""

    name: ClassVar[str] = "completer"

    def __init__(
        self,
        bull: BullQueue,
        in_flight: InFlightJobs,
        job_logger: JobLogger,
        urgent_priority: UrgentPriority,
        heartbeat: Heartbeat,
        ledger_writer: LedgerWriter | None = None,
    ) -> None:
        """`ledger_writer` is woken when outcomes were written to the journal."""
        super().__init__(heartbeat)
        self._ledger_writer = ledger_writer
        self._bull = bull
        self._in_flight = in_flight
        self._job_logger = job_logger
        self._urgent_priority = urgent_priority
        self._waiting: dict[type, deque[Any]] = {
            cls: deque() for cls in (JobSucceeded, JobRetried, JobFailed, JobReleased)
        }
        self._arrived = asyncio.Event()

    def submit(self, result: JobResult) -> None:
        """Queue a result to be written. The queue is bounded by the jobs in flight."""
        self._waiting[type(result)].append(result)
        self._arrived.set()

    def stop(self) -> None:
        super().stop()
        self._arrived.set()

    async def run_once(self) -> None:
        if not any(self._waiting.values()):
            await self._wait_for_results()
        for results in self._waiting.values():
            if results:
                await self._write_batch(results)

    async def _write_batch(self, results: deque[Any]) -> None:
        """Write up to one batch. A result stays queued until Redis responds, so it is written at least once.

        Redis may execute a call whose reply is lost; then the result is written again. It must not be if this process
        has claimed the job again meanwhile: the old result would settle the new run.
        """
        await self._urgent_priority.yield_to_urgent()
        first = results[0]  # jobs are released together that wait equally long
        same = takewhile(lambda one: not isinstance(one, JobReleased) or one.delay_ms == first.delay_ms, results)
        batch = list(islice(same, BATCH_SIZE))
        current = [result for result in batch if not self._in_flight.is_superseded(result.job)]
        written = await self._write(current) if current else []
        for _ in batch:
            results.popleft()
        pairs = zip(current, written, strict=True)
        async for result, write_result in self._urgent_priority.chunked(pairs, CHUNK_SIZE):
            self._finish(result, write_result)
        if self._ledger_writer is not None:
            self._ledger_writer.wake()

    async def _write(self, batch: list[Any]) -> list[WriteResult]:
        match batch[0]:
            case JobSucceeded():
                return await self._bull.complete(batch)
            case JobRetried():
                return await self._bull.retry(batch)
            case JobFailed():
                return await self._bull.fail(batch)
        return await self._bull.release([result.job for result in batch], delay_ms=batch[0].delay_ms)

    def _finish(self, result: JobResult, write_result: WriteResult) -> None:
        run = self._in_flight.remove(result.job)
        # The provider accepted the email, whatever became of the job: an operator removed it, or another worker has it.
        is_sent = isinstance(result, JobSucceeded) and run is not None and run.skip_reason is None
        if write_result is WriteResult.OK or is_sent:
            self._job_logger.log(result, run)
        if run is not None and run.trace is not None:
            run.trace.end(outcome_of(result, run) if write_result is WriteResult.OK or is_sent else "abandoned")
        if isinstance(result, JobSucceeded) and is_sent and result.journal and self._ledger_writer is not None:
            self._ledger_writer.remember(result.journal)
        if write_result is not WriteResult.OK:
            # JOB_NOT_FOUND after a repeated call means that Redis executed the first call and its reply was lost.
            log.warning(
                "result_not_written", job_id=result.job.id, kind=result.job.name, reason=write_result.name.lower()
            )

    async def _wait_for_results(self) -> None:
        self._arrived.clear()
        try:
            async with asyncio.timeout(IDLE_S):
                await self._arrived.wait()
        except TimeoutError:
            return


def outcome_of(result: JobResult, run: JobRun) -> str:
    """The outcome of a run, by the names of its metric. Pure."""
    match result:
        case JobSucceeded():
            return run.skip_reason or "sent"
        case JobRetried():
            return "retried"
        case JobFailed():
            return "failed"
    return "released"
