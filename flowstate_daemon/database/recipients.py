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
LIST_ACTIONS = ("suppression", "unsubscribed")  # the first words of their actions


@dataclass(frozen=True, slots=True)
class OperatorAction:
    """What an operator did to the lists or schedules: `count` rows changed."""

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


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """The kind of email, or ALL_KINDS, that an address has unsubscribed from, and since when."""

    address: str = field(repr=False)
    kind: str
    since: datetime


class Suppressions:
    """Reads and changes `suppressions` and `unsubscribes`. Addresses are normalised here."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def page(self, count: int = PAGE, after: Suppression | None = None) -> list[Suppression]:
        """One page of suppressions, ordered by address; the next page starts `after` the last one of this."""
        position = (after.address, after.reason) if after else ("", "")
        async with schema_connection(self._pool) as connection:
            return _read(await connection.fetch(sql("list_suppressions"), *position, count))

    async def find(self, address: str) -> list[Suppression]:
        """All suppressions of one address."""
        async with schema_connection(self._pool) as connection:
            return _read(await connection.fetch(sql("find_suppressions"), normalise_address(address)))

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
            rows = await connection.fetch(sql("remove_suppressions"), normalise_address(address))
            await self._record(connection, actor, "suppression remove", address, len(rows))
        return sorted(row["reason"] for row in rows)

    async def actions(self, count: int = PAGE) -> list[OperatorAction]:
        """The newest actions of operators, newest first."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("list_operator_actions"), count, LIST_ACTIONS)
        return [OperatorAction(**row) for row in rows]

    async def _record(self, connection: asyncpg.Connection, actor: str, action: str, address: str, count: int) -> None:
        """In the transaction of the action: there is no action without its trace."""
        arguments = (self._clock.now(), clean_text(actor, MAX_WORD_LENGTH), action, normalise_address(address), count)
        await connection.execute(sql("record_operator_action"), *arguments)

    async def unsubscribes_page(self, count: int = PAGE, after: Unsubscribe | None = None) -> list[Unsubscribe]:
        """One page of unsubscribes, ordered by address and kind; the next page starts `after` the last one of this."""
        position = (after.address, after.kind) if after else ("", "")
        async with schema_connection(self._pool) as connection:
            return [Unsubscribe(**row) for row in await connection.fetch(sql("list_unsubscribes"), *position, count)]

    async def find_unsubscribes(self, address: str) -> list[Unsubscribe]:
        """All unsubscribes of one address."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("find_unsubscribes"), normalise_address(address))
        return [Unsubscribe(**row) for row in rows]

    async def unsubscribe(self, address: str, kind: str = ALL_KINDS, *, actor: str | None = None) -> bool:
        """Unsubscribe an address from a kind; False when it already was. An operator's action names the `actor`."""
        arguments = (normalise_address(address), clean_text(kind, MAX_WORD_LENGTH), self._clock.now())
        async with schema_connection(self._pool) as connection, connection.transaction():
            added = bool(await connection.fetchval(sql("add_unsubscribe"), *arguments))
            if actor is not None:
                await self._record(connection, actor, f"unsubscribed add{_suffix(kind)}", address, int(added))
        return added

    async def resubscribe(self, address: str, kind: str = ALL_KINDS, *, actor: str | None = None) -> list[str]:
        """Undo the unsubscribes of one kind or of all; returns the kinds that were unsubscribed."""
        arguments = (normalise_address(address), clean_text(kind, MAX_WORD_LENGTH))
        async with schema_connection(self._pool) as connection, connection.transaction():
            rows = await connection.fetch(sql("remove_unsubscribes"), *arguments)
            if actor is not None:
                await self._record(connection, actor, f"unsubscribed remove{_suffix(kind)}", address, len(rows))
        return sorted(row["kind"] for row in rows)

    async def status_for(self, addresses: Sequence[str]) -> Mapping[str, RecipientStatus]:
        """The status of up to 500 addresses in one query, by address as given."""
        spellings = {address: normalise_address(address) for address in addresses}
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("get_recipient_status"), list(spellings.values()))
        found = {row["address"]: _status(row["suppressed"], row["unsubscribed"]) for row in rows}
        return {address: found[key] for address, key in spellings.items()}


def _suffix(kind: str) -> str:
    return "" if kind == ALL_KINDS else f" ({kind})"


def _status(suppressed: Sequence[str], unsubscribed: Sequence[str]) -> RecipientStatus:
    return RecipientStatus(frozenset(suppressed), frozenset(unsubscribed))


def _read(rows: Sequence[asyncpg.Record]) -> list[Suppression]:
    return [Suppression(**row) for row in rows]
