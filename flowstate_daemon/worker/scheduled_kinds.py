"""Rules for jobs of the kinds that schedules send: who made them, and how long they may wait.

While the daemon's own schedules are on, a job of such a kind that it did not make is a duplicate: the backend's cron
jobs still run.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import structlog

from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.mail.lifetimes import Lifetimes
from flowstate_daemon.mail.policy import SKIP, Decision
from flowstate_daemon.mail_producer import ORIGIN
from flowstate_daemon.queue.job import Job
from flowstate_daemon.worker.lookups import SCHEDULED_JOB_PREFIX

log = structlog.get_logger()

FOREIGN_REASON = "a duplicate: this daemon's own schedule sends these emails, and the job was made by another program"
REMEDY = (
    "switch the backend's cron jobs off (docs/takeover.md), or set FLOWSTATE_SCHEDULE_FOREIGN_JOBS=send to send their"
    " emails as well"
)


class JobOrigin(msgspec.Struct, frozen=True):
    """The part of a job's data that says who made it."""

    origin: Any = None


ORIGIN_DECODER = msgspec.json.Decoder(JobOrigin)


class ScheduledKinds:
    """Checks jobs of the kinds whose schedule is on in this daemon. Logs the first foreign job of each kind."""

    def __init__(self, skipped: Collection[str], lifetimes: Lifetimes, metrics: Metrics) -> None:
        """Foreign jobs of the kinds in `skipped` are skipped."""
        self._skipped = frozenset(skipped)
        self._lifetimes = lifetimes
        self._metrics = metrics
        self._warned: set[str] = set()

    def check(self, job: Job) -> Decision | None:
        """Why the job is a duplicate; None if it is not."""
        if job.name not in self._skipped or made_by_daemon(job):
            return None
        self._metrics.foreign_job_skipped(job.name)
        if job.name not in self._warned:
            self._warned.add(job.name)
            log.warning("foreign_scheduled_job", job_id=job.id, kind=job.name, reason=FOREIGN_REASON, remedy=REMEDY)
        return Decision("schedule", SKIP, FOREIGN_REASON)

    def lifetimes_for(self, job: Job) -> Lifetimes | None:
        """None for scheduled emails, which have a deadline in Postgres."""
        return None if job.id.startswith(SCHEDULED_JOB_PREFIX) else self._lifetimes


def made_by_daemon(job: Job) -> bool:
    """Whether the schedules of a daemon or the command `enqueue` made the job. Pure."""
    if job.id.startswith(SCHEDULED_JOB_PREFIX):
        return True
    try:
        return bool(ORIGIN_DECODER.decode(job.data).origin == ORIGIN)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
