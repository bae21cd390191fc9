"""The languages that people have chosen in the application: the one thing that mails need of its table of users.

The engine asks together with what stands against them. A role that may not read the table, or an application without
one, costs nobody a mail: it is said once, and everybody gets the default language until the table can be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import asyncpg
import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.pool import borrowed
from flowstate_daemon.database.queries import sql
from flowstate_daemon.database.schema import LONGEST_ADDRESS, normalised, storable

log = structlog.get_logger()

PATIENCE_S = 5.0
REST_S = 600.0  # how long not to ask again where the answer was no
CLOSED = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,  # `preferences` is no JSON
    asyncpg.InvalidSchemaNameError,
)


class Languages:
    """Reads `users.preferences`."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._closed_until = 0.0
        self._said = False

    async def languages_of(self, addresses: Sequence[str]) -> Mapping[str, str]:
        """What up to 500 people have chosen, as they wrote it; who has chosen nothing is left out. Raises Outage."""
        if self._clock.mono() < self._closed_until:
            return {}
        spelt = {address: (storable(address, LONGEST_ADDRESS), normalised(address)) for address in addresses}
        try:
            async with asyncio.timeout(PATIENCE_S), borrowed(self._pool) as connection:
                found = await self._fetched(connection, sorted({key for keys in spelt.values() for key in keys}))
        except TimeoutError:
            self._close("Postgres is slow to read the table of users", "look at its load and its locks")
            return {}
        chosen = ((address, found.get(keys[0]) or found.get(keys[1])) for address, keys in spelt.items())
        return {address: language for address, language in chosen if language}

    async def _fetched(self, connection: asyncpg.Connection, keys: Sequence[str]) -> Mapping[str, str]:
        try:
            rows = await connection.fetch(sql("tell_languages"), keys)
        except CLOSED as error:
            self._close(str(error), "GRANT USAGE ON SCHEMA public and SELECT ON public.users to the daemon's role")
            return {}
        self._said = False
        return {row["email"]: row["language"] for row in rows}

    def _close(self, reason: str, remedy: str) -> None:
        """Ask no more for a while, and say so the first time."""
        self._closed_until = self._clock.mono() + REST_S
        if not self._said:
            self._said = True
            log.warning("languages_unknown", reason=reason, remedy=remedy)
