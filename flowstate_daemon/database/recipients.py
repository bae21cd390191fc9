"""What is known of recipients: suppressions, unsubscribes, and the language they have chosen.

The command line and the web pages change them, workers read them before sending. Provider events add suppressions in
`ledger.py`, in the same statement as the event. Nothing is cached here.
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
from flowstate_daemon.mail.pseudonyms import Pseudonyms

log = structlog.get_logger()

QUERY_TIMEOUT_S = 5.0
DENIED_RETRY_S = 600.0  # how long to wait after a refused or slow query
ACCESS_DENIED = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,  # `preferences` is not JSON
    asyncpg.InvalidSchemaNameError,
)


class UserLanguages:
    """Reads the language from `users.preferences`; without access emails use the default language."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._denied_until = 0.0
        self._logged = False

    async def languages_of(self, addresses: Sequence[str]) -> Mapping[str, str]:
        """The unchecked language of up to 500 users by address; users without one are missing.

        Raises StoreUnavailableError.
        """
        if self._clock.monotonic() < self._denied_until:
            return {}
        spellings = {
            address: (clean_text(address, MAX_ADDRESS_LENGTH), normalise_address(address)) for address in addresses
        }
        try:
            async with asyncio.timeout(QUERY_TIMEOUT_S), acquire(self._pool) as connection:
                found = await self._fetch(connection, sorted({key for keys in spellings.values() for key in keys}))
        except TimeoutError:
            self._deny("Postgres is slow to read the table of users", "check its load and its locks")
            return {}
        chosen = ((address, found.get(keys[0]) or found.get(keys[1])) for address, keys in spellings.items())
        return {address: language for address, language in chosen if language}

    async def _fetch(self, connection: asyncpg.Connection, keys: Sequence[str]) -> Mapping[str, str]:
        try:
            rows = await connection.fetch(sql("get_user_languages"), keys)
        except ACCESS_DENIED as error:
            self._deny(str(error), "GRANT USAGE ON SCHEMA public and SELECT ON public.users to the daemon's role")
            return {}
        self._logged = False
        return {row["email"]: row["language"] for row in rows}

    def _deny(self, reason: str, remedy: str) -> None:
        """Skip queries for DENIED_RETRY_S, and log the first time."""
        self._denied_until = self._clock.monotonic() + DENIED_RETRY_S
        if not self._logged:
            self._logged = True
            log.warning("user_languages_unavailable", reason=reason, remedy=remedy)


PAGE = 100
REASONS = ("bounced", "complained", "manual")
UNKNOWN_ACTOR = "unknown"


@dataclass(frozen=True, slots=True)
class ListAction:
    """What an operator did to the lists: `count` rows changed."""

    at: datetime
    actor: str
    action: str
    target: str = field(repr=False)
    count: int


@dataclass(frozen=True, slots=True)
class Suppression:
    """Why one address gets no email, and since when."""

    address: str = field(repr=False)
    reason: str
    since: datetime
    note: str | None


class Suppressions:
    """Reads and changes `suppressions` and `unsubscribes`. Addresses are normalised here.

    The entries of a forgotten recipient are stored under a pseudonym of the address, and count like others.
    """

    def __init__(self, pool: asyncpg.Pool, clock: Clock, pseudonyms: Pseudonyms | None = None) -> None:
        self._pool = pool
        self._clock = clock
        self._pseudonyms = pseudonyms or Pseudonyms()

    def _stored(self, address: str) -> list[str]:
        """What the entries of an address may be stored under."""
        normalised = normalise_address(address)
        return [normalised, *self._pseudonyms.of(normalised)]

    async def page(self, count: int = PAGE, after: Suppression | None = None) -> list[Suppression]:
        """One page of suppressions, ordered by address; the next page starts `after` the last one of this."""
        position = (after.address, after.reason) if after else ("", "")
        async with schema_connection(self._pool) as connection:
            return _read(await connection.fetch(sql("list_suppressions"), *position, count))

    async def find(self, address: str) -> list[Suppression]:
        """All suppressions of one address."""
        async with schema_connection(self._pool) as connection:
            return _read(await connection.fetch(sql("find_suppressions"), self._stored(address)))

    async def add(self, address: str, reason: str, note: str | None = None, *, actor: str = UNKNOWN_ACTOR) -> bool:
        """Suppress an address for one of REASONS; False when it already was. `actor` is recorded with the action."""
        if reason not in REASONS:
            raise ValueError(f"not a reason to suppress an address: {reason}")
        text = None if note is None else clean_text(note, MAX_TEXT_LENGTH)
        async with schema_connection(self._pool) as connection, connection.transaction():
            arguments = (normalise_address(address), reason, self._clock.now(), text)
            added = bool(await connection.fetchval(sql("add_suppression"), *arguments))
            await self._record(connection, actor, f"suppression add ({reason})", address, int(added))
        return added

    async def remove(self, address: str, *, actor: str = UNKNOWN_ACTOR) -> list[str]:
        """Remove all suppressions of an address; returns their reasons."""
        async with schema_connection(self._pool) as connection, connection.transaction():
            rows = await connection.fetch(sql("remove_suppressions"), self._stored(address))
            await self._record(connection, actor, "suppression remove", address, len(rows))
        return sorted({row["reason"] for row in rows})

    async def actions(self, count: int = PAGE) -> list[ListAction]:
        """The newest actions of operators, newest first."""
        async with schema_connection(self._pool) as connection:
            return [ListAction(**row) for row in await connection.fetch(sql("list_operator_actions"), count)]

    async def _record(self, connection: asyncpg.Connection, actor: str, action: str, address: str, count: int) -> None:
        """In the transaction of the action: there is no action without its trace."""
        arguments = (self._clock.now(), clean_text(actor, MAX_WORD_LENGTH), action, normalise_address(address), count)
        await connection.execute(sql("record_operator_action"), *arguments)

    async def unsubscribe(self, address: str, kind: str = ALL_KINDS) -> bool:
        """Unsubscribe an address from a kind; False when it already was."""
        arguments = (normalise_address(address), clean_text(kind, MAX_WORD_LENGTH), self._clock.now())
        async with schema_connection(self._pool) as connection:
            return bool(await connection.fetchval(sql("add_unsubscribe"), *arguments))

    async def resubscribe(self, address: str, kind: str = ALL_KINDS) -> list[str]:
        """Undo the unsubscribes of one kind or of all; returns the kinds that were unsubscribed."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(
                sql("remove_unsubscribes"), self._stored(address), clean_text(kind, MAX_WORD_LENGTH)
            )
        return sorted({row["kind"] for row in rows})

    async def status_for(self, addresses: Sequence[str]) -> Mapping[str, RecipientStatus]:
        """The status of up to 500 addresses in one query, by address as given."""
        spellings = {address: self._stored(address) for address in addresses}
        stored = [key for keys in spellings.values() for key in keys]
        async with schema_connection(self._pool) as connection:
            found = {row["address"]: row for row in await connection.fetch(sql("get_recipient_status"), stored)}
        return {address: _status([found[key] for key in keys]) for address, keys in spellings.items()}


def _status(rows: Sequence[asyncpg.Record]) -> RecipientStatus:
    return RecipientStatus(
        frozenset(reason for row in rows for reason in row["suppressed"]),
        frozenset(kind for row in rows for kind in row["unsubscribed"]),
    )


def _read(rows: Sequence[asyncpg.Record]) -> list[Suppression]:
    return [Suppression(**row) for row in rows]
