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
from flowstate_daemon.database.queries import sql
from flowstate_daemon.database.schema import at_schema

LEASE = timedelta(seconds=30)  # a feeder that dies with slots in hand keeps them this long from the others
WAIT_S = 8.0
CALL_S = 12.0


@dataclass(frozen=True, slots=True)
class Notice:
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
class Leave:
    """Whether a job may send its slot's mail; without leave, what has become of the slot."""

    granted: bool
    state: str
    lost: bool
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Doubtful:
    """A slot whose job should have ended: `taken` says that a sender had leave, `memory` where the job was put."""

    id: int
    kind: str
    user_id: str
    job_id: str
    tries: int
    memory: str | None
    taken: bool


class Notices:
    """Moves rows of the table `notices`. All methods raise Outage."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def lease(self, kind: str, count: int) -> list[Notice]:
        """Take up to `count` slots of a kind that are due, the earliest first, from all other feeders for a while."""
        now = self._clock.now()
        lease = now + LEASE
        async with at_schema(self._pool, wait_s=WAIT_S) as connection:
            rows = await connection.fetch(sql("lease_notices"), kind, now, lease, count, timeout=CALL_S)
        return sorted((Notice(**row, lease=lease) for row in rows), key=lambda notice: (notice.due_at, notice.id))

    @asynccontextmanager
    async def handing_over(self, notices: Sequence[Notice], memory: str) -> AsyncIterator[list[Notice]]:
        """Yields those that are still ours; what is put into the queue inside the block is written down at its end.

        All these rows are locked meanwhile, so that no sender gets leave before that. When the block raises, they stay
        planned: putting the same jobs into the queue again changes nothing.
        """
        async with at_schema(self._pool, wait_s=WAIT_S) as connection, connection.transaction():
            ids, lease = [notice.id for notice in notices], notices[0].lease
            held = {row["id"] for row in await connection.fetch(sql("hold_notices"), ids, lease, timeout=CALL_S)}
            yield [notice for notice in notices if notice.id in held]
            await connection.execute(sql("queue_notices"), sorted(held), self._clock.now(), memory, timeout=CALL_S)

    async def release(self, notices: Sequence[Notice]) -> None:
        """Give slots back that were not handed over."""
        async with at_schema(self._pool, wait_s=WAIT_S) as connection:
            ids = [notice.id for notice in notices]
            await connection.execute(sql("release_notices"), ids, notices[0].lease, timeout=CALL_S)

    async def next_due(self, kinds: Sequence[str]) -> Mapping[str, datetime]:
        """When the next slot of each kind that waits is due, or was; kinds without one are missing."""
        async with at_schema(self._pool, wait_s=WAIT_S) as connection:
            rows = await connection.fetch(sql("next_notices"), list(kinds), timeout=CALL_S)
        return {row["kind"]: row["due_at"] for row in rows}

    async def grant(self, job_ids: Sequence[str]) -> Mapping[str, Leave]:
        """Ask for leave to send, for up to 500 jobs; those that are no slot's own job are missing in the answer."""
        async with at_schema(self._pool, wait_s=WAIT_S) as connection:
            rows = await connection.fetch(sql("grant_notices"), list(job_ids), self._clock.now(), timeout=CALL_S)
        return {row["job_id"]: Leave(row["granted"], row["state"], row["lost"], row["expires_at"]) for row in rows}

    async def doubtful(self, queued: timedelta, taken: timedelta, after: int, count: int) -> list[Doubtful]:
        """Slots queued longer ago than that and, if taken, taken longer ago than that, by id."""
        now = self._clock.now()
        async with at_schema(self._pool, wait_s=WAIT_S) as connection:
            asked = (now - queued, now - taken, after, count)
            return [Doubtful(**row) for row in await connection.fetch(sql("list_doubtful"), *asked, timeout=CALL_S)]

    async def plan_again(self, doubtful: Sequence[Doubtful]) -> int:
        """Give slots new jobs in place of vanished ones that nobody took; returns how many."""
        async with at_schema(self._pool, wait_s=WAIT_S) as connection:
            return int(await connection.fetchval(sql("plan_again"), *_pairs(doubtful), timeout=CALL_S))

    async def give_up(self, doubtful: Sequence[Doubtful]) -> set[int]:
        """See to it that these are never sent again; returns the ids of those that have not ended meanwhile."""
        async with at_schema(self._pool, wait_s=WAIT_S) as connection:
            rows = await connection.fetch(sql("give_up_notices"), *_pairs(doubtful), timeout=CALL_S)
        return {row["id"] for row in rows}


def _pairs(doubtful: Sequence[Doubtful]) -> tuple[list[int], list[str]]:
    return [one.id for one in doubtful], [one.job_id for one in doubtful]
