"""The ledger's writing side: outcomes out of the journal, events from the provider, and their end by age.

Everything may be repeated, by this daemon or another one, and comes out the same. `stories.py` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import Any

import asyncpg
import msgspec

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.outcome import LATEST_MS, LONGEST_WORD, Outcome, said
from flowstate_daemon.database.queries import sql
from flowstate_daemon.database.schema import at_schema, normalised, storable
from flowstate_daemon.mail.event import ProviderEvent

BATCH = 500
PRUNE_BATCH = 1_000
LARGEST_REJECT = 8_192
# Short enough for a loop to show a sign of life between two calls.
WAIT_S = 8.0
CALL_S = 12.0
# One row that Postgres refuses must not keep the other 499 waiting.
ROW_REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
PRUNED = ("prune_mails", "prune_events", "prune_rejects", "prune_notices", "prune_rounds")


@dataclass(frozen=True, slots=True)
class Reject:
    """A journal entry that is no outcome, and why."""

    raw: bytes = field(repr=False)
    reason: str


class Ledger:
    """Writes to the tables `mails`, `provider_events` and `journal_rejects`; outcomes also end slots in `notices`."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def write(self, entries: Sequence[Outcome]) -> int:
        """Store outcomes, each once; returns how many were new. What Postgres refuses is set aside."""
        return sum([await self._write(entries[start : start + BATCH]) for start in range(0, len(entries), BATCH)])

    async def _write(self, batch: Sequence[Outcome]) -> int:
        try:
            return await self._call("write_mails", *_columns(batch))
        except ROW_REFUSED as error:
            if len(batch) == 1:
                await self.set_aside([Reject(msgspec.json.encode(batch[0]), f"{type(error).__name__}: {error}")])
                return 0
        half = len(batch) // 2
        return await self._write(batch[:half]) + await self._write(batch[half:])

    async def set_aside(self, rejects: Sequence[Reject]) -> int:
        """Keep entries that cannot be stored, each once; returns how many were new."""
        digests = [sha256(reject.raw).digest() for reject in rejects]
        raws = [reject.raw[:LARGEST_REJECT] for reject in rejects]
        reasons = [said(reject.reason) for reject in rejects]
        return await self._call("set_aside", digests, raws, reasons, self._clock.now())

    async def note_events(self, events: Sequence[ProviderEvent]) -> int:
        """Store provider events, each once and in any order, and what they suppress; returns how many were new."""
        return await self._call(
            "note_events",
            [storable(event.svix_id, LONGEST_WORD) for event in events],
            [storable(event.provider_id, LONGEST_WORD) for event in events],
            [storable(event.type, LONGEST_WORD) for event in events],
            [min(max(event.at, 0), LATEST_MS) for event in events],
            [normalised(event.address) for event in events],
            [said(event.reason) for event in events],
            [event.suppress for event in events],
        )

    async def prune(self, keep_days: int) -> int:
        """Delete what is older than that, in small batches that hold nobody up; returns how many rows went."""
        before = self._clock.now() - timedelta(days=keep_days)
        gone = 0
        for name in PRUNED:
            while count := await self._call(name, before, PRUNE_BATCH):
                gone += count
                if count < PRUNE_BATCH:
                    break
        return gone

    async def _call(self, name: str, *arguments: Any) -> int:
        async with at_schema(self._pool, wait_s=WAIT_S) as connection:
            return int(await connection.fetchval(sql(name), *arguments, timeout=CALL_S))


def _columns(batch: Sequence[Outcome]) -> list[list[Any]]:
    return [
        [entry.key for entry in batch],
        [entry.outcome for entry in batch],
        [entry.mail for entry in batch],
        [entry.at for entry in batch],
        [entry.to for entry in batch],
        [entry.kind for entry in batch],
        [entry.job_id for entry in batch],
        [entry.attempt for entry in batch],
        [entry.provider_id for entry in batch],
        [entry.reason for entry in batch],
        [entry.chain for entry in batch],
    ]
