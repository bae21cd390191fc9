"""The border to the application's own tables, which are read and never written.

`facts.py` and the planner work inside `at_application`. What a query is refused for is looked up in the catalogue and
named, with the statement that mends it, so that one missing table stops the mails that need it and no others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.database.pool import COMMAND_TIMEOUT_S, acquire, translate_errors
from flowstate_daemon.database.queries import sql
from flowstate_daemon.database.server_info import COLUMNS_BY_TABLE, find_missing_access, quote_identifier

PUBLIC = "public"
SCHEMA_PLACEHOLDER = "{app}"  # what stands for the application's schema in SQL files
# How a server refuses to read tables that are not as this version knows them.
UNREADABLE_ERRORS = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedFunctionError,
    asyncpg.DatatypeMismatchError,
    asyncpg.CannotCoerceError,
)
UNKNOWN_REMEDY = "run: flowstate-daemon migrate, and if that does not help: flowstate-daemon check"


class AppTablesUnavailableError(StoreUnavailableError):
    """Tables of the application are missing, different, or closed to this role: whoever needs them waits for a person.

    An outage, because everything else goes on and nothing is lost; a class of its own, because waiting mends nothing.
    """


@dataclass(frozen=True, slots=True)
class AppDatabase:
    """Where the application's tables are. `schema` comes from DATABASE_URL."""

    pool: asyncpg.Pool
    schema: str = PUBLIC

    def sql(self, name: str) -> str:
        """The text of a query on the application's tables. An unknown name is a KeyError: a bug."""
        return sql(name).replace(SCHEMA_PLACEHOLDER, quote_identifier(self.schema))

    @asynccontextmanager
    async def connection(
        self, tables: Iterable[str] = COLUMNS_BY_TABLE, *, wait_s: float = COMMAND_TIMEOUT_S
    ) -> AsyncIterator[asyncpg.Connection]:
        """A connection for queries on these tables. Raises Outage; Unreadable names what is missing there."""
        async with acquire(self.pool, wait_s=wait_s) as connection:
            try:
                yield connection
            except UNREADABLE_ERRORS as error:
                raise await self._explained(connection, error, tables) from error

    async def _explained(
        self, connection: asyncpg.Connection, error: asyncpg.PostgresError, tables: Iterable[str]
    ) -> AppTablesUnavailableError:
        """Outside of a transaction the connection can be used again at once."""
        with translate_errors():
            lacks = await find_missing_access(connection, self.schema, tables)
        text = "; ".join(map(str, lacks)) or f"{error.message}; {UNKNOWN_REMEDY}"
        return AppTablesUnavailableError(f"Postgres: {text}")
