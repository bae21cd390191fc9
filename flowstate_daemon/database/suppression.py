"""Who gets no mail: suppressed addresses, and kinds that people have unsubscribed from.

The command line and the windows change it, the engine asks before it sends. Provider events add to it in
`ledger.py`, together with the event. Nothing is remembered here between two calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.outcome import LONGEST_TEXT, LONGEST_WORD
from flowstate_daemon.database.queries import sql
from flowstate_daemon.database.schema import at_schema, normalised, storable
from flowstate_daemon.mail.facts import EVERYTHING, PersonFacts

PAGE = 100
REASONS = ("bounced", "complained", "manual")


@dataclass(frozen=True, slots=True)
class Suppressed:
    """Why one address is not written to, and since when."""

    address: str = field(repr=False)
    reason: str
    since: datetime
    note: str | None


class Suppressions:
    """Reads and changes the tables `suppressions` and `unsubscribes`. Addresses come in any spelling."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def page(self, count: int = PAGE, after: Suppressed | None = None) -> list[Suppressed]:
        """One page, by address; the next one begins `after` the last of this."""
        place = (after.address, after.reason) if after else ("", "")
        async with at_schema(self._pool) as connection:
            return _read(await connection.fetch(sql("list_suppressions"), *place, count))

    async def find(self, address: str) -> list[Suppressed]:
        """All that stands against one address."""
        async with at_schema(self._pool) as connection:
            return _read(await connection.fetch(sql("find_suppressions"), normalised(address)))

    async def add(self, address: str, reason: str, note: str | None = None) -> bool:
        """Write to an address no more, for one of REASONS; False when that stood already."""
        if reason not in REASONS:
            raise ValueError(f"no reason to suppress an address: {reason}")
        words = None if note is None else storable(note, LONGEST_TEXT)
        async with at_schema(self._pool) as connection:
            arguments = (normalised(address), reason, self._clock.now(), words)
            return bool(await connection.fetchval(sql("add_suppression"), *arguments))

    async def remove(self, address: str) -> list[str]:
        """Let an address be written to again; returns the reasons that stood against it."""
        async with at_schema(self._pool) as connection:
            rows = await connection.fetch(sql("remove_suppressions"), normalised(address))
        return sorted(row["reason"] for row in rows)

    async def unsubscribe(self, address: str, kind: str = EVERYTHING) -> bool:
        """Send no more mail of this kind; False when that stood already."""
        arguments = (normalised(address), storable(kind, LONGEST_WORD), self._clock.now())
        async with at_schema(self._pool) as connection:
            return bool(await connection.fetchval(sql("add_unsubscribe"), *arguments))

    async def resubscribe(self, address: str, kind: str = EVERYTHING) -> list[str]:
        """The way back, from one kind or from all; returns the kinds that were unsubscribed."""
        async with at_schema(self._pool) as connection:
            rows = await connection.fetch(sql("remove_unsubscribes"), normalised(address), storable(kind, LONGEST_WORD))
        return sorted(row["kind"] for row in rows)

    async def facts_for(self, addresses: Sequence[str]) -> Mapping[str, PersonFacts]:
        """What stands against up to 500 people, in one query, under the spellings that were asked for."""
        spelt = {address: normalised(address) for address in addresses}
        async with at_schema(self._pool) as connection:
            rows = await connection.fetch(sql("tell_facts"), list(spelt.values()))
        found = {row["address"]: _facts(row["suppressed"], row["unsubscribed"]) for row in rows}
        return {address: found[key] for address, key in spelt.items()}


def _facts(suppressed: Sequence[str], unsubscribed: Sequence[str]) -> PersonFacts:
    return PersonFacts(frozenset(suppressed), frozenset(unsubscribed))


def _read(rows: Sequence[asyncpg.Record]) -> list[Suppressed]:
    return [Suppressed(**row) for row in rows]
