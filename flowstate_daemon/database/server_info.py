"""Facts about the Postgres server, our schema, and the access to the application's tables.

`app_database.py` reads them when a query was refused, `flowstate-daemon check` beforehand. All of them come from the
catalogue, which every role may read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import asyncpg

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.pool import acquire
from flowstate_daemon.database.queries import sql

USERS = "users"  # also contains the users' passwords
COLUMNS_BY_TABLE: Mapping[str, tuple[str, ...]] = {
    USERS: ("id", "email", "fullName", "isEmailVerified", "preferences", "deletedAt"),
    "tasks": (
        *("id", "userId", "title", "isCompleted", "dueDate", "priority", "estimatedDuration", "projectId"),
        *("createdAt", "deletedAt"),
    ),
    "projects": ("id", "name", "deletedAt"),
    "focus_sessions": ("userId", "taskId", "plannedDuration", "actualDuration", "startTime", "focusRating"),
}
# The tables that each kind of scheduled email needs.
TABLES_BY_SCHEDULE: Mapping[str, tuple[str, ...]] = {
    "task-reminder": ("users", "tasks", "projects"),
    "overdue-summary": ("users", "tasks", "projects"),
    "focus-report": ("users", "tasks", "focus_sessions"),
}


@dataclass(frozen=True, slots=True)
class MissingAccess:
    """Something that is missing or may not be read, and how to fix it. `table` None: all tables."""

    finding: str
    remedy: str
    table: str | None = None

    def __str__(self) -> str:
        return f"{self.finding}; {self.remedy}"


async def find_missing_access(
    connection: asyncpg.Connection, schema: str, tables: Iterable[str] = COLUMNS_BY_TABLE
) -> list[MissingAccess]:
    """What this role cannot read of these tables of the application."""
    asked = [(table, column) for table in tables for column in COLUMNS_BY_TABLE[table]]
    arguments = (schema, [table for table, _ in asked], [column for _, column in asked])
    return evaluate_access(schema, await connection.fetch(sql("get_table_access"), *arguments))


def evaluate_access(schema: str, rows: Sequence[Mapping[str, Any]]) -> list[MissingAccess]:
    """The missing access in these rows of the catalogue, the widest first, each once. Pure."""
    role = quote_identifier(rows[0]["role"]) if rows else ""
    if not all(row["has_schema"] for row in rows):
        return [
            MissingAccess(f"there is no schema {schema}", "set the application's schema in DATABASE_URL: ?schema=…")
        ]
    found: dict[str, MissingAccess] = {}
    if not all(row["may_use_schema"] for row in rows):
        grant = f"GRANT USAGE ON SCHEMA {quote_identifier(schema)} TO {role}"
        found["schema"] = MissingAccess(f"{role} may not use the schema {schema}", grant)
    for row in rows:
        name, column = row["table_name"], row["column_name"]
        table = f"{schema}.{name}"
        if not row["has_table"]:
            found[table] = MissingAccess(f"there is no table {table}", "run the application's migrations", name)
        elif not row["has_column"]:
            remedy = "run the application's migrations, or install the daemon's version that fits them"
            found[f"{table}.{column}"] = MissingAccess(f'the table {table} has no column "{column}"', remedy, name)
        elif not row["may_read"]:
            finding = f"{role} may not read the table {table}"
            found[table] = MissingAccess(finding, grant_select(schema, name, role), name)
    return list(found.values())


def grant_select(schema: str, table: str, role: str) -> str:
    """The statement that lets `role`, quoted where necessary, read what emails need; of `users` only those columns."""
    names = ", ".join(map(quote_identifier, COLUMNS_BY_TABLE[table]))
    columns = f" ({names})" if table == USERS else ""
    return f"GRANT SELECT{columns} ON {quote_identifier(schema)}.{quote_identifier(table)} TO {role}"


def quote_identifier(name: str) -> str:
    """A quoted SQL identifier.

    >>> quote_identifier('a"b')
    '"a""b"'
    """
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


ROUND_TRIPS = 3
MAX_TIME_ROUND_TRIP_S = 2.0


@dataclass(frozen=True, slots=True)
class SchemaRights:
    """The privileges of this role on our schema. `can_create`: whether it may create a schema that does not exist."""

    exists: bool
    can_create: bool
    may_use: bool = False
    may_create: bool = False
    inaccessible_tables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PostgresInfo:
    """One server. `pooled`: the connection goes through a pooler; `skew_s`: how far its clock is ahead of ours."""

    version: str
    number: int
    role: str
    database: str
    read_only: bool
    pooled: bool
    latency_ms: float
    skew_s: float
    schema: SchemaRights


async def inspect_server(pool: asyncpg.Pool, clock: Clock) -> PostgresInfo:
    """Read facts about the server. Raises StoreUnavailableError."""
    async with acquire(pool) as connection:
        times = []
        for _ in range(ROUND_TRIPS):
            started, before_ms = clock.monotonic(), clock.now_ms()
            row = await connection.fetchrow(sql("get_server_info"))
            times.append(clock.monotonic() - started)
            middle_ms = (before_ms + clock.now_ms()) / 2
        closed = await connection.fetch(sql("list_inaccessible_tables"))
        return PostgresInfo(
            version=row["version"],
            number=row["number"],
            role=row["role"],
            database=row["database"],
            read_only=row["read_only"],
            pooled=connection.get_server_pid() != row["pid"],
            latency_ms=round(min(times) * 1000, 1),
            skew_s=round(row["now"].timestamp() - middle_ms / 1000, 3),
            schema=_schema(row, tuple(table["name"] for table in closed)),
        )


async def read_time(pool: asyncpg.Pool, clock: Clock) -> float | None:
    """The server's wall time minus our monotonic time, ms; None when the answer took too long to mean anything.

    Raises StoreUnavailableError.
    """
    async with acquire(pool, wait_s=MAX_TIME_ROUND_TRIP_S) as connection:
        before_s = clock.monotonic()
        time: datetime = await connection.fetchval(sql("get_time"), timeout=MAX_TIME_ROUND_TRIP_S)
        after_s = clock.monotonic()
    if after_s - before_s > MAX_TIME_ROUND_TRIP_S:
        return None
    return time.timestamp() * 1000 - (before_s + after_s) / 2 * 1000


def _schema(row: asyncpg.Record, closed: tuple[str, ...]) -> SchemaRights:
    if row["may_use"] is None:
        return SchemaRights(exists=False, can_create=row["can_create_schema"])
    return SchemaRights(True, row["can_create_schema"], row["may_use"], row["may_create"], closed)


async def time_zone_mismatch(pool: asyncpg.Pool, zone: str, clock: Clock) -> str | None:
    """How Python and Postgres differ on a time zone; None when they agree. Raises StoreUnavailableError."""
    year = clock.now().year
    instants = [datetime(year, month, 15, 12, tzinfo=UTC) for month in (1, 7)]
    try:
        ours = [instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for instant in instants]
    except (ZoneInfoNotFoundError, ValueError):
        return f"this machine does not know the time zone {zone}"
    async with acquire(pool) as connection:
        try:
            of_postgres = await connection.fetchval(sql("get_local_times"), zone, instants)
        except asyncpg.InvalidParameterValueError:
            return f"Postgres does not know the time zone {zone}"
    return None if of_postgres == ours else f"this machine and Postgres disagree on the local time in {zone}"
