"""Adds the jobs of due scheduled emails to the queue, a few hundred at a time, built from the data of this moment.

Rows are leased, checked, and enqueued. At most `max_queued` scheduled emails wait in the queue, so that urgent jobs
stay near its front; the others are built when these have been sent. A crash at any point neither loses nor repeats an
email: until it is enqueued any enqueuer may lease the row once its lease has expired, its job has an id of its own, and
no worker sends it without a claim on its row.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import ClassVar

import structlog

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.base.time_zones import find_zone
from flowstate_daemon.database.app_database import AppTablesUnavailableError
from flowstate_daemon.database.ledger import Ledger, Outcome
from flowstate_daemon.database.scheduled_mails import ScheduledMail, ScheduledMails
from flowstate_daemon.mail.policy import SKIP, Decision
from flowstate_daemon.mail_producer import InvalidMailError, MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.scheduler.blocked import BlockedSchedules
from flowstate_daemon.scheduler.definitions import Schedule
from flowstate_daemon.scheduler.eligibility import EligibilityChecker
from flowstate_daemon.scheduler.scheduled_mail import ended_without_mail

log = structlog.get_logger()

BATCH_SIZE = 500
CHUNK_SIZE = 250  # two chunks of a batch run concurrently: one is built while the stores work on the other
JOBS_PER_CALL = 50  # jobs added in one call, before the event loop runs other tasks
POLL_INTERVAL_S = 5.0  # rows planned or abandoned by other daemons are found by polling only
FULL_RETRY_S = 0.2
NEVER = datetime.max.replace(tzinfo=UTC)
EXPIRED_REASON = "too late: the daemon was down or the queue was full until {:%H:%M} on {:%d %b}, local time"


class ScheduledMailEnqueuer(Service):
    """One per daemon; several daemons share the work through leases."""

    name: ClassVar[str] = "enqueuer"

    def __init__(  # noqa: PLR0913 - the dependencies of the service
        self,
        schedules: Sequence[Schedule],
        mails: ScheduledMails,
        eligibility: EligibilityChecker,
        producer: MailProducer,
        bull: BullQueue,
        ledger: Ledger,
        heartbeat: Heartbeat,
        context: ServiceContext,
        *,
        max_queued: int,
    ) -> None:
        super().__init__(heartbeat)
        self._schedules = schedules
        self._mails = mails
        self._eligibility = eligibility
        self._producer = producer
        self._bull = bull
        self._ledger = ledger
        self._clock = context.clock
        self._metrics = context.metrics
        self._blocked = BlockedSchedules(context, self.name)
        self._max_queued = max_queued
        self._enqueued: Counter[str] = Counter()
        self.wake = asyncio.Event()  # set when there may be new rows

    def stop(self) -> None:
        super().stop()
        self.wake.set()

    async def run_once(self) -> None:
        self.wake.clear()
        processed = await self.enqueue_due()
        self.progress()
        if not processed and not self.stopping:
            await self.wait(POLL_INTERVAL_S, self.wake.wait())

    async def enqueue_due(self) -> int:
        """Enqueue what is due and fits into the queue; returns how many rows were processed.

        Nothing is due, and nothing is too late, while clocks disagree. Raises StoreUnavailableError.
        """
        if not self._clock.reliable:
            return 0
        schedules = [schedule for schedule in self._schedules if not self._blocked.contains(schedule.kind)]
        next_due = await self._mails.next_due([schedule.kind for schedule in schedules]) if schedules else {}
        now, processed = self._clock.now(), 0
        for schedule in schedules:
            if self.stopping:
                break
            if next_due.get(schedule.kind, NEVER) <= now:
                processed += await self._enqueue_batch(schedule)
            else:
                self._log_completed(schedule)
        return processed

    async def _enqueue_batch(self, schedule: Schedule) -> int:
        ahead = await self._bull.jobs_ahead(self._producer.kinds[schedule.kind].priority)
        free = min(BATCH_SIZE, self._max_queued - ahead.jobs)
        # Small batches cost as many queries as large ones, so wait until a quarter of a batch fits.
        if free < min(BATCH_SIZE, self._max_queued) // 4 + 1:
            await self.sleep(FULL_RETRY_S)
            return 1
        mails = await self._mails.lease(schedule.kind, free)
        if not mails:
            return 0
        chunks = [mails[start : start + CHUNK_SIZE] for start in range(0, len(mails), CHUNK_SIZE)]
        work = [self._process(schedule, chunk, ahead.store_epoch) for chunk in chunks]
        # Both chunks finish before an error is raised, so that nothing works on rows in the background.
        results = await asyncio.gather(*work, return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        blocking = [error for error in errors if isinstance(error, AppTablesUnavailableError)]
        others = [error for error in errors if not isinstance(error, AppTablesUnavailableError)]
        if others:
            if isinstance(others[0], StoreUnavailableError):
                log.info("enqueue_interrupted", kind=schedule.kind, scheduled=len(mails))
            raise others[0]
        if blocking:
            self._blocked.block(schedule.kind, blocking[0])
            await self._mails.release(mails)
            return 0
        self._blocked.unblock(schedule.kind)
        return len(mails)

    async def _process(self, schedule: Schedule, mails: Sequence[ScheduledMail], redis_epoch: str) -> None:
        """Check a chunk of leased rows, enqueue the eligible ones and end the others."""
        now = self._clock.now()
        expired = [one for one in mails if one.expires_at <= now]
        current = _in_known_zones([one for one in mails if one.expires_at > now])
        skipped = await self._skip_expired(expired, now) if expired else []
        eligible: list[tuple[ScheduledMail, NewMail]] = []
        results = await self._eligibility.check(schedule, current) if current else []
        fingerprints = {one.scheduled.id: one.fingerprint for one in results if one.fingerprint is not None}
        if fingerprints:
            await self._mails.record_fingerprints(fingerprints)
        for checked in results:
            if checked.mail is not None:
                eligible.append((checked.scheduled, checked.mail))
            elif checked.reason is not None:
                skipped.append(ended_without_mail(checked.scheduled, checked.address, "skipped", checked.reason, now))
        enqueued, refused = await self._enqueue(eligible, redis_epoch) if eligible else ([], [])
        now = self._clock.now()
        await self._ledger.write([*skipped, *refused])
        count = len(enqueued) - len(refused)
        self._enqueued[schedule.kind] += count
        delays = [(now - one.due_at).total_seconds() for one in enqueued]
        self._metrics.scheduled_mails_enqueued(schedule.kind, delays)
        self._metrics.scheduled_mails_skipped(schedule.kind, len(skipped) + len(refused))
        log.info(
            "scheduled_mails_enqueued", kind=schedule.kind, queued=count, skipped=len(skipped), refused=len(refused)
        )

    async def _skip_expired(self, mails: Sequence[ScheduledMail], now: datetime) -> list[Outcome]:
        users = await self._eligibility.load_users(mails)
        outcomes = []
        for one in mails:
            end = one.expires_at.astimezone(one.time_zone)
            user = users.get(one.user_id)
            decision = Decision("time", SKIP, EXPIRED_REASON.format(end, end))
            outcomes.append(ended_without_mail(one, user.email if user else "", "skipped", decision, now))
        return outcomes

    async def _enqueue(
        self, eligible: Sequence[tuple[ScheduledMail, NewMail]], redis_epoch: str
    ) -> tuple[list[ScheduledMail], list[Outcome]]:
        """Add the jobs while their rows are locked; returns the rows that were still ours, and refused emails."""
        by_id = {one.id: mail for one, mail in eligible}
        refused: list[Outcome] = []
        # The rows stay locked until the jobs are in the queue and marked: a fast worker's claim waits for the mark.
        async with self._mails.enqueue_transaction([one for one, _ in eligible], redis_epoch) as held:
            for start in range(0, len(held), JOBS_PER_CALL):
                refused += await self._add([(one, by_id[one.id]) for one in held[start : start + JOBS_PER_CALL]])
        return held, refused

    async def _add(self, part: Sequence[tuple[ScheduledMail, NewMail]]) -> list[Outcome]:
        """Add jobs to the queue; returns the emails that are invalid, which must not hold up the others."""
        try:
            await self._producer.enqueue_many([mail for _, mail in part])
        except InvalidMailError as error:
            if len(part) > 1:
                return [outcome for one in part for outcome in await self._add([one])]
            [(scheduled, mail)] = part
            decision = Decision("producer", "fail", error.reason)
            return [ended_without_mail(scheduled, mail.to, "failed", decision, self._clock.now())]
        return []

    def _log_completed(self, schedule: Schedule) -> None:
        """Log the end of a run, in the text that operators know from the legacy worker."""
        queued = self._enqueued.pop(schedule.kind, None)
        if queued is not None:
            message = f"{schedule.title} job completed: {queued} {schedule.mails_label} queued"
            log.info("schedule_completed", kind=schedule.kind, message=message, queued=queued)


def _in_known_zones(mails: Sequence[ScheduledMail]) -> list[ScheduledMail]:
    """The rows in time zones that this machine knows; the others stay leased, and another daemon gets them later."""
    unknown = sorted({one.zone for one in mails if find_zone(one.zone) is None})
    if unknown:
        log.warning("time_zones_unknown", zones=unknown, remedy="install this machine's newest tzdata")
    return [one for one in mails if one.zone not in unknown]
