"""Who gets no mail: suppressed addresses, and kinds that people have unsubscribed from.

The command line and the windows change it, the engine asks before it sends. Provider events add to it in
`ledger.py`, together with the event. Nothing is remembered here between two calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg
import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.ledger import MAX_TEXT_LENGTH, MAX_WORD_LENGTH
from flowstate_daemon.database.pool import MAX_ADDRESS_LENGTH, acquire, clean_text, normalise_address, schema_connection
from flowstate_daemon.database.queries import sql
from flowstate_daemon.mail.policy import ALL_KINDS, RecipientStatus

log = structlog.get_logger()

QUERY_TIMEOUT_S = 5.0
DENIED_RETRY_S = 600.0  # how long not to ask again where the answer was no
ACCESS_DENIED = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,  # `preferences` is no JSON
    asyncpg.InvalidSchemaNameError,
)


class UserLanguages:
    """Reads `users.preferences`."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._closed_until = 0.0
        self._said = False

    async def languages_of(self, addresses: Sequence[str]) -> Mapping[str, str]:
        """What up to 500 people have chosen, as they wrote it; who has chosen nothing is left out. Raises Outage."""
        if self._clock.monotonic() < self._closed_until:
            return {}
        spelt = {
            address: (clean_text(address, MAX_ADDRESS_LENGTH), normalise_address(address)) for address in addresses
        }
        try:
            async with asyncio.timeout(QUERY_TIMEOUT_S), acquire(self._pool) as connection:
                found = await self._fetched(connection, sorted({key for keys in spelt.values() for key in keys}))
        except TimeoutError:
            self._close("Postgres is slow to read the table of users", "look at its load and its locks")
            return {}
        chosen = ((address, found.get(keys[0]) or found.get(keys[1])) for address, keys in spelt.items())
        return {address: language for address, language in chosen if language}

    async def _fetched(self, connection: asyncpg.Connection, keys: Sequence[str]) -> Mapping[str, str]:
        try:
            rows = await connection.fetch(sql("get_user_languages"), keys)
        except ACCESS_DENIED as error:
            self._close(str(error), "GRANT USAGE ON SCHEMA public and SELECT ON public.users to the daemon's role")
            return {}
        self._said = False
        return {row["email"]: row["language"] for row in rows}

    def _close(self, reason: str, remedy: str) -> None:
        """Ask no more for a while, and say so the first time."""
        self._closed_until = self._clock.monotonic() + DENIED_RETRY_S
        if not self._said:
            self._said = True
            log.warning("user_languages_unavailable", reason=reason, remedy=remedy)


PAGE = 100
REASONS = ("bounced", "complained", "manual")


@dataclass(frozen=True, slots=True)
class Suppression:
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

    async def page(self, count: int = PAGE, after: Suppression | None = None) -> list[Suppression]:
        """One page, by address; the next one begins `after` the last of this."""
        place = (after.address, after.reason) if after else ("", "")
        async with schema_connection(self._pool) as connection:
            return _read(await connection.fetch(sql("list_suppressions"), *place, count))

    async def find(self, address: str) -> list[Suppression]:
        """All that stands against one address."""
        async with schema_connection(self._pool) as connection:
            return _read(await connection.fetch(sql("find_suppressions"), normalise_address(address)))

    async def add(self, address: str, reason: str, note: str | None = None) -> bool:
        """Write to an address no more, for one of REASONS; False when that stood already."""
        if reason not in REASONS:
            raise ValueError(f"no reason to suppress an address: {reason}")
        text = None if note is None else clean_text(note, MAX_TEXT_LENGTH)
        async with schema_connection(self._pool) as connection:
            arguments = (normalise_address(address), reason, self._clock.now(), text)
            return bool(await connection.fetchval(sql("add_suppression"), *arguments))

    async def remove(self, address: str) -> list[str]:
        """Let an address be written to again; returns the reasons that stood against it."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("remove_suppressions"), normalise_address(address))
        return sorted(row["reason"] for row in rows)

    async def unsubscribe(self, address: str, kind: str = ALL_KINDS) -> bool:
        """Send no more mail of this kind; False when that stood already."""
        arguments = (normalise_address(address), clean_text(kind, MAX_WORD_LENGTH), self._clock.now())
        async with schema_connection(self._pool) as connection:
            return bool(await connection.fetchval(sql("add_unsubscribe"), *arguments))

    async def resubscribe(self, address: str, kind: str = ALL_KINDS) -> list[str]:
        """The way back, from one kind or from all; returns the kinds that were unsubscribed."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(
                sql("remove_unsubscribes"), normalise_address(address), clean_text(kind, MAX_WORD_LENGTH)
            )
        return sorted(row["kind"] for row in rows)

    async def status_for(self, addresses: Sequence[str]) -> Mapping[str, RecipientStatus]:
        """What stands against up to 500 people, in one query, under the spellings that were asked for."""
        spelt = {address: normalise_address(address) for address in addresses}
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("get_recipient_status"), list(spelt.values()))
        found = {row["address"]: _facts(row["suppressed"], row["unsubscribed"]) for row in rows}
        return {address: found[key] for address, key in spelt.items()}


def _facts(suppressed: Sequence[str], unsubscribed: Sequence[str]) -> RecipientStatus:
    return RecipientStatus(frozenset(suppressed), frozenset(unsubscribed))


def _read(rows: Sequence[asyncpg.Record]) -> list[Suppression]:
    return [Suppression(**row) for row in rows]
