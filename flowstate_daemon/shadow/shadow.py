"""The shadow worker: follows the queue beside the legacy worker and logs what this daemon would have done.

It only reads and subscribes: it claims, sends and writes nothing. It replaces the worker in shadow mode.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence, Sized
from typing import ClassVar

import structlog

from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import HEARTBEAT_TIMEOUT_S, Service, cancel
from flowstate_daemon.shadow.dry_run import DryRun, Prediction, matches, observed_outcome
from flowstate_daemon.shadow.metrics import ShadowMetrics
from flowstate_daemon.shadow.observer import BATCH_SIZE, JobEvent, QueueObserver
from flowstate_daemon.worker.worker import raise_service_failure

log = structlog.get_logger()

MAX_BACKLOG_READ = 1_000  # waiting jobs that are read in advance; the others are read when a worker claims them
MAX_PENDING = 10_000  # predictions that wait for the outcome of the other worker


class ShadowWorker(Service):
    """Predicts the outcome of each job, and compares it with the outcome of the other worker."""

    name: ClassVar[str] = "shadow"

    def __init__(self, observer: QueueObserver, dry_run: DryRun, metrics: ShadowMetrics, heartbeat: Heartbeat) -> None:
        super().__init__(heartbeat)
        self.dry_run = dry_run
        self._observer = observer
        self._metrics = metrics
        self._predictions: OrderedDict[str, Prediction] = OrderedDict()
        self._following: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> Sized:
        """Jobs whose outcome is awaited."""
        return self._predictions

    def set_shutdown_timeout(self, _seconds: float) -> None:
        """Does nothing: a shadow worker has no jobs in flight to drain."""

    def force_stop(self) -> None:
        self.stop()

    def give_up(self) -> None:
        """End now: a store does not answer."""
        if self._following is not None:
            self._ending = asyncio.create_task(cancel(self._following), name="give_up")

    async def listen(self) -> None:
        """Subscribe: from here on no event is missed. Raises StoreUnavailableError."""
        await self._observer.listen()

    async def run(self) -> None:
        """Follow the queue until `stop()`. Raises ServiceCrashedError."""
        try:
            async with asyncio.TaskGroup() as group:
                self._following = group.create_task(super().run(), name=self.name)
        except ExceptionGroup as bug:
            raise_service_failure(bug)
        finally:
            await self._observer.close()
        log.info("shadow_summary", awaited=len(self._predictions), **self._metrics.totals)

    async def run_once(self) -> None:
        if not self._observer.listening:
            await self.listen()
        if self._observer.missed_events:
            # The jobs that are already in the queue were announced before the subscription.
            await self._predict(await self._observer.pending_ids(MAX_BACKLOG_READ))
            self._observer.missed_events = False
        if events := await self.run_until_stopped(self._observer.next_events(HEARTBEAT_TIMEOUT_S)):
            await self._follow(events)

    async def _follow(self, events: Sequence[JobEvent]) -> None:
        await self._predict(event.job_id for event in events)
        for event in events:
            if event.type in {"completed", "failed"}:
                self._compare(event)

    async def _predict(self, job_ids: Iterable[str]) -> None:
        """Predict each job once, however often it is attempted."""
        new = [job_id for job_id in dict.fromkeys(job_ids) if job_id not in self._predictions]
        for first in range(0, len(new), BATCH_SIZE):
            jobs = await self._observer.read_jobs(new[first : first + BATCH_SIZE])
            predictions = await asyncio.gather(*(self.dry_run.predict(job) for job in jobs.values()))
            for job_id, prediction in zip(jobs, predictions, strict=True):
                self._record(job_id, prediction)
            self.progress()

    def _record(self, job_id: str, prediction: Prediction) -> None:
        self._predictions[job_id] = prediction
        while len(self._predictions) > MAX_PENDING:
            self._predictions.popitem(last=False)
        self._metrics.predicted(prediction.kind, prediction.outcome)
        log.info(
            "shadow_predicted",
            job_id=job_id,
            kind=prediction.kind,
            predicted=prediction.outcome,
            reason=prediction.reason,
            recipient=prediction.recipient,
            html_bytes=prediction.html_bytes,
        )

    def _compare(self, event: JobEvent) -> None:
        prediction, observed = self._predictions.pop(event.job_id, None), observed_outcome(event)
        if prediction is None:
            self._metrics.compared("", "unseen")
            log.info(
                "shadow_missed",
                job_id=event.job_id,
                observed=observed.outcome,
                reason="it was removed before it could be read",
            )
        elif matches(prediction, observed):
            self._metrics.compared(prediction.kind, "same")
        else:
            self._metrics.compared(prediction.kind, "different")
            log.warning(
                "shadow_mismatch",
                job_id=event.job_id,
                kind=prediction.kind,
                predicted=prediction.outcome,
                reason=prediction.reason,
                observed=observed.outcome,
                observed_reason=observed.reason,
                remedy="docs/takeover.md explains each difference",
            )
