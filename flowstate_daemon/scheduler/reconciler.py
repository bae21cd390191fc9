"""Handles scheduled emails whose job should have ended by now, so that each one ends exactly once.

A job is in Redis, or its outcome is in the journal or in the ledger. Otherwise Redis has lost it, or it was
removed. If the epoch of Redis has changed, and no worker has claimed the email, or no request is recorded that contains
it, it cannot have been sent and gets a new job. In all other cases it may have been sent, and ends as failed: a missing
email is better than one sent twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import ClassVar

import structlog

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import PeriodicService, ServiceContext
from flowstate_daemon.database.app_data import AppData
from flowstate_daemon.database.app_database import AppTablesUnavailableError
from flowstate_daemon.database.ledger import MAX_KEY_LENGTH, REQUESTS_KEPT, Ledger, parse_outcome
from flowstate_daemon.database.scheduled_mails import ScheduledMail, ScheduledMails
from flowstate_daemon.mail.policy import Decision
from flowstate_daemon.queue.bull_queue import BullQueue, JobPresence
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.scheduler.scheduled_mail import ended_without_mail

log = structlog.get_logger()

INTERVAL_S = 30.0
QUEUED_GRACE = timedelta(seconds=60)
CLAIMED_GRACE = timedelta(minutes=10)  # longer than any request and its retries in one process
# Longer than `sending/request_recorder.py: MAX_PREPARATION_S`: from here on a claimed email is in a recorded request,
# or will be in none with this job.
RECORDED_GRACE = timedelta(minutes=3)
RECORDS_LAST = REQUESTS_KEPT - timedelta(hours=1)
PAGE_SIZE = 500
MAX_JOURNAL_ENTRIES = 5_000  # with a longer backlog, wait until the ledger writer has caught up
MAX_GENERATIONS = 5
MAX_RECORDED_LENGTH = MAX_KEY_LENGTH - 50  # with timestamp and attempt; longer keys are shortened
LOST_REASON = "Redis lost the job; whether the email was sent is unknown"
VANISHED_REASON = "the job left the queue without an outcome: another worker processed it, or somebody removed it"
LOST_TOO_OFTEN_REASON = f"Redis lost the job {MAX_GENERATIONS} times before it could be sent"
FAILED_ELSEWHERE_REASON = "another worker failed it; the job in the queue has the reason"
REMEDY = "look the email up at the provider; flowstate-daemon schedule run --force sends it again"


class Reconciler(PeriodicService):
    """One per daemon; several daemons may check the same rows."""

    name: ClassVar[str] = "reconciler"

    def __init__(  # noqa: PLR0913 - the dependencies of the service
        self,
        mails: ScheduledMails,
        bull: BullQueue,
        journal: Journal,
        ledger: Ledger,
        app_data: AppData,
        heartbeat: Heartbeat,
        context: ServiceContext,
    ) -> None:
        super().__init__(heartbeat, context.clock, every_s=INTERVAL_S)
        self._mails = mails
        self._bull = bull
        self._journal = journal
        self._ledger = ledger
        self._app_data = app_data
        self._metrics = context.metrics

    async def run_once(self) -> None:
        if not self._clock.reliable:
            return  # it is unknown how long a row has been queued
        after = 0
        while page := await self._mails.find_orphans(QUEUED_GRACE, RECORDED_GRACE, after, PAGE_SIZE):
            await self._settle(page)
            self.progress()
            after = page[-1].id
            if len(page) < PAGE_SIZE:
                break

    async def _settle(self, page: Sequence[ScheduledMail]) -> None:
        redis_epoch, found = await self._bull.find_jobs([one.job_id for one in page])
        missing = [one for one, presence in zip(page, found, strict=True) if presence is JobPresence.MISSING]
        failed = [one for one, presence in zip(page, found, strict=True) if presence is JobPresence.FAILED]
        if not missing and not failed:
            return
        # Read the journal after Redis: an outcome that leaves the journal in between is in the ledger, and has ended
        # its row, so that the guarded updates below change nothing.
        pending = await self._pending_outcomes()
        if pending is None:
            return
        missing = [one for one in missing if one.job_id not in pending]
        now = self._clock.now()
        lost = [one for one in missing if can_reschedule(one, redis_epoch, self._bull.base, now)]
        rescheduled = await self._mails.reschedule(lost, self._bull.base) if lost else set()
        if rescheduled:
            log.warning(
                "scheduled_jobs_rescheduled",
                rescheduled=len(rescheduled),
                reason="Redis lost them before they were sent",
            )
        for one in lost:
            if one.id in rescheduled:
                self._metrics.scheduled_mails_rescheduled(one.kind)
        # One that was not claimed and not rescheduled has changed since the page was read.
        missing = [one for one in missing if one not in lost or (one.claimed_at and one.id not in rescheduled)]
        unknown = [(one, missing_job_reason(one, redis_epoch)) for one in missing]
        unknown += [(one, FAILED_ELSEWHERE_REASON) for one in failed if one.job_id not in pending]
        unknown = [
            (one, reason) for one, reason in unknown if not one.claimed_at or now - one.claimed_at > CLAIMED_GRACE
        ]
        if unknown:
            await self._end(unknown)

    async def _pending_outcomes(self) -> set[str] | None:
        """Ids of jobs whose outcome is still in the journal; None when the journal is too long to read."""
        entries = await self._journal.peek(MAX_JOURNAL_ENTRIES)
        if len(entries) == MAX_JOURNAL_ENTRIES:
            return None
        job_ids = set()
        for raw in entries:
            try:
                job_ids.add(parse_outcome(raw).job_id)
            except InvalidDataError:
                continue  # the ledger writer rejects it and logs that
        return job_ids

    async def _end(self, unknown: Sequence[tuple[ScheduledMail, str]]) -> None:
        # Mark first, then end: after a crash in between, the next pass ends the rows.
        marked = await self._mails.mark_unknown([one for one, _ in unknown])
        ended = [(one, reason) for one, reason in unknown if one.id in marked]
        addresses = await self._addresses([one.user_id for one, _ in ended])
        now = self._clock.now()
        await self._ledger.write(
            [
                ended_without_mail(
                    one, addresses.get(one.user_id, ""), "failed", Decision("scheduler", "fail", reason), now
                )
                for one, reason in ended
            ]
        )
        for one, reason in ended:
            self._metrics.scheduled_mails_unknown(one.kind)
            log.error("scheduled_mail_outcome_unknown", job_id=one.job_id, kind=one.kind, reason=reason, remedy=REMEDY)

    async def _addresses(self, user_ids: Sequence[str]) -> dict[str, str]:
        try:
            users = await self._app_data.users(user_ids)
        except AppTablesUnavailableError:
            return {}  # the email ends all the same; only `explain` does not find it by address
        return {user_id: user.email for user_id, user in users.items()}


def can_reschedule(scheduled: ScheduledMail, redis_epoch: str, base: str, now: datetime) -> bool:
    """Whether Redis has lost a vanished job, and it is known whether that was in a request before. Pure."""
    if scheduled.redis_epoch == redis_epoch or scheduled.generation >= MAX_GENERATIONS:
        return False
    is_recorded = len(base) + len(scheduled.job_id) < MAX_RECORDED_LENGTH
    return scheduled.claimed_at is None or (is_recorded and now - scheduled.claimed_at < RECORDS_LAST)


def missing_job_reason(scheduled: ScheduledMail, redis_epoch: str) -> str:
    """The recorded reason for an email whose job has vanished and that is not rescheduled. Pure."""
    if scheduled.claimed_at is not None:
        return LOST_REASON
    return LOST_TOO_OFTEN_REASON if scheduled.redis_epoch != redis_epoch else VANISHED_REASON
