"""The border to the application's own tables, which are read and never written.

`facts.py` and the planner work inside `at_application`. What a query is refused for is looked up in the catalogue and
named, with the statement that mends it, so that one missing table stops the mails that need it and no others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.database.pool import COMMAND_TIMEOUT_S, borrowed, outages
from flowstate_daemon.database.queries import sql
from flowstate_daemon.database.rights import READ, find_lacks, quoted

PUBLIC = "public"
PLACE = "{app}"  # what stands for the application's schema in SQL files
# How a server refuses to read tables that are not as this version knows them.
REFUSED = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedFunctionError,
    asyncpg.DatatypeMismatchError,
    asyncpg.CannotCoerceError,
)
UNKNOWN_REMEDY = "run: flowstate-daemon migrate, and if that does not help: flowstate-daemon check"


class Unreadable(Outage):
    """Tables of the application are missing, different, or closed to this role: whoever needs them waits for a person.

    An outage, because everything else goes on and nothing is lost; a class of its own, because waiting mends nothing.
    """


@dataclass(frozen=True, slots=True)
class Application:
    """Where the application's tables are. `schema` comes from DATABASE_URL."""

    pool: asyncpg.Pool
    schema: str = PUBLIC

    def sql(self, name: str) -> str:
        """The text of a query on the application's tables. An unknown name is a KeyError: a bug."""
        return sql(name).replace(PLACE, quoted(self.schema))

    @asynccontextmanager
    async def reading(
        self, tables: Iterable[str] = READ, *, wait_s: float = COMMAND_TIMEOUT_S
    ) -> AsyncIterator[asyncpg.Connection]:
        """A connection for queries on these tables. Raises Outage; Unreadable names what is missing there."""
        async with borrowed(self.pool, wait_s=wait_s) as connection:
            try:
                yield connection
            except REFUSED as error:
                raise await self._explained(connection, error, tables) from error

    async def _explained(
        self, connection: asyncpg.Connection, error: asyncpg.PostgresError, tables: Iterable[str]
    ) -> Unreadable:
        """Outside of a transaction the connection can be used again at once."""
        with outages():
            lacks = await find_lacks(connection, self.schema, tables)
        words = "; ".join(map(str, lacks)) or f"{error.message}; {UNKNOWN_REMEDY}"
        return Unreadable(f"Postgres: {words}")
