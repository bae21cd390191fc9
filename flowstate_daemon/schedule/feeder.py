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

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.base.instruments import Instruments
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.database.application import Unreadable
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.notices import Notice, Notices
from flowstate_daemon.intake import Intake, MailOrder, Refused
from flowstate_daemon.mail.policy import SKIP, Step
from flowstate_daemon.queue.backlog import Backlog
from flowstate_daemon.schedule.assessor import Assessor
from flowstate_daemon.schedule.endings import Ended, outcome_of
from flowstate_daemon.schedule.plan import Schedule, zone_if_known
from flowstate_daemon.schedule.rest import Rests
from flowstate_daemon.schedule.slot import Slot

log = structlog.get_logger()

BATCH = 500
PORTION = 250  # while the stores work at one half of a batch, the other is made
AT_ONCE = 50  # mails written into the queue in one call, before the loop looks up
LOOK_S = 5.0  # nobody tells us of slots that other daemons have planned or left
NO_ROOM_S = 0.2
UTC_ZONE = ZoneInfo("UTC")
NEVER = datetime.max.replace(tzinfo=UTC)
TOO_LATE = "too late: the daemon was away or the queue was full until {:%H:%M} on {:%d %b}, local time"


@dataclass(frozen=True, slots=True)
class Stores:
    """Where slots come from and mails go to."""

    notices: Notices
    ledger: Ledger
    intake: Intake
    backlog: Backlog


@dataclass(frozen=True, slots=True)
class Batch:
    """Leased slots, judged: mails to hand over, and slots that have ended."""

    schedule: Schedule
    notices: Sequence[Notice]
    orders: Sequence[tuple[Notice, MailOrder]]
    ended: Sequence[Ended]


class Feeder(Service):
    """One of these per daemon; they need not know of each other."""

    name: ClassVar[str] = "feeder"

    def __init__(
        self,
        schedules: Sequence[Schedule],
        stores: Stores,
        assessor: Assessor,
        pulse: Pulse,
        instruments: Instruments,
        *,
        ahead: int,
    ) -> None:
        super().__init__(pulse)
        self._schedules = schedules
        self._stores = stores
        self._assessor = assessor
        self._clock = instruments.clock
        self._metrics = instruments.metrics
        self._rests = Rests(instruments, "feeder")
        self._ahead = ahead
        self._tally: Counter[str] = Counter()
        self.due = asyncio.Event()  # set when somebody has planned

    def stop(self) -> None:
        super().stop()
        self.due.set()

    async def turn(self) -> None:
        self.due.clear()
        fed = await self.feed_due()
        self.progressed()
        if not fed and not self.stopping:
            await self.within(LOOK_S, self.due.wait())

    async def feed_due(self) -> int:
        """Feed what is due and fits; returns how many slots were seen to. Raises Outage."""
        awake = [schedule for schedule in self._schedules if not self._rests.resting(schedule.kind)]
        next_due = await self._stores.notices.next_due([schedule.kind for schedule in awake]) if awake else {}
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
        ahead = await self._stores.backlog.look(schedule.priority)
        room = min(BATCH, self._ahead - ahead.jobs)
        if room < min(BATCH, self._ahead) // 4 + 1:
            await self.pause(NO_ROOM_S)
            return 1
        notices = await self._stores.notices.lease(schedule.kind, room)
        if not notices:
            return 0
        portions = [notices[start : start + PORTION] for start in range(0, len(notices), PORTION)]
        work = [self._see_to(schedule, portion, ahead.memory) for portion in portions]
        ends = await asyncio.gather(*work, return_exceptions=True)
        lacks = [end for end in ends if isinstance(end, Unreadable)]
        failures = [end for end in ends if isinstance(end, BaseException) and not isinstance(end, Unreadable)]
        if failures:
            if isinstance(failures[0], Outage):
                log.info("feeding_interrupted", kind=schedule.kind, slots=len(notices))
            raise failures[0]
        if lacks:
            self._rests.rest(schedule.kind, lacks[0])
            await self._stores.notices.release(notices)
            return 0
        self._rests.over(schedule.kind)
        return len(notices)

    async def _see_to(self, schedule: Schedule, notices: Sequence[Notice], memory: str) -> None:
        await self._hand_over(await self._judge(schedule, notices), memory)

    async def _judge(self, schedule: Schedule, notices: Sequence[Notice]) -> Batch:
        now = self._clock.now()
        late = [notice for notice in notices if notice.expires_at <= now]
        in_time = _at_home([notice for notice in notices if notice.expires_at > now])
        ended = await self._too_late(late) if late else []
        orders: list[tuple[Notice, MailOrder]] = []
        assessed = await self._assessor.assess(schedule, [slot_of(one) for one in in_time]) if in_time else []
        for notice, one in zip(in_time, assessed, strict=True):
            if one.refusal is None:
                orders.append((notice, one.order(notice.job_id)))
            else:
                ended.append(Ended(notice, one.to, "skipped", one.refusal))
        return Batch(schedule, notices, orders, ended)

    async def _too_late(self, notices: Sequence[Notice]) -> list[Ended]:
        people = await self._assessor.people([slot_of(notice) for notice in notices])
        ended = []
        for notice in notices:
            end = notice.expires_at.astimezone(slot_of(notice).zone)
            person = people.get(notice.user_id)
            why = Step("time", SKIP, TOO_LATE.format(end, end))
            ended.append(Ended(notice, person.email if person else "", "skipped", why))
        return ended

    async def _hand_over(self, batch: Batch, memory: str) -> None:
        refused: list[Ended] = []
        handed: list[Notice] = []
        if batch.orders:
            by_id = {notice.id: order for notice, order in batch.orders}
            async with self._stores.notices.handing_over([notice for notice, _ in batch.orders], memory) as handed:
                for start in range(0, len(handed), AT_ONCE):
                    part = [(notice, by_id[notice.id]) for notice in handed[start : start + AT_ONCE]]
                    refused += await self._enqueue(part)
        ended = [*batch.ended, *refused]
        now = self._clock.now()
        await self._stores.ledger.write([outcome_of(one, now) for one in ended])
        kind = batch.schedule.kind
        fed = len(handed) - len(refused)
        self._tally[kind] += fed
        self._metrics.notices_fed(kind, [(now - notice.due_at).total_seconds() for notice in handed])
        self._metrics.notices_skipped(kind, len(ended))
        log.info("notices_fed", kind=kind, queued=fed, skipped=len(batch.ended), refused=len(refused))

    async def _enqueue(self, part: Sequence[tuple[Notice, MailOrder]]) -> list[Ended]:
        """Put mails into the queue; returns those that it refuses, which must not hold up the others."""
        try:
            await self._stores.intake.accept_many([order for _, order in part])
        except Refused as refused:
            if len(part) > 1:
                return [ended for one in part for ended in await self._enqueue([one])]
            [(notice, order)] = part
            return [Ended(notice, order.to, "failed", Step("intake", "fail", refused.reason))]
        return []

    def _say_end(self, schedule: Schedule) -> None:
        """All slots of a kind are seen to: the line that operators know."""
        queued = self._tally.pop(schedule.kind, None)
        if queued is not None:
            said = f"{schedule.words.title} job completed: {queued} {schedule.words.mails} queued"
            log.info("schedule_completed", kind=schedule.kind, said=said, queued=queued)


def slot_of(notice: Notice) -> Slot:
    """The slot of a row; in a zone that is not known here, by UTC."""
    zone = zone_if_known(notice.zone) or UTC_ZONE
    return Slot(notice.kind, notice.user_id, notice.local_date, notice.due_at, zone, notice.item)


def _at_home(notices: Sequence[Notice]) -> list[Notice]:
    """Those in zones that are known here; the others stay leased for a while, and are then another daemon's."""
    strange = sorted({notice.zone for notice in notices if zone_if_known(notice.zone) is None})
    if strange:
        log.warning("zones_unknown", zones=strange, remedy="install this machine's newest tzdata")
    return [notice for notice in notices if notice.zone not in strange]
