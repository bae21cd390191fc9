"""Checks of Postgres: the server, our schema, and the application's tables. The `evaluate_…` functions are pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, StoreUnavailableError
from flowstate_daemon.cli.check.redis import evaluate_clock_skew
from flowstate_daemon.cli.check.result import CheckResult, Level, fail, ok, unreachable, warn
from flowstate_daemon.config.loader import Config
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.migrations import Migrator, SchemaMismatchError
from flowstate_daemon.database.pool import SCHEMA, acquire, open_pool
from flowstate_daemon.database.server_info import (
    TABLES_BY_SCHEDULE,
    MissingAccess,
    PostgresInfo,
    SchemaRights,
    find_missing_access,
    inspect_server,
    time_zone_mismatch,
)

APP_TABLES = "application tables"
PERMISSIONS = "postgres permissions"
MIN_SERVER_VERSION = 130_000  # server_version_num; older versions are unsupported and were not tested
SLOW_MS = 50.0
ZONE = "Europe/Paris"  # the default time zone of the application


async def check_app_tables(pool: asyncpg.Pool, schema: str) -> list[CheckResult]:
    """Whether this role can read the tables that the schedules need. Raises StoreUnavailableError."""
    async with acquire(pool) as connection:
        return evaluate_app_tables(schema, await find_missing_access(connection, schema))


def evaluate_app_tables(
    schema: str, missing: Sequence[MissingAccess], needed: Mapping[str, Sequence[str]] = TABLES_BY_SCHEDULE
) -> list[CheckResult]:
    """One result for each missing permission, with the kinds of email that it blocks. Pure."""
    if not missing:
        return [ok(APP_TABLES, f"the tables in schema {schema} are readable")]
    return [
        fail(APP_TABLES, f"{access.finding}: {_blocked_kinds(access, needed)}", access.remedy) for access in missing
    ]


def _blocked_kinds(access: MissingAccess, needed: Mapping[str, Sequence[str]]) -> str:
    kinds = [kind for kind, tables in needed.items() if access.table is None or access.table in tables]
    return f"no {', no '.join(kinds)}" if kinds else "the users' languages cannot be read"


async def check_postgres(config: Config) -> list[CheckResult]:
    """The server, the permissions on our schema, the migrations, time zones, and the application's tables."""
    if config.database.url is None:
        return [ok("postgres", "DATABASE_URL is not set: schedules and ledger are disabled")]
    try:
        dsn = clean_dsn(config.database.url.get_secret_value())
        warnings = [warn("postgres url", text, "remove it from DATABASE_URL") for text in dsn.warnings]
        async with open_pool(dsn, size=2) as pool:
            limit_s = config.health.max_clock_difference_s
            return warnings + await _run_checks(pool, dsn.schema, Clock(), limit_s)
    except ConfigError as error:
        return [CheckResult("postgres", Level.FAIL, reason, misconfigured=True) for reason in error.errors]
    except StoreUnavailableError as outage:
        return [unreachable("postgres", outage.reason)]


async def _run_checks(pool: asyncpg.Pool, schema: str, clock: Clock, limit_s: float) -> list[CheckResult]:
    server = await inspect_server(pool, clock)
    results = [evaluate_server(server), evaluate_clock_skew("postgres clock", server.skew_s, limit_s)]
    results.append(evaluate_schema(server.schema, server.role))
    if results[-1].level is not Level.FAIL:
        results.append(await _check_migrations(pool))
    mismatch = await time_zone_mismatch(pool, ZONE, clock)
    if mismatch is not None:
        results.append(
            fail("time zones", mismatch, "update tzdata on the server: emails would be sent at the wrong hour")
        )
    return results + await check_app_tables(pool, schema)


def evaluate_server(server: PostgresInfo) -> CheckResult:
    """Version, role and latency of the server. Pure."""
    title = f"PostgreSQL {server.version}, latency {server.latency_ms} ms"
    if server.read_only:
        return fail("postgres", f"{title}, read-only", "point DATABASE_URL at the primary")
    if server.number < MIN_SERVER_VERSION:
        return warn("postgres", f"{title}, older than the tested versions", "use PostgreSQL 13 or newer")
    if server.latency_ms > SLOW_MS:
        return warn("postgres", title, "run the daemon close to its Postgres")
    return ok("postgres", f"{title}, through a pooler" if server.pooled else title)


def evaluate_schema(rights: SchemaRights, role: str) -> CheckResult:
    """Whether this role can use our schema, or create it. Pure."""
    create = f'CREATE SCHEMA {SCHEMA} AUTHORIZATION "{role}"'
    if not rights.exists:
        if rights.can_create:
            return ok(PERMISSIONS, f"{role} will create the schema {SCHEMA}")
        return fail(
            PERMISSIONS, f"there is no schema {SCHEMA}, and {role} cannot create it", f"as an administrator: {create}"
        )
    if not rights.may_use or not rights.may_create:
        return fail(PERMISSIONS, f"{role} cannot use the schema {SCHEMA}", f'ALTER SCHEMA {SCHEMA} OWNER TO "{role}"')
    if rights.inaccessible_tables:
        tables = ", ".join(f"{SCHEMA}.{name}" for name in rights.inaccessible_tables)
        return fail(
            PERMISSIONS, f"{role} cannot use {tables}", f'GRANT ALL ON ALL TABLES IN SCHEMA {SCHEMA} TO "{role}"'
        )
    return ok(PERMISSIONS, f"{role} can use the schema {SCHEMA}")


async def _check_migrations(pool: asyncpg.Pool) -> CheckResult:
    name = "migrations"
    try:
        pending = await Migrator(pool).pending()
    except SchemaMismatchError as error:
        return fail(name, error.reason, "do not run this version on that database")
    if pending:
        titles = ", ".join(migration.title for migration in pending)
        return warn(name, f"{len(pending)} pending: {titles}", "run: flowstate-daemon migrate (`run` also does it)")
    return ok(name, "none pending")
