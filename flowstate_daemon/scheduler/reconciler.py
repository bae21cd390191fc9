"""Looks after slots whose job should have ended by now, and sees to it that each slot ends exactly once.

A job leaves traces: it is in Redis, or its outcome is in the journal or in the ledger. Where there is none, Redis has
lost it or somebody has taken it away. No sender had leave for it, and Redis has forgotten: it cannot have been sent
by us, and gets a new job. In all other cases nobody can know, and the slot ends as failed: a mail too few is better
than one twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

import structlog

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import PeriodicService, ServiceContext
from flowstate_daemon.database.app_data import AppData
from flowstate_daemon.database.app_database import AppTablesUnavailableError
from flowstate_daemon.database.ledger import Ledger, parse_outcome
from flowstate_daemon.database.scheduled_mails import OrphanedMail, ScheduledMails
from flowstate_daemon.mail.policy import Decision
from flowstate_daemon.queue.bull_queue import Backlog, JobPresence
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.scheduler.scheduled_mail import EndedWithoutMail, outcome_of

log = structlog.get_logger()

INTERVAL_S = 30.0
QUEUED_GRACE = timedelta(seconds=60)
CLAIMED_GRACE = timedelta(minutes=10)  # longer than any request and its retries in one process
PAGE_SIZE = 500
MAX_JOURNAL_ENTRIES = 5_000  # a longer one is still on its way to the ledger: look again later
MAX_GENERATIONS = 5
LOST_REASON = "Redis lost the job; whether the mail left is not known"
VANISHED_REASON = "the job left the queue without an outcome: another worker had it, or somebody removed it"
LOST_TOO_OFTEN_REASON = f"Redis lost the job {MAX_GENERATIONS} times before anybody could send it"
FAILED_ELSEWHERE_REASON = "another worker has failed it; the job in the queue tells why"
REMEDY = "look the mail up at the provider; flowstate-daemon schedule run --force sends it again"


@dataclass(frozen=True, slots=True)
class ReconcilerDependencies:
    """Where slots, outcomes and people stand."""

    scheduled_mails: ScheduledMails
    ledger: Ledger
    journal: Journal
    facts: AppData


class Reconciler(PeriodicService):
    """One of these per daemon; what one has settled, another finds settled."""

    name: ClassVar[str] = "reconciler"

    def __init__(
        self, records: ReconcilerDependencies, backlog: Backlog, heartbeat: Heartbeat, context: ServiceContext
    ) -> None:
        super().__init__(heartbeat, context.clock, every_s=INTERVAL_S)
        self._records = records
        self._backlog = backlog
        self._metrics = context.metrics

    async def run_once(self) -> None:
        after = 0
        while page := await self._records.scheduled_mails.find_orphans(QUEUED_GRACE, CLAIMED_GRACE, after, PAGE_SIZE):
            await self._settle(page)
            self.progress()
            after = page[-1].id
            if len(page) < PAGE_SIZE:
                break

    async def _settle(self, page: Sequence[OrphanedMail]) -> None:
        memory, traces = await self._backlog.find_jobs([one.job_id for one in page])
        gone = [one for one, trace in zip(page, traces, strict=True) if trace is JobPresence.MISSING]
        failed = [one for one, trace in zip(page, traces, strict=True) if trace is JobPresence.FAILED]
        if not gone and not failed:
            return
        # In this order: an outcome that leaves the journal meanwhile is in the ledger, and has ended its slot.
        output = await self._in_journal()
        if output is None:
            return
        again = [one for one in gone if one.job_id not in output and can_reschedule(one, memory)]
        ends = [(one, missing_job_reason(one, memory)) for one in gone if one.job_id not in output and one not in again]
        ends += [(one, FAILED_ELSEWHERE_REASON) for one in failed if one.job_id not in output]
        if again:
            count = await self._records.scheduled_mails.reschedule(again)
            log.warning(
                "scheduled_jobs_rescheduled", planned_again=count, why="Redis forgot them before anybody had taken them"
            )
            for one in again:
                self._metrics.scheduled_mails_rescheduled(one.kind)
        if ends:
            await self._end(ends)

    async def _in_journal(self) -> set[str] | None:
        """Jobs whose outcome is on its way to the ledger; None when there are too many to look at."""
        entries = await self._records.journal.peek(MAX_JOURNAL_ENTRIES)
        if len(entries) == MAX_JOURNAL_ENTRIES:
            return None
        output = set()
        for raw in entries:
            try:
                output.add(parse_outcome(raw).job_id)
            except InvalidDataError:
                continue  # the ledger writer sets it aside, and says so
        return output

    async def _end(self, ends: Sequence[tuple[OrphanedMail, str]]) -> None:
        # First never to be sent again, then ended: a crash in between leaves it to the next look.
        given_up = await self._records.scheduled_mails.mark_unknown([one for one, _ in ends])
        left = [(one, reason) for one, reason in ends if one.id in given_up]
        addresses = await self._addresses([one.user_id for one, _ in left])
        ended = [
            EndedWithoutMail(one, addresses.get(one.user_id, ""), "failed", Decision("calendar", "fail", reason))
            for one, reason in left
        ]
        await self._records.ledger.write([outcome_of(one, self._clock.now()) for one in ended])
        for one, reason in left:
            self._metrics.scheduled_mails_unknown(one.kind)
            log.error("scheduled_mail_outcome_unknown", job_id=one.job_id, kind=one.kind, reason=reason, remedy=REMEDY)

    async def _addresses(self, user_ids: Sequence[str]) -> dict[str, str]:
        try:
            recipients = await self._records.facts.users(user_ids)
        except AppTablesUnavailableError:
            return {}  # the slot ends all the same; only `explain` will not find it by address
        return {user_id: recipient.email for user_id, recipient in recipients.items()}


def can_reschedule(doubtful: OrphanedMail, memory: str) -> bool:
    """Whether it is certain that a vanished job was never sent: nobody had leave, and Redis has forgotten it. Pure."""
    return not doubtful.claimed and doubtful.redis_epoch != memory and doubtful.generation < MAX_GENERATIONS


def missing_job_reason(doubtful: OrphanedMail, memory: str) -> str:
    """What a person should know of a slot whose job has vanished. Pure."""
    if doubtful.claimed:
        return LOST_REASON
    return LOST_TOO_OFTEN_REASON if doubtful.redis_epoch != memory else VANISHED_REASON
