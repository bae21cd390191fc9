"""Moves scheduled emails from planned to ended: lease, enqueue, claim, and what to do when a job is lost.

The enqueuer leases and enqueues, workers claim just before they send, the reconciler handles rows whose job has
vanished; the ledger ends them (`ledger.py`). The claim ensures that an email is sent once: whatever Redis loses,
repeats or restores, a row that has ended or has another job grants none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.time_zones import find_zone
from flowstate_daemon.database.pool import schema_connection
from flowstate_daemon.database.queries import sql

LEASE_DURATION = timedelta(seconds=30)  # how long the rows of a crashed enqueuer stay unavailable to the others
ACQUIRE_TIMEOUT_S = 8.0
QUERY_TIMEOUT_S = 12.0
UTC_ZONE = ZoneInfo("UTC")


@dataclass(frozen=True, slots=True)
class ScheduledMail:
    """One email of one kind to one user on one local date; with a `task_id`, about one task.

    The fields from `id` on are those of its row: a recipient who was only looked up has none. `lease` is the end of the
    enqueuer's lease; `generation`, `redis_epoch` and `claimed_at` are read by the reconciler only.
    """

    kind: str
    user_id: str
    local_date: date
    zone: str
    due_at: datetime
    expires_at: datetime
    task_id: str = ""
    id: int = 0
    job_id: str = ""
    lease: datetime | None = None
    generation: int = 0
    redis_epoch: str | None = None
    claimed_at: datetime | None = None

    @property
    def time_zone(self) -> ZoneInfo:
        """The user's time zone; UTC if this machine does not know it: another one may have planned the row."""
        return find_zone(self.zone) or UTC_ZONE


@dataclass(frozen=True, slots=True)
class SendClaim:
    """Whether a job may send its scheduled email, and the state of the row when it may not."""

    granted: bool
    state: str
    outcome_unknown: bool
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class EarlierList:
    """The list in an earlier email of one kind to one user: when, its fingerprint, and whether the email was sent."""

    local_date: date
    fingerprint: str
    sent: bool


class ScheduledMails:
    """Changes the table `scheduled_mails`. All methods raise StoreUnavailableError."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self.clock = clock

    async def lease(self, kind: str, count: int) -> list[ScheduledMail]:
        """Lease up to `count` due rows of a kind for LEASE_DURATION, the earliest first."""
        now = self.clock.now()
        lease = now + LEASE_DURATION
        rows = await self._fetch("lease_scheduled_mails", kind, now, lease, count)
        return sorted((ScheduledMail(**row, lease=lease) for row in rows), key=lambda mail: (mail.due_at, mail.id))

    @asynccontextmanager
    async def enqueue_transaction(
        self, mails: Sequence[ScheduledMail], redis_epoch: str
    ) -> AsyncIterator[list[ScheduledMail]]:
        """Yield the rows whose lease is still ours, and mark them as queued when the block ends.

        The rows are locked inside the block, so that no worker can claim them before they are marked. When the block
        raises, they stay planned; adding the same jobs again is harmless, because job ids are unique.
        """
        async with (
            schema_connection(self._pool, wait_s=ACQUIRE_TIMEOUT_S) as connection,
            connection.transaction(),
        ):
            ids = [mail.id for mail in mails]
            rows = await connection.fetch(sql("lock_leased_mails"), ids, mails[0].lease, timeout=QUERY_TIMEOUT_S)
            held = {row["id"] for row in rows}
            yield [mail for mail in mails if mail.id in held]
            await connection.execute(
                sql("mark_enqueued"), sorted(held), self.clock.now(), redis_epoch, timeout=QUERY_TIMEOUT_S
            )

    async def release(self, mails: Sequence[ScheduledMail]) -> None:
        """Release the leases of rows that were not enqueued."""
        await self._fetch("release_leases", [mail.id for mail in mails], mails[0].lease)

    async def next_due(self, kinds: Sequence[str]) -> Mapping[str, datetime]:
        """The earliest due time of each kind among its planned rows; kinds without one are missing."""
        return {row["kind"]: row["due_at"] for row in await self._fetch("next_due", list(kinds))}

    async def claim(self, job_ids: Sequence[str]) -> Mapping[str, SendClaim]:
        """Claim up to 500 jobs for sending; ids that are not the current job of a row are missing in the result."""
        rows = await self._fetch("claim_for_sending", list(job_ids), self.clock.now())
        return {
            row["job_id"]: SendClaim(row["granted"], row["state"], row["outcome_unknown"], row["expires_at"])
            for row in rows
        }

    async def find_orphans(self, queued: timedelta, claimed: timedelta, after: int, count: int) -> list[ScheduledMail]:
        """One page of rows queued longer ago than `queued` and, if claimed, claimed longer ago than `claimed`."""
        now = self.clock.now()
        rows = await self._fetch("list_orphans", now - queued, now - claimed, after, count)
        return [ScheduledMail(**row) for row in rows]

    async def reschedule(self, mails: Sequence[ScheduledMail], base: str) -> set[int]:
        """Plan rows again, with new job ids, whose jobs are lost and certainly not sent; returns their ids.

        `base` is the prefix of all keys of the queue, under which requests are recorded.
        """
        return {row["id"] for row in await self._fetch("reschedule", *_ids_and_job_ids(mails), base)}

    async def mark_unknown(self, mails: Sequence[ScheduledMail]) -> set[int]:
        """Ensure that these are never sent again; returns the ids of those that have not ended by then."""
        return {row["id"] for row in await self._fetch("mark_unknown", *_ids_and_job_ids(mails))}

    async def earlier_lists(
        self, kind: str, mails: Sequence[ScheduledMail], days: int
    ) -> Mapping[tuple[str, date], list[EarlierList]]:
        """For each email, by user and local date, the lists of the days before it, the newest first."""
        keys = sorted({(mail.user_id, mail.local_date) for mail in mails})
        found: dict[tuple[str, date], list[EarlierList]] = {key: [] for key in keys}
        if keys:
            users, dates = [user for user, _ in keys], [day for _, day in keys]
            for row in await self._fetch("list_fingerprints", kind, users, dates, days):
                earlier = EarlierList(row["local_date"], row["fingerprint"], row["sent"])
                found[row["user_id"], row["day"]].append(earlier)
        return found

    async def record_fingerprints(self, fingerprints: Mapping[int, str]) -> None:
        """Record what the lists of these rows, by id, contain."""
        await self._fetch("record_fingerprints", list(fingerprints), list(fingerprints.values()))

    async def _fetch(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        async with schema_connection(self._pool, wait_s=ACQUIRE_TIMEOUT_S) as connection:
            return list(await connection.fetch(sql(name), *arguments, timeout=QUERY_TIMEOUT_S))


def _ids_and_job_ids(mails: Sequence[ScheduledMail]) -> tuple[list[int], list[str]]:
    return [mail.id for mail in mails], [mail.job_id for mail in mails]
