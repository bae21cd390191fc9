"""The engine's stand-in for a take-over: follows the queue beside the worker of old, and tells what it would have done.

It reads and listens only: claims nothing, sends nothing, writes nothing down. The house runs it in the engine's place.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence, Sized
from typing import ClassVar

import structlog

from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import HEARTBEAT_TIMEOUT_S, Service
from flowstate_daemon.shadow.dry_run import DryRun, Prediction, matches, observed_outcome
from flowstate_daemon.shadow.metrics import ShadowMetrics
from flowstate_daemon.shadow.observer import BATCH_SIZE, JobEvent, QueueObserver
from flowstate_daemon.worker.worker import raise_service_failure

log = structlog.get_logger()

MAX_BACKLOG_READ = (
    1_000  # jobs of a backlog that are read before their turn; the others are read when a worker takes them
)
MAX_PENDING = 10_000  # jobs whose end is awaited


class ShadowWorker(Service):
    """Judges each job that it sees, and compares at the job's end."""

    name: ClassVar[str] = "shadow"

    def __init__(self, observer: QueueObserver, dry_run: DryRun, metrics: ShadowMetrics, heartbeat: Heartbeat) -> None:
        super().__init__(heartbeat)
        self.dry_run = dry_run
        self._observer = observer
        self._metrics = metrics
        self._judged: OrderedDict[str, Prediction] = OrderedDict()

    @property
    def in_flight(self) -> Sized:
        """Jobs whose end is awaited."""
        return self._judged

    def set_shutdown_timeout(self, _drain_s: float) -> None:
        """Nothing is in hand: there is nothing to drain."""

    def force_stop(self) -> None:
        self.stop()

    async def listen(self) -> None:
        """Hear all that happens from here on. Raises Outage."""
        await self._observer.listen()

    async def run(self) -> None:
        """Follow the queue until `stop()`. Raises LoopBug."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(super().run(), name=self.name)
        except ExceptionGroup as bug:
            raise_service_failure(bug)
        finally:
            await self._observer.close()
        log.info("shadow_summary", awaited=len(self._judged), **self._metrics.totals)

    async def run_once(self) -> None:
        if not self._observer.listening:
            await self.listen()
        if self._observer.deaf:
            # Whatever stands there was announced before anybody listened.
            await self._judge(await self._observer.pending_ids(MAX_BACKLOG_READ))
            self._observer.deaf = False
        if signs := await self.run_until_stopped(self._observer.next_events(HEARTBEAT_TIMEOUT_S)):
            await self._follow(signs)

    async def _follow(self, signs: Sequence[JobEvent]) -> None:
        await self._judge(sign.job_id for sign in signs)
        for sign in signs:
            if sign.type in {"completed", "failed"}:
                self._compare(sign)

    async def _judge(self, job_ids: Iterable[str]) -> None:
        """Each job once, however often it is tried."""
        new = [job_id for job_id in dict.fromkeys(job_ids) if job_id not in self._judged]
        for first in range(0, len(new), BATCH_SIZE):
            jobs = await self._observer.read_jobs(new[first : first + BATCH_SIZE])
            results = await asyncio.gather(*(self.dry_run.predict(job) for job in jobs.values()))
            for job_id, result in zip(jobs, results, strict=True):
                self._note(job_id, result)
            self.progress()

    def _note(self, job_id: str, result: Prediction) -> None:
        self._judged[job_id] = result
        while len(self._judged) > MAX_PENDING:
            self._judged.popitem(last=False)
        self._metrics.predicted(result.kind, result.outcome)
        log.info(
            "shadow_predicted",
            job_id=job_id,
            kind=result.kind,
            predicted=result.outcome,
            reason=result.reason,
            recipient=result.to,
            html_bytes=result.size,
        )

    def _compare(self, sign: JobEvent) -> None:
        result, observed = self._judged.pop(sign.job_id, None), observed_outcome(sign)
        if result is None:
            self._metrics.compared("", "unseen")
            log.info(
                "shadow_missed",
                job_id=sign.job_id,
                observed=observed.outcome,
                reason="it was gone before it could be read",
            )
        elif matches(result, observed):
            self._metrics.compared(result.kind, "same")
        else:
            self._metrics.compared(result.kind, "different")
            log.warning(
                "shadow_mismatch",
                job_id=sign.job_id,
                kind=result.kind,
                predicted=result.outcome,
                reason=result.reason,
                observed=observed.outcome,
                observed_reason=observed.reason,
                remedy="docs/takeover.md tells what each difference means",
            )
