"""Connections for reading the application's own tables, which the daemon never writes.

`app_data.py` and `planning.py` use them. When a query is refused, the catalogue is searched for the cause, which is
reported with the statement that fixes it; one missing table then stops only the kinds of email that need it.
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
SCHEMA_PLACEHOLDER = "{app}"  # replaced by the application's schema in SQL files
# Errors of the server when tables are not as this version expects them.
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
    """Tables of the application are missing, changed, or not readable by this role, until an operator fixes that.

    A StoreUnavailableError, because everything else continues and nothing is lost; a subclass, because waiting does not
    help.
    """


@dataclass(frozen=True, slots=True)
class AppDatabase:
    """The application's tables: a pool and their schema, which comes from DATABASE_URL."""

    pool: asyncpg.Pool
    schema: str = PUBLIC

    def sql(self, name: str) -> str:
        """The text of a query on the application's tables. Raises KeyError for an unknown name, which is a bug."""
        return sql(name).replace(SCHEMA_PLACEHOLDER, quote_identifier(self.schema))

    @asynccontextmanager
    async def connection(
        self, tables: Iterable[str] = COLUMNS_BY_TABLE, *, wait_s: float = COMMAND_TIMEOUT_S
    ) -> AsyncIterator[asyncpg.Connection]:
        """A connection for queries on these tables.

        Raises StoreUnavailableError; AppTablesUnavailableError names what is missing.
        """
        async with acquire(self.pool, wait_s=wait_s) as connection:
            try:
                yield connection
            except UNREADABLE_ERRORS as error:
                raise await self._explain(connection, error, tables) from error

    async def _explain(
        self, connection: asyncpg.Connection, error: asyncpg.PostgresError, tables: Iterable[str]
    ) -> AppTablesUnavailableError:
        """Find out what is missing. The connection can be used again, because the failed query has ended."""
        with translate_errors():
            missing = await find_missing_access(connection, self.schema, tables)
        text = "; ".join(map(str, missing)) or f"{error.message}; {UNKNOWN_REMEDY}"
        return AppTablesUnavailableError(f"Postgres: {text}")
