"""Records in Postgres which request has contained which email, before the request is sent.

Redis numbers the requests of a job, and this table has a row for each number. A number that is in the table but not in
Redis proves that Redis has lost its newest writes: the email may have been sent, and must not be put into another
request. See docs/adr/0008-requests-in-postgres.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from flowstate_daemon.base.address import normalise_address
from flowstate_daemon.base.text import storable
from flowstate_daemon.database.ledger import MAX_WORD_LENGTH, shorten_key
from flowstate_daemon.database.pool import schema_connection
from flowstate_daemon.database.queries import sql

QUERY_TIMEOUT_S = 12.0

JobRef = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """The latest request that contained an email. `provider_id` is that of the sent email, if the ledger has it.

    `free`: the email was certainly not sent with it.
    """

    request_id: str
    key: str
    number: int
    saved_at_ms: int
    provider_id: str | None = None
    free: bool = False


class RequestRecords:
    """The records of one queue. Jobs are named by id and timestamp. Every call raises StoreUnavailableError."""

    def __init__(self, pool: asyncpg.Pool, base: str) -> None:
        """`base` is the prefix of all keys of the queue."""
        self._pool = pool
        self._base = base

    async def record(
        self,
        request_id: str,
        key: str,
        saved_at_ms: int,
        jobs: Sequence[JobRef],
        numbers: Sequence[int],
        *,
        wait_s: float = QUERY_TIMEOUT_S,
    ) -> set[JobRef]:
        """Record a request with all its jobs, unless another one with the same or a higher number has contained some.

        Returns these. They are also returned, of this request itself, if they were forgotten.
        """
        by_mail = {self._mail(job): (job, number) for job, number in zip(jobs, numbers, strict=True)}
        stored_numbers = [number for _, number in by_mail.values()]
        async with schema_connection(self._pool, wait_s=wait_s) as connection:
            rows = await connection.fetch(
                sql("record_request"), *_columns(request_id, key, saved_at_ms), list(by_mail), stored_numbers,
                timeout=wait_s,
            )  # fmt: skip
        return {by_mail[row["mail"]][0] for row in rows}

    async def mark_resumed(
        self, request_id: str, key: str, saved_at_ms: int, *, wait_s: float = QUERY_TIMEOUT_S
    ) -> None:
        """This process is about to record and send a request that another process made."""
        async with schema_connection(self._pool, wait_s=wait_s) as connection:
            await connection.execute(sql("mark_resumed"), *_columns(request_id, key, saved_at_ms), timeout=wait_s)

    async def find(self, recipients: Mapping[JobRef, str]) -> dict[JobRef, RequestRecord]:
        """The latest request of each of these jobs, which are given with their recipients."""
        rows = await self._fetch("find_latest_requests", recipients)
        return {
            job: RequestRecord(
                row["request"].hex, row["key"] or "", row["number"],
                round(row["saved_at"].timestamp() * 1000), row["provider_id"], row["free"],
            )
            for job, row in rows.items()
        }  # fmt: skip

    async def find_sent(self, recipients: Mapping[JobRef, str]) -> dict[JobRef, str]:
        """The provider's ids of those of these jobs whose email the ledger has as sent."""
        rows = await self._fetch("find_sent_mails", recipients)
        return {job: row["provider_id"] or "" for job, row in rows.items()}

    async def forget(self, request_id: str, jobs: Sequence[JobRef], *, wait_s: float = QUERY_TIMEOUT_S) -> None:
        """These jobs were certainly not sent with this request."""
        async with schema_connection(self._pool, wait_s=wait_s) as connection:
            mails = [self._mail(job) for job in jobs]
            await connection.execute(sql("forget_members"), UUID(request_id), mails, timeout=wait_s)

    async def forget_withdrawn(
        self, request_id: str, jobs: Sequence[JobRef], *, wait_s: float = QUERY_TIMEOUT_S
    ) -> bool:
        """The process that made this request has not sent it. False if another process has resumed it."""
        async with schema_connection(self._pool, wait_s=wait_s) as connection:
            mails = [self._mail(job) for job in jobs]
            return bool(await connection.fetchval(sql("forget_withdrawn"), UUID(request_id), mails, timeout=wait_s))

    async def _fetch(self, query: str, recipients: Mapping[JobRef, str]) -> dict[JobRef, asyncpg.Record]:
        by_mail = {self._mail(job): (job, normalise_address(address)) for job, address in recipients.items()}
        addresses = [address for _, address in by_mail.values()]
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql(query), list(by_mail), addresses, timeout=QUERY_TIMEOUT_S)
        return {by_mail[row["mail"]][0]: row for row in rows}

    def _mail(self, job: JobRef) -> str:
        """The key of the email in the ledger, which is the same for all attempts.

        Of job ids that Postgres cannot store, two may have the same key: only one of them is recorded or found then.
        """
        job_id, timestamp = job
        return shorten_key(f"{self._base}{job_id}:{timestamp}:0").rpartition(":")[0]


def _columns(request_id: str, key: str, saved_at_ms: int) -> tuple[UUID, str, datetime]:
    saved_at = datetime.fromtimestamp(saved_at_ms / 1000, tz=UTC)
    return UUID(request_id), storable(key, MAX_WORD_LENGTH), saved_at
