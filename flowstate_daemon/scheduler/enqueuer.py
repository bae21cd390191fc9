"""Puts the mails of due slots into the queue, a few hundred at a time, with facts of this very moment.

A slot is leased, judged, handed over. The list before a code stays short: there are never more of the calendar's mails
ahead than `ahead`, the rest is made when these have left. A crash at any point loses and repeats nothing: until it is
handed over a slot is anybody's after its lease, its job has an id of its own, and no mail leaves without its slot's
leave (`work/leaves.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar
from zoneinfo import ZoneInfo

import structlog

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.database.app_database import AppTablesUnavailableError
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.scheduled_mails import ScheduledMail, ScheduledMails
from flowstate_daemon.mail.policy import SKIP, Decision
from flowstate_daemon.mail_producer import InvalidMailError, MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import Backlog
from flowstate_daemon.scheduler.blocked import BlockedSchedules
from flowstate_daemon.scheduler.definitions import Schedule, find_zone
from flowstate_daemon.scheduler.eligibility import EligibilityChecker
from flowstate_daemon.scheduler.scheduled_mail import EndedWithoutMail, Slot, outcome_of

log = structlog.get_logger()

BATCH_SIZE = 500
CHUNK_SIZE = 250  # while the stores work at one half of a batch, the other is made
JOBS_PER_CALL = 50  # mails written into the queue in one call, before the loop looks up
POLL_INTERVAL_S = 5.0  # nobody tells us of slots that other daemons have planned or left
FULL_RETRY_S = 0.2
UTC_ZONE = ZoneInfo("UTC")
NEVER = datetime.max.replace(tzinfo=UTC)
EXPIRED_REASON = "too late: the daemon was away or the queue was full until {:%H:%M} on {:%d %b}, local time"


@dataclass(frozen=True, slots=True)
class Stores:
    """Where slots come from and mails go to."""

    scheduled_mails: ScheduledMails
    ledger: Ledger
    producer: MailProducer
    backlog: Backlog


@dataclass(frozen=True, slots=True)
class EnqueueBatch:
    """Leased slots, judged: mails to hand over, and slots that have ended."""

    schedule: Schedule
    scheduled_mails: Sequence[ScheduledMail]
    orders: Sequence[tuple[ScheduledMail, NewMail]]
    ended: Sequence[EndedWithoutMail]


class ScheduledMailEnqueuer(Service):
    """One of these per daemon; they need not know of each other."""

    name: ClassVar[str] = "feeder"

    def __init__(
        self,
        schedules: Sequence[Schedule],
        stores: Stores,
        eligibility: EligibilityChecker,
        heartbeat: Heartbeat,
        context: ServiceContext,
        *,
        ahead: int,
    ) -> None:
        super().__init__(heartbeat)
        self._schedules = schedules
        self._stores = stores
        self._eligibility = eligibility
        self._clock = context.clock
        self._metrics = context.metrics
        self._rests = BlockedSchedules(context, "feeder")
        self._ahead = ahead
        self._tally: Counter[str] = Counter()
        self.wake = asyncio.Event()  # set when somebody has planned

    def stop(self) -> None:
        super().stop()
        self.wake.set()

    async def run_once(self) -> None:
        self.wake.clear()
        fed = await self.enqueue_due()
        self.progress()
        if not fed and not self.stopping:
            await self.wait(POLL_INTERVAL_S, self.wake.wait())

    async def enqueue_due(self) -> int:
        """Feed what is due and fits; returns how many slots were seen to. Raises Outage."""
        awake = [schedule for schedule in self._schedules if not self._rests.active(schedule.kind)]
        next_due = await self._stores.scheduled_mails.next_due([schedule.kind for schedule in awake]) if awake else {}
        now, fed = self._clock.now(), 0
        for schedule in awake:
            if self.stopping:
                break
            if next_due.get(schedule.kind, NEVER) <= now:
                fed += await self._feed(schedule)
            else:
                self._say_end(schedule)
        return fed

    async def _feed(self, schedule: Schedule) -> int:
        ahead = await self._stores.backlog.jobs_ahead(schedule.priority)
        room = min(BATCH_SIZE, self._ahead - ahead.jobs)
        if room < min(BATCH_SIZE, self._ahead) // 4 + 1:
            await self.sleep(FULL_RETRY_S)
            return 1
        scheduled_mails = await self._stores.scheduled_mails.lease(schedule.kind, room)
        if not scheduled_mails:
            return 0
        portions = [scheduled_mails[start : start + CHUNK_SIZE] for start in range(0, len(scheduled_mails), CHUNK_SIZE)]
        work = [self._process(schedule, portion, ahead.store_epoch) for portion in portions]
        ends = await asyncio.gather(*work, return_exceptions=True)
        lacks = [end for end in ends if isinstance(end, AppTablesUnavailableError)]
        failures = [
            end for end in ends if isinstance(end, BaseException) and not isinstance(end, AppTablesUnavailableError)
        ]
        if failures:
            if isinstance(failures[0], StoreUnavailableError):
                log.info("enqueue_interrupted", kind=schedule.kind, slots=len(scheduled_mails))
            raise failures[0]
        if lacks:
            self._rests.block(schedule.kind, lacks[0])
            await self._stores.scheduled_mails.release(scheduled_mails)
            return 0
        self._rests.unblock(schedule.kind)
        return len(scheduled_mails)

    async def _process(self, schedule: Schedule, scheduled_mails: Sequence[ScheduledMail], memory: str) -> None:
        await self._hand_over(await self._judge(schedule, scheduled_mails), memory)

    async def _judge(self, schedule: Schedule, scheduled_mails: Sequence[ScheduledMail]) -> EnqueueBatch:
        now = self._clock.now()
        late = [scheduled_mail for scheduled_mail in scheduled_mails if scheduled_mail.expires_at <= now]
        in_time = _in_known_zones(
            [scheduled_mail for scheduled_mail in scheduled_mails if scheduled_mail.expires_at > now]
        )
        ended = await self._too_late(late) if late else []
        orders: list[tuple[ScheduledMail, NewMail]] = []
        assessed = await self._eligibility.check(schedule, [to_slot(one) for one in in_time]) if in_time else []
        for scheduled_mail, one in zip(in_time, assessed, strict=True):
            if one.reason is None:
                orders.append((scheduled_mail, one.order(scheduled_mail.job_id)))
            else:
                ended.append(EndedWithoutMail(scheduled_mail, one.to, "skipped", one.reason))
        return EnqueueBatch(schedule, scheduled_mails, orders, ended)

    async def _too_late(self, scheduled_mails: Sequence[ScheduledMail]) -> list[EndedWithoutMail]:
        recipients = await self._eligibility.load_users([to_slot(scheduled_mail) for scheduled_mail in scheduled_mails])
        ended = []
        for scheduled_mail in scheduled_mails:
            end = scheduled_mail.expires_at.astimezone(to_slot(scheduled_mail).zone)
            recipient = recipients.get(scheduled_mail.user_id)
            reason = Decision("time", SKIP, EXPIRED_REASON.format(end, end))
            ended.append(EndedWithoutMail(scheduled_mail, recipient.email if recipient else "", "skipped", reason))
        return ended

    async def _hand_over(self, batch: EnqueueBatch, memory: str) -> None:
        refused: list[EndedWithoutMail] = []
        handed: list[ScheduledMail] = []
        if batch.orders:
            by_id = {scheduled_mail.id: order for scheduled_mail, order in batch.orders}
            async with self._stores.scheduled_mails.enqueue_transaction(
                [scheduled_mail for scheduled_mail, _ in batch.orders], memory
            ) as handed:
                for start in range(0, len(handed), JOBS_PER_CALL):
                    part = [
                        (scheduled_mail, by_id[scheduled_mail.id])
                        for scheduled_mail in handed[start : start + JOBS_PER_CALL]
                    ]
                    refused += await self._enqueue(part)
        ended = [*batch.ended, *refused]
        now = self._clock.now()
        await self._stores.ledger.write([outcome_of(one, now) for one in ended])
        kind = batch.schedule.kind
        fed = len(handed) - len(refused)
        self._tally[kind] += fed
        self._metrics.scheduled_mails_enqueued(
            kind, [(now - scheduled_mail.due_at).total_seconds() for scheduled_mail in handed]
        )
        self._metrics.scheduled_mails_skipped(kind, len(ended))
        log.info("scheduled_mails_enqueued", kind=kind, queued=fed, skipped=len(batch.ended), refused=len(refused))

    async def _enqueue(self, part: Sequence[tuple[ScheduledMail, NewMail]]) -> list[EndedWithoutMail]:
        """Put mails into the queue; returns those that it refuses, which must not hold up the others."""
        try:
            await self._stores.producer.enqueue_many([order for _, order in part])
        except InvalidMailError as refused:
            if len(part) > 1:
                return [ended for one in part for ended in await self._enqueue([one])]
            [(scheduled_mail, order)] = part
            return [EndedWithoutMail(scheduled_mail, order.to, "failed", Decision("intake", "fail", refused.reason))]
        return []

    def _say_end(self, schedule: Schedule) -> None:
        """All slots of a kind are seen to: the line that operators know."""
        queued = self._tally.pop(schedule.kind, None)
        if queued is not None:
            said = f"{schedule.text.title} job completed: {queued} {schedule.text.noun} queued"
            log.info("schedule_completed", kind=schedule.kind, said=said, queued=queued)


def to_slot(scheduled_mail: ScheduledMail) -> Slot:
    """The slot of a row; in a zone that is not known here, by UTC."""
    zone = find_zone(scheduled_mail.zone) or UTC_ZONE
    return Slot(
        scheduled_mail.kind,
        scheduled_mail.user_id,
        scheduled_mail.local_date,
        scheduled_mail.due_at,
        zone,
        scheduled_mail.item,
    )


def _in_known_zones(scheduled_mails: Sequence[ScheduledMail]) -> list[ScheduledMail]:
    """Those in zones that are known here; the others stay leased for a while, and are then another daemon's."""
    strange = sorted(
        {scheduled_mail.zone for scheduled_mail in scheduled_mails if find_zone(scheduled_mail.zone) is None}
    )
    if strange:
        log.warning("time_zones_unknown", zones=strange, remedy="install this machine's newest tzdata")
    return [scheduled_mail for scheduled_mail in scheduled_mails if scheduled_mail.zone not in strange]
