"""Migrates the daemon's schema to the version that the code needs; any number of daemons may do so at once.

Each file in `migrations/` runs once, in one transaction with its row in the table of migrations. Applied files never
change: their checksums are compared. A database that is newer than the code is not changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.resources import files

import asyncpg
import structlog

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.database.pool import SCHEMA, schema_connection
from flowstate_daemon.database.queries import sql

log = structlog.get_logger()

FILE = re.compile(r"(\d{4})_([a-z][a-z_]*)\.sql")
LOCK = 0x466C6F77_53746174  # an arbitrary number for the advisory lock
MIGRATION_S = 600.0


class SchemaMismatchError(StoreUnavailableError):
    """The schema does not fit this code. An operator has to act; emails are still sent."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: its number, its name, its SQL."""

    version: int
    name: str
    text: str = field(repr=False)

    @property
    def checksum(self) -> str:
        return sha256(self.text.encode()).hexdigest()

    @property
    def title(self) -> str:
        return f"{self.version:04}_{self.name}"


@cache
def known_migrations() -> tuple[Migration, ...]:
    """The migrations of this version, in order, numbered from 1 without a gap."""
    found = []
    for file in (files(__package__) / "migrations").iterdir():
        if file.name.endswith(".sql"):
            match = FILE.fullmatch(file.name)
            if match is None:
                raise ValueError(f"{file.name}: migrations are named NNNN_name.sql")
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("migrations are numbered from 1 without a gap")
    return tuple(found)


def pending_migrations(known: Sequence[Migration], applied: Sequence[Mapping[str, object]]) -> list[Migration]:
    """What is left to apply. Pure. Raises SchemaMismatchError when the list is not the beginning of what is known."""
    by_version = {migration.version: migration for migration in known}
    for row in applied:
        mine = by_version.pop(int(str(row["version"])), None)
        if mine is None:
            raise SchemaMismatchError(
                f"Postgres: schema {SCHEMA} is at version {row['version']} ({row['name']}), this daemon knows"
                f" {len(known)}: it is older than the database; install the newer version"
            )
        if mine.checksum != row["checksum"]:
            raise SchemaMismatchError(
                f"Postgres: migration {mine.title} was applied with another content than this daemon has: install"
                " the version that the database was migrated with, or a newer one"
            )
    return list(by_version.values())


class Migrator:
    """Applies pending migrations."""

    def __init__(self, pool: asyncpg.Pool, known: Sequence[Migration] | None = None) -> None:
        self._pool = pool
        self._known = known_migrations() if known is None else known

    async def pending(self) -> list[Migration]:
        """The migrations still to apply. Raises StoreUnavailableError, SchemaMismatchError."""
        async with schema_connection(self._pool) as connection:
            found = await connection.fetchrow(sql("find_schema"))
            applied = await connection.fetch(sql("list_migrations")) if found["has_migrations"] else []
        return pending_migrations(self._known, applied)

    async def apply(self) -> list[Migration]:
        """Apply pending migrations; returns those that this call applied, another daemon may have applied others."""
        done: list[Migration] = []
        if not await self.pending():
            return done
        while (migration := await self._apply_next()) is not None:
            log.info("migration_applied", migration=migration.title)
            done.append(migration)
        return done

    async def _apply_next(self) -> Migration | None:
        async with schema_connection(self._pool) as connection, connection.transaction():
            await connection.execute(sql("lock_migrations"), LOCK, timeout=MIGRATION_S)
            await _create_migrations_table(connection)
            left = pending_migrations(self._known, await connection.fetch(sql("list_migrations")))
            if not left:
                return None
            await connection.execute(left[0].text, timeout=MIGRATION_S)
            await connection.execute(sql("record_migration"), left[0].version, left[0].name, left[0].checksum)
            return left[0]


async def _create_migrations_table(connection: asyncpg.Connection) -> None:
    found = await connection.fetchrow(sql("find_schema"))
    if not found["has_schema"]:
        with _explain_missing_rights():
            await connection.execute(sql("create_schema"))
    if not found["has_migrations"]:
        await connection.execute(sql("create_migrations"))


@contextmanager
def _explain_missing_rights() -> Iterator[None]:
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        remedy = f"let an administrator run: CREATE SCHEMA {SCHEMA} AUTHORIZATION <the role in DATABASE_URL>"
        raise StoreUnavailableError(f"Postgres: {error}; {remedy}") from error
