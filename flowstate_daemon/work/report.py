"""One canonical log line and the counters for each run that has ended and is written down."""

from __future__ import annotations

from typing import Any

import structlog

from flowstate_daemon.base.instruments import Instruments
from flowstate_daemon.queue.job import Failed, Finished, Retried
from flowstate_daemon.work.fate import Ending
from flowstate_daemon.work.inflight import Run

log = structlog.get_logger()


class Reporter:
    """Says what happened, after it has happened."""

    def __init__(self, instruments: Instruments) -> None:
        self._metrics = instruments.metrics
        self._clock = instruments.clock
        self._vitals = instruments.vitals

    def ended(self, ending: Ending, run: Run | None) -> None:
        """Report one settled ending."""
        job = ending.job
        seconds = self._clock.mono() - run.taken_at if run else 0.0
        facts: dict[str, Any] = run.facts if run else {}
        line = {"job_id": job.id, "kind": job.name, "attempt": job.attempt, "seconds": round(seconds, 4), **facts}
        match ending:
            case Finished() if "expired" in facts:
                self._metrics.mail_expired(job.name)
                log.warning("mail_expired", **line)
            case Finished() if "skipped" in facts:
                self._metrics.mail_skipped(job.name)
                log.info("mail_skipped", **line)
            case Finished():
                age_ms = self._clock.now_ms() - job.timestamp
                self._metrics.mail_sent(job.name, seconds)
                self._metrics.mail_waited(job.name, age_ms / 1000)
                log.info("mail_sent", age_ms=age_ms, **line)
            case Retried():
                self._metrics.mail_retried(job.name)
                self._vitals.note(f"{job.name}: {ending.reason}")
                log.warning("mail_retried", reason=ending.reason, next_in_ms=ending.delay_ms, **line)
            case Failed():
                self._metrics.mail_failed(job.name)
                self._vitals.note(f"{job.name}: {ending.reason}")
                log.error("mail_failed", reason=ending.reason, **line)
            case _:
                self._metrics.mail_released(job.name)
                log.info("mail_released", **line)
