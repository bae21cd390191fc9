"""What is known of recipients: suppressions, unsubscribes, preferences, and what the application stores of those.

The command line and the web pages change them, workers read them before sending. Provider events add suppressions in
`ledger.py`, in the same statement as the event. Nothing is cached here.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg
import structlog

from flowstate_daemon.base.address import MAX_LENGTH as MAX_ADDRESS_LENGTH
from flowstate_daemon.base.address import ascii_domain, normalise_address, unicode_spelling
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.text import storable
from flowstate_daemon.database.app_data import NOTIFICATIONS
from flowstate_daemon.database.app_database import AppDatabase
from flowstate_daemon.database.ledger import MAX_TEXT_LENGTH, MAX_WORD_LENGTH
from flowstate_daemon.database.pool import acquire, schema_connection
from flowstate_daemon.database.preferences import read_status
from flowstate_daemon.database.queries import sql
from flowstate_daemon.database.server_info import quote_identifier
from flowstate_daemon.mail.policy import ALL_KINDS, RecipientStatus
from flowstate_daemon.mail.pseudonyms import Pseudonyms

log = structlog.get_logger()

QUERY_TIMEOUT_S = 5.0
SCAN_TIMEOUT_S = (
    0.5  # of a query that reads the whole table unless it has an index on lower(email); a code waits for it
)
DENIED_RETRY_S = 600.0  # how long to wait after a refused or slow query
ACCESS_DENIED = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,  # `preferences` is not JSON
    asyncpg.InvalidSchemaNameError,
)


@dataclass(frozen=True, slots=True)
class UserPreferences:
    """What is in the application's `users.preferences`: language and time zone, unchecked, None when not set.

    `refused` are the kinds that are switched off there.
    """

    language: str | None = None
    zone: str | None = None
    refused: frozenset[str] = frozenset()


NO_USER_PREFERENCES = UserPreferences()


@dataclass(frozen=True, slots=True)
class AppUser:
    """One user; `email` is the address as the application has stored it."""

    email: str = field(repr=False)
    preferences: UserPreferences


class UserPreferenceReader:
    """Reads `users.preferences`; without access to it the defaults apply."""

    def __init__(self, app: AppDatabase, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._denied_until = 0.0
        self._scan_denied_until = 0.0
        self._logged = False

    async def preferences_of(self, addresses: Sequence[str]) -> Mapping[str, UserPreferences]:
        """The preferences of up to 500 users by address as given; users without any are missing.

        Raises StoreUnavailableError.
        """
        if self._clock.monotonic() < self._denied_until:
            return {}
        try:
            async with asyncio.timeout(QUERY_TIMEOUT_S), acquire(self._app.pool) as connection:
                users = await self._fetch_all(connection, addresses)
        except TimeoutError:
            self._deny("Postgres is slow to read the table of users", "check its load and its locks")
            return {}
        chosen = ((address, _choose(address, users.get(normalise_address(address), ()))) for address in addresses)
        return {address: preferences for address, preferences in chosen if preferences != NO_USER_PREFERENCES}

    async def _fetch_all(self, connection: asyncpg.Connection, addresses: Sequence[str]) -> Mapping[str, list[AppUser]]:
        """The users by normal address: those that are stored in a likely spelling, else those in any capitals."""
        users: dict[str, list[AppUser]] = defaultdict(list)
        try:
            likely = {spelling for address in addresses for spelling in _spellings(address)}
            await self._fetch(connection, "get_user_preferences", likely, users)
        except ACCESS_DENIED as error:
            self._deny(str(error), "flowstate-daemon check prints the GRANT statement")
            return users
        self._logged = False
        missing = {normal for normal in map(normalise_address, addresses) if normal not in users}
        if missing and self._clock.monotonic() >= self._scan_denied_until:
            keys = {spelling for normal in missing for spelling in (normal, unicode_spelling(normal))}
            try:
                async with asyncio.timeout(SCAN_TIMEOUT_S):
                    await self._fetch(connection, "find_user_preferences", keys, users)
            except TimeoutError:
                self._scan_denied_until = self._clock.monotonic() + DENIED_RETRY_S
                index = f"CREATE INDEX ON {quote_identifier(self._app.schema)}.users (lower(email))"
                log.warning("user_languages_scan_slow", timeout_s=SCAN_TIMEOUT_S, remedy=index)
        return users

    async def _fetch(
        self, connection: asyncpg.Connection, query: str, keys: Iterable[str], users: dict[str, list[AppUser]]
    ) -> None:
        for row in await connection.fetch(self._app.sql(query), sorted(keys), list(NOTIFICATIONS.values())):
            users[normalise_address(row["email"])].append(AppUser(row["email"], _user_preferences(row)))

    def _deny(self, reason: str, remedy: str) -> None:
        """Skip queries for DENIED_RETRY_S, and log the first time."""
        self._denied_until = self._clock.monotonic() + DENIED_RETRY_S
        if not self._logged:
            self._logged = True
            log.warning("user_languages_unavailable", reason=reason, remedy=remedy)


def _spellings(address: str) -> set[str]:
    """How the application may have stored an address: as given, and with either form of the domain, in lower case."""
    given = storable(address, MAX_ADDRESS_LENGTH)
    local, at, domain = given.rpartition("@")
    parsed, normal = f"{local}{at}{ascii_domain(domain)}", normalise_address(address)
    return {given, parsed, unicode_spelling(parsed), normal, unicode_spelling(normal)}


def _choose(address: str, users: Sequence[AppUser]) -> UserPreferences:
    """The preferences of the user whose stored address is the most similar to the given one."""

    def distance(user: AppUser) -> tuple[bool, bool, bool, str]:
        other_local = user.email.rpartition("@")[0] != address.rpartition("@")[0]
        return user.email != address, other_local, user.preferences == NO_USER_PREFERENCES, user.email

    return min(users, key=distance).preferences if users else NO_USER_PREFERENCES


def _user_preferences(row: asyncpg.Record) -> UserPreferences:
    refused = {kind for kind, name in NOTIFICATIONS.items() if name in row["refused"]}
    return UserPreferences(row["language"] or None, row["zone"] or None, frozenset(refused))


PAGE = 100
REASONS = ("bounced", "complained", "manual", "suppressed")
UNKNOWN_ACTOR = "unknown"
LIST_ACTIONS = ("suppression", "unsubscribed", "preferences", "addresses")  # the first words of their actions


@dataclass(frozen=True, slots=True)
class ListAction:
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

    async def add(
        self,
        address: str,
        reason: str,
        note: str | None = None,
        *,
        actor: str = UNKNOWN_ACTOR,
        since: datetime | None = None,
    ) -> bool:
        """Suppress an address for one of REASONS; False when it already was. `actor` is recorded with the action.

        `since` is now, unless the entry is from another list.
        """
        if reason not in REASONS:
            raise ValueError(f"not a reason to suppress an address: {reason}")
        text = None if note is None else storable(note, MAX_TEXT_LENGTH)
        async with schema_connection(self._pool) as connection, connection.transaction():
            arguments = (normalise_address(address), reason, since or self._clock.now(), text)
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
            rows = await connection.fetch(sql("list_operator_actions"), count, LIST_ACTIONS)
        return [ListAction(**row) for row in rows]

    async def record(self, action: str, target: str, count: int, *, actor: str) -> None:
        """Record an action that has changed nothing."""
        async with schema_connection(self._pool) as connection:
            await self._record(connection, actor, action, target, count)

    async def _record(self, connection: asyncpg.Connection, actor: str, action: str, address: str, count: int) -> None:
        """In the transaction of the action: no action without its entry in the audit log."""
        arguments = (self._clock.now(), storable(actor, MAX_WORD_LENGTH), action, normalise_address(address), count)
        await connection.execute(sql("record_operator_action"), *arguments)

    async def unsubscribes_page(self, count: int = PAGE, after: Unsubscribe | None = None) -> list[Unsubscribe]:
        """One page of unsubscribes, ordered by address and kind; the next page starts `after` the last one of this."""
        position = (after.address, after.kind) if after else ("", "")
        async with schema_connection(self._pool) as connection:
            return [Unsubscribe(**row) for row in await connection.fetch(sql("list_unsubscribes"), *position, count)]

    async def find_unsubscribes(self, address: str) -> list[Unsubscribe]:
        """All unsubscribes of one address."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("find_unsubscribes"), self._stored(address))
        return [Unsubscribe(**row) for row in rows]

    async def unsubscribe(
        self, address: str, kind: str = ALL_KINDS, *, actor: str | None = None, since: datetime | None = None
    ) -> bool:
        """Unsubscribe an address from a kind; False when it already was. An operator's action names the `actor`.

        `since` is now, unless the entry is from another list.
        """
        arguments = (normalise_address(address), storable(kind, MAX_WORD_LENGTH), since or self._clock.now())
        async with schema_connection(self._pool) as connection, connection.transaction():
            added = bool(await connection.fetchval(sql("add_unsubscribe"), *arguments))
            if actor is not None:
                await self._record(connection, actor, f"unsubscribed add{_suffix(kind)}", address, int(added))
        return added

    async def resubscribe(self, address: str, kind: str = ALL_KINDS) -> bool:
        """A recipient undoes one unsubscribe; False when there was none.

        Undoing ALL_KINDS leaves the kinds that were left one by one.
        """
        arguments = (self._stored(address), storable(kind, MAX_WORD_LENGTH))
        async with schema_connection(self._pool) as connection:
            return bool(await connection.fetchval(sql("remove_unsubscribe"), *arguments))

    async def remove_unsubscribes(self, address: str, kind: str = ALL_KINDS, *, actor: str) -> list[str]:
        """An operator undoes the unsubscribe of one kind, or with ALL_KINDS every one; returns what was undone."""
        arguments = (self._stored(address), storable(kind, MAX_WORD_LENGTH))
        async with schema_connection(self._pool) as connection, connection.transaction():
            rows = await connection.fetch(sql("remove_unsubscribes"), *arguments)
            await self._record(connection, actor, f"unsubscribed remove{_suffix(kind)}", address, len(rows))
        return sorted({row["kind"] for row in rows})

    async def status_for(self, addresses: Sequence[str]) -> Mapping[str, RecipientStatus]:
        """The status of up to 500 addresses in one query, by address as given."""
        spellings = {address: self._stored(address) for address in addresses}
        stored = [key for keys in spellings.values() for key in keys]
        async with schema_connection(self._pool) as connection:
            found = {row["address"]: row for row in await connection.fetch(sql("get_recipient_status"), stored)}
        return {address: read_status([found[key] for key in keys]) for address, keys in spellings.items()}


def _suffix(kind: str) -> str:
    return "" if kind == ALL_KINDS else f" ({kind})"


def _read(rows: Sequence[asyncpg.Record]) -> list[Suppression]:
    return [Suppression(**row) for row in rows]
