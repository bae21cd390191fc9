"""The calendar's slots on their way from planned to ended.

The feeder leases and hands over, senders ask for leave just before a mail goes out, the reconciler looks after slots
whose job has vanished; the ledger ends them (`ledger.py`). The leave is what makes a mail leave once: whatever Redis
forgets, repeats or brings back, a slot that has ended or has got another job gives none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import asyncpg

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.pool import schema_connection
from flowstate_daemon.database.queries import sql

LEASE_DURATION = timedelta(seconds=30)  # a feeder that dies with slots in hand keeps them this long from the others
ACQUIRE_TIMEOUT_S = 8.0
QUERY_TIMEOUT_S = 12.0


@dataclass(frozen=True, slots=True)
class ScheduledMail:
    """One slot that a feeder has leased until `lease`."""

    id: int
    kind: str
    user_id: str
    local_date: date
    item: str
    zone: str
    due_at: datetime
    expires_at: datetime
    job_id: str
    lease: datetime


@dataclass(frozen=True, slots=True)
class SendClaim:
    """Whether a job may send its slot's mail; without leave, what has become of the slot."""

    granted: bool
    state: str
    outcome_unknown: bool
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class OrphanedMail:
    """A slot whose job should have ended: `taken` says that a sender had leave, `memory` where the job was put."""

    id: int
    kind: str
    user_id: str
    job_id: str
    generation: int
    redis_epoch: str | None
    claimed: bool


class ScheduledMails:
    """Moves rows of the table `notices`. All methods raise Outage."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def lease(self, kind: str, count: int) -> list[ScheduledMail]:
        """Take up to `count` slots of a kind that are due, the earliest first, from all other feeders for a while."""
        now = self._clock.now()
        lease = now + LEASE_DURATION
        async with schema_connection(self._pool, wait_s=ACQUIRE_TIMEOUT_S) as connection:
            rows = await connection.fetch(
                sql("lease_scheduled_mails"), kind, now, lease, count, timeout=QUERY_TIMEOUT_S
            )
        return sorted(
            (ScheduledMail(**row, lease=lease) for row in rows),
            key=lambda scheduled_mail: (scheduled_mail.due_at, scheduled_mail.id),
        )

    @asynccontextmanager
    async def enqueue_transaction(
        self, scheduled_mails: Sequence[ScheduledMail], memory: str
    ) -> AsyncIterator[list[ScheduledMail]]:
        """Yields those that are still ours; what is put into the queue inside the block is written down at its end.

        All these rows are locked meanwhile, so that no sender gets leave before that. When the block raises, they stay
        planned: putting the same jobs into the queue again changes nothing.
        """
        async with schema_connection(self._pool, wait_s=ACQUIRE_TIMEOUT_S) as connection, connection.transaction():
            ids, lease = [scheduled_mail.id for scheduled_mail in scheduled_mails], scheduled_mails[0].lease
            held = {
                row["id"]
                for row in await connection.fetch(sql("lock_leased_mails"), ids, lease, timeout=QUERY_TIMEOUT_S)
            }
            yield [scheduled_mail for scheduled_mail in scheduled_mails if scheduled_mail.id in held]
            await connection.execute(
                sql("mark_enqueued"), sorted(held), self._clock.now(), memory, timeout=QUERY_TIMEOUT_S
            )

    async def release(self, scheduled_mails: Sequence[ScheduledMail]) -> None:
        """Give slots back that were not handed over."""
        async with schema_connection(self._pool, wait_s=ACQUIRE_TIMEOUT_S) as connection:
            ids = [scheduled_mail.id for scheduled_mail in scheduled_mails]
            await connection.execute(sql("release_leases"), ids, scheduled_mails[0].lease, timeout=QUERY_TIMEOUT_S)

    async def next_due(self, kinds: Sequence[str]) -> Mapping[str, datetime]:
        """When the next slot of each kind that waits is due, or was; kinds without one are missing."""
        async with schema_connection(self._pool, wait_s=ACQUIRE_TIMEOUT_S) as connection:
            rows = await connection.fetch(sql("next_due"), list(kinds), timeout=QUERY_TIMEOUT_S)
        return {row["kind"]: row["due_at"] for row in rows}

    async def claim(self, job_ids: Sequence[str]) -> Mapping[str, SendClaim]:
        """Ask for leave to send, for up to 500 jobs; those that are no slot's own job are missing in the answer."""
        async with schema_connection(self._pool, wait_s=ACQUIRE_TIMEOUT_S) as connection:
            rows = await connection.fetch(
                sql("claim_for_sending"), list(job_ids), self._clock.now(), timeout=QUERY_TIMEOUT_S
            )
        return {
            row["job_id"]: SendClaim(row["granted"], row["state"], row["outcome_unknown"], row["expires_at"])
            for row in rows
        }

    async def find_orphans(self, queued: timedelta, taken: timedelta, after: int, count: int) -> list[OrphanedMail]:
        """Slots queued longer ago than that and, if taken, taken longer ago than that, by id."""
        now = self._clock.now()
        async with schema_connection(self._pool, wait_s=ACQUIRE_TIMEOUT_S) as connection:
            asked = (now - queued, now - taken, after, count)
            return [
                OrphanedMail(**row)
                for row in await connection.fetch(sql("list_orphans"), *asked, timeout=QUERY_TIMEOUT_S)
            ]

    async def reschedule(self, doubtful: Sequence[OrphanedMail]) -> int:
        """Give slots new jobs in place of vanished ones that nobody took; returns how many."""
        async with schema_connection(self._pool, wait_s=ACQUIRE_TIMEOUT_S) as connection:
            return int(await connection.fetchval(sql("reschedule"), *_pairs(doubtful), timeout=QUERY_TIMEOUT_S))

    async def mark_unknown(self, doubtful: Sequence[OrphanedMail]) -> set[int]:
        """See to it that these are never sent again; returns the ids of those that have not ended meanwhile."""
        async with schema_connection(self._pool, wait_s=ACQUIRE_TIMEOUT_S) as connection:
            rows = await connection.fetch(sql("mark_unknown"), *_pairs(doubtful), timeout=QUERY_TIMEOUT_S)
        return {row["id"] for row in rows}


def _pairs(doubtful: Sequence[OrphanedMail]) -> tuple[list[int], list[str]]:
    return [one.id for one in doubtful], [one.job_id for one in doubtful]
