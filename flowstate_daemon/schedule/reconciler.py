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

from flowstate_daemon.base.errors import Malformed
from flowstate_daemon.base.instruments import Instruments
from flowstate_daemon.base.service import PeriodicService
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.database.application import Unreadable
from flowstate_daemon.database.facts import Facts
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.notices import Doubtful, Notices
from flowstate_daemon.database.outcome import read_outcome
from flowstate_daemon.mail.policy import Step
from flowstate_daemon.queue.backlog import Backlog, Trace
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.schedule.endings import Ended, outcome_of

log = structlog.get_logger()

EVERY_S = 30.0
QUEUED_FOR = timedelta(seconds=60)
TAKEN_FOR = timedelta(minutes=10)  # longer than any request and its retries in one process
PAGE = 500
LONGEST_JOURNAL = 5_000  # a longer one is still on its way to the ledger: look again later
MOST_TRIES = 5
LOST = "Redis lost the job; whether the mail left is not known"
AWAY = "the job left the queue without an outcome: another worker had it, or somebody removed it"
TOO_OFTEN = f"Redis lost the job {MOST_TRIES} times before anybody could send it"
ELSEWHERE = "another worker has failed it; the job in the queue tells why"
REMEDY = "look the mail up at the provider; flowstate-daemon schedule run --force sends it again"


@dataclass(frozen=True, slots=True)
class Records:
    """Where slots, outcomes and people stand."""

    notices: Notices
    ledger: Ledger
    journal: Journal
    facts: Facts


class Reconciler(PeriodicService):
    """One of these per daemon; what one has settled, another finds settled."""

    name: ClassVar[str] = "reconciler"

    def __init__(self, records: Records, backlog: Backlog, pulse: Pulse, instruments: Instruments) -> None:
        super().__init__(pulse, instruments.clock, every_s=EVERY_S)
        self._records = records
        self._backlog = backlog
        self._metrics = instruments.metrics

    async def act(self) -> None:
        after = 0
        while page := await self._records.notices.doubtful(QUEUED_FOR, TAKEN_FOR, after, PAGE):
            await self._settle(page)
            self.progressed()
            after = page[-1].id
            if len(page) < PAGE:
                break

    async def _settle(self, page: Sequence[Doubtful]) -> None:
        memory, traces = await self._backlog.traces([one.job_id for one in page])
        gone = [one for one, trace in zip(page, traces, strict=True) if trace is Trace.NONE]
        failed = [one for one, trace in zip(page, traces, strict=True) if trace is Trace.FAILED]
        if not gone and not failed:
            return
        # In this order: an outcome that leaves the journal meanwhile is in the ledger, and has ended its slot.
        told = await self._in_journal()
        if told is None:
            return
        again = [one for one in gone if one.job_id not in told and may_go_again(one, memory)]
        ends = [(one, why_gone(one, memory)) for one in gone if one.job_id not in told and one not in again]
        ends += [(one, ELSEWHERE) for one in failed if one.job_id not in told]
        if again:
            count = await self._records.notices.plan_again(again)
            log.warning("jobs_lost", planned_again=count, why="Redis forgot them before anybody had taken them")
            for one in again:
                self._metrics.notices_planned_again(one.kind)
        if ends:
            await self._end(ends)

    async def _in_journal(self) -> set[str] | None:
        """Jobs whose outcome is on its way to the ledger; None when there are too many to look at."""
        entries = await self._records.journal.peek(LONGEST_JOURNAL)
        if len(entries) == LONGEST_JOURNAL:
            return None
        told = set()
        for raw in entries:
            try:
                told.add(read_outcome(raw).job_id)
            except Malformed:
                continue  # the ledger writer sets it aside, and says so
        return told

    async def _end(self, ends: Sequence[tuple[Doubtful, str]]) -> None:
        # First never to be sent again, then ended: a crash in between leaves it to the next look.
        given_up = await self._records.notices.give_up([one for one, _ in ends])
        left = [(one, why) for one, why in ends if one.id in given_up]
        addresses = await self._addresses([one.user_id for one, _ in left])
        ended = [
            Ended(one, addresses.get(one.user_id, ""), "failed", Step("calendar", "fail", why)) for one, why in left
        ]
        await self._records.ledger.write([outcome_of(one, self._clock.now()) for one in ended])
        for one, why in left:
            self._metrics.notices_given_up(one.kind)
            log.error("notice_given_up", job_id=one.job_id, kind=one.kind, reason=why, remedy=REMEDY)

    async def _addresses(self, user_ids: Sequence[str]) -> dict[str, str]:
        try:
            people = await self._records.facts.people(user_ids)
        except Unreadable:
            return {}  # the slot ends all the same; only `explain` will not find it by address
        return {user_id: person.email for user_id, person in people.items()}


def may_go_again(doubtful: Doubtful, memory: str) -> bool:
    """Whether it is certain that a vanished job was never sent: nobody had leave, and Redis has forgotten it. Pure."""
    return not doubtful.taken and doubtful.memory != memory and doubtful.tries < MOST_TRIES


def why_gone(doubtful: Doubtful, memory: str) -> str:
    """What a person should know of a slot whose job has vanished. Pure."""
    if doubtful.taken:
        return LOST
    return TOO_OFTEN if doubtful.memory != memory else AWAY
