"""Writes down how runs ended: finish, retry, fail or hand back, up to 100 in one call.

An ending that cannot be written because Redis is away waits here, while the lock keeper holds the job's lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, ClassVar

import structlog

from flowstate_daemon.base.event_loop import UrgentPriority
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import JobFailed, JobRetried, JobSucceeded, WriteResult
from flowstate_daemon.worker.in_flight import InFlightJobs, JobRun
from flowstate_daemon.worker.results import JobReleased, JobResult

log = structlog.get_logger()


class JobLogger:
    """Says what happened, after it has happened."""

    def __init__(self, context: ServiceContext) -> None:
        self._metrics = context.metrics
        self._clock = context.clock
        self._health = context.health

    def log(self, ending: JobResult, run: JobRun | None) -> None:
        """Report one settled ending."""
        job = ending.job
        seconds = self._clock.monotonic() - run.taken_at if run else 0.0
        facts: dict[str, Any] = run.log_fields if run else {}
        line = {"job_id": job.id, "kind": job.name, "attempt": job.attempt, "seconds": round(seconds, 4), **facts}
        match ending:
            case JobSucceeded() if "expired" in facts:
                self._metrics.mail_expired(job.name)
                log.warning("mail_expired", **line)
            case JobSucceeded() if "skipped" in facts:
                self._metrics.mail_skipped(job.name)
                log.info("mail_skipped", **line)
            case JobSucceeded():
                age_ms = self._clock.now_ms() - job.timestamp
                self._metrics.mail_sent(job.name, seconds)
                self._metrics.observe_mail_latency(job.name, age_ms / 1000)
                log.info("mail_sent", age_ms=age_ms, **line)
            case JobRetried():
                self._metrics.mail_retried(job.name)
                self._health.record_error(f"{job.name}: {ending.reason}")
                log.warning("mail_retried", reason=ending.reason, retry_in_ms=ending.delay_ms, **line)
            case JobFailed():
                self._metrics.mail_failed(job.name)
                self._health.record_error(f"{job.name}: {ending.reason}")
                log.error("mail_failed", reason=ending.reason, **line)
            case _:
                self._metrics.mail_released(job.name)
                log.info("mail_released", **line)


BATCH_SIZE = 100
IDLE_S = 10.0


class JobCompleter(Service):
    """The only loop that ends jobs."""

    name: ClassVar[str] = "settler"

    def __init__(
        self,
        bull: BullQueue,
        inflight: InFlightJobs,
        reporter: JobLogger,
        right_of_way: UrgentPriority,
        heartbeat: Heartbeat,
        scheduled_mail: Callable[[], None] | None = None,
    ) -> None:
        """`notice` is called when outcomes have been written to the journal."""
        super().__init__(heartbeat)
        self._scheduled_mail = scheduled_mail
        self._bull = bull
        self._inflight = inflight
        self._reporter = reporter
        self._right_of_way = right_of_way
        self._waiting: dict[type, deque[Any]] = {
            cls: deque() for cls in (JobSucceeded, JobRetried, JobFailed, JobReleased)
        }
        self._arrived = asyncio.Event()

    def submit(self, ending: JobResult) -> None:
        """Take charge of an ending; what waits here is bounded by the jobs in flight."""
        self._waiting[type(ending)].append(ending)
        self._arrived.set()

    def stop(self) -> None:
        super().stop()
        self._arrived.set()

    async def run_once(self) -> None:
        if not any(self._waiting.values()):
            await self._something_arrived()
        for endings in self._waiting.values():
            if endings:
                await self._settle(endings)

    async def _settle(self, endings: deque[Any]) -> None:
        """Write up to one batch; nothing leaves the line before Redis has answered for it.

        What was executed without being heard is written again, unless its job is back in our hands under the same lock.
        """
        await self._right_of_way.yield_to_urgent()
        batch = list(islice(endings, BATCH_SIZE))
        own = [ending for ending in batch if not self._inflight.is_superseded(ending.job)]
        written = await self._write(own) if own else []
        for _ in batch:
            endings.popleft()
        async for ending, settled in self._right_of_way.chunked(zip(own, written, strict=True)):
            self._close(ending, settled)
        if self._scheduled_mail is not None:
            self._scheduled_mail()

    async def _write(self, batch: list[Any]) -> list[WriteResult]:
        match batch[0]:
            case JobSucceeded():
                return await self._bull.complete(batch)
            case JobRetried():
                return await self._bull.retry(batch)
            case JobFailed():
                return await self._bull.fail(batch)
        return await self._bull.release([ending.job for ending in batch])

    def _close(self, ending: JobResult, settled: WriteResult) -> None:
        run = self._inflight.remove(ending.job)
        if settled is WriteResult.OK:
            self._reporter.log(ending, run)
        else:
            # GONE after a repeated call means that the first call was executed and its answer lost on the way.
            log.warning("result_not_written", job_id=ending.job.id, kind=ending.job.name, reason=settled.name.lower())

    async def _something_arrived(self) -> None:
        self._arrived.clear()
        try:
            async with asyncio.timeout(IDLE_S):
                await self._arrived.wait()
        except TimeoutError:
            return
