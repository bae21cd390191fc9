"""What `check` wants to know of a Postgres: who answers, what this role may do, whether its calendar is ours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import asyncpg

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.pool import borrowed
from flowstate_daemon.database.queries import sql

ROUND_TRIPS = 3


@dataclass(frozen=True, slots=True)
class SchemaRights:
    """This role and our schema. `exists` False: it may be made when `may_make`; `closed` tables are out of reach."""

    exists: bool
    may_make: bool
    may_use: bool = False
    may_create: bool = False
    closed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """One Postgres. `pooled`: something like PgBouncer stands in between; `skew_s`: its clock is ahead by so much."""

    version: str
    number: int
    role: str
    database: str
    read_only: bool
    pooled: bool
    latency_ms: float
    skew_s: float
    schema: SchemaRights


async def look_at_postgres(pool: asyncpg.Pool, clock: Clock) -> Standing:
    """Ask the server about itself. Raises Outage."""
    async with borrowed(pool) as connection:
        times = []
        for _ in range(ROUND_TRIPS):
            started, before_ms = clock.mono(), clock.now_ms()
            row = await connection.fetchrow(sql("server_standing"))
            times.append(clock.mono() - started)
            middle_ms = (before_ms + clock.now_ms()) / 2
        closed = await connection.fetch(sql("closed_tables"))
        return Standing(
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


def _schema(row: asyncpg.Record, closed: tuple[str, ...]) -> SchemaRights:
    if row["may_use"] is None:
        return SchemaRights(exists=False, may_make=row["may_make_schema"])
    return SchemaRights(True, row["may_make_schema"], row["may_use"], row["may_create"], closed)


async def zone_fault(pool: asyncpg.Pool, zone: str, clock: Clock) -> str | None:
    """Whether Python and Postgres agree on a zone's winter and summer; None when they do. Raises Outage."""
    year = clock.now().year
    instants = [datetime(year, month, 15, 12, tzinfo=UTC) for month in (1, 7)]
    try:
        ours = [instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for instant in instants]
    except (ZoneInfoNotFoundError, ValueError):
        return f"this machine does not know the time zone {zone}"
    async with borrowed(pool) as connection:
        try:
            theirs = await connection.fetchval(sql("local_times"), zone, instants)
        except asyncpg.InvalidParameterValueError:
            return f"Postgres does not know the time zone {zone}"
    return None if theirs == ours else f"this machine and Postgres disagree on the hours of {zone}"
