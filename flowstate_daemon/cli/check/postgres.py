"""What `check` says of FlowState's Postgres and of our schema in it. Judging is pure."""

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

SUBJECT = "application tables"


async def check_app_tables(pool: asyncpg.Pool, schema: str) -> list[CheckResult]:
    """Whether this role may read what the calendar reads. Raises Outage."""
    async with acquire(pool) as connection:
        return evaluate_app_tables(schema, await find_missing_access(connection, schema))


def evaluate_app_tables(
    schema: str, lacks: Sequence[MissingAccess], needed: Mapping[str, Sequence[str]] = TABLES_BY_SCHEDULE
) -> list[CheckResult]:
    """One line for each lack, with the mails that it stops; others go out all the same. Pure."""
    if not lacks:
        return [ok(SUBJECT, f"all that the calendar needs in the schema {schema} may be read")]
    return [fail(SUBJECT, f"{lack.finding}: {_blocked_kinds(lack, needed)}", lack.remedy) for lack in lacks]


def _blocked_kinds(lack: MissingAccess, needed: Mapping[str, Sequence[str]]) -> str:
    kinds = [kind for kind, tables in needed.items() if lack.table is None or lack.table in tables]
    return f"no {', no '.join(kinds)}" if kinds else "languages of people are not known"


MIN_SERVER_VERSION = 130_000  # server_version_num; older ones get no more fixes, and nobody has tried
SLOW_MS = 50.0
ZONE = "Europe/Paris"  # where the application's days begin


async def check_postgres(config: Config) -> list[CheckResult]:
    """The server, the rights in our schema, the migrations, the calendar, the application's tables."""
    if config.database.url is None:
        return [ok("postgres", "DATABASE_URL is not set: schedules and ledger are off")]
    try:
        dsn = clean_dsn(config.database.url.get_secret_value())
        noted = [warn("postgres url", text, "remove it from DATABASE_URL") for text in dsn.warnings]
        async with open_pool(dsn, size=2) as pool:
            return noted + await _examine(pool, dsn.schema, Clock())
    except ConfigError as error:
        return [CheckResult("postgres", Level.FAIL, reason, misconfigured=True) for reason in error.errors]
    except StoreUnavailableError as outage:
        return [unreachable("postgres", outage.reason)]


async def _examine(pool: asyncpg.Pool, schema: str, clock: Clock) -> list[CheckResult]:
    standing = await inspect_server(pool, clock)
    found = [evaluate_server(standing), evaluate_clock_skew("postgres clock", standing.skew_s)]
    found.append(evaluate_schema(standing.schema, standing.role))
    if found[-1].grade is not Level.FAIL:
        found.append(await _migrations(pool))
    fault = await time_zone_mismatch(pool, ZONE, clock)
    if fault is not None:
        found.append(fail("time zones", fault, "update tzdata there: mails would go out at the wrong hour"))
    return found + await check_app_tables(pool, schema)


def evaluate_server(standing: PostgresInfo) -> CheckResult:
    """The server itself, and what stands before it. Pure."""
    title = f"PostgreSQL {standing.version}, {standing.latency_ms} ms away"
    if standing.read_only:
        return fail("postgres", f"{title}, is read-only", "point DATABASE_URL at the primary")
    if standing.number < MIN_SERVER_VERSION:
        return warn("postgres", f"{title}, is older than what was tried", "use PostgreSQL 13 or newer")
    if standing.latency_ms > SLOW_MS:
        return warn("postgres", title, "run the daemon near its Postgres")
    return ok("postgres", f"{title}, through a pooler" if standing.pooled else title)


def evaluate_schema(rights: SchemaRights, role: str) -> CheckResult:
    """Whether this role can keep the ledger. Pure."""
    subject, made = "postgres rights", f'CREATE SCHEMA {SCHEMA} AUTHORIZATION "{role}"'
    if not rights.exists:
        if rights.can_create:
            return ok(subject, f"{role} will make the schema {SCHEMA}")
        return fail(subject, f"there is no schema {SCHEMA}, and {role} may not make it", f"as an administrator: {made}")
    if not rights.may_use or not rights.may_create:
        return fail(subject, f"{role} may not use the schema {SCHEMA}", f'ALTER SCHEMA {SCHEMA} OWNER TO "{role}"')
    if rights.inaccessible_tables:
        tables = ", ".join(f"{SCHEMA}.{name}" for name in rights.inaccessible_tables)
        return fail(subject, f"{role} may not use {tables}", f'GRANT ALL ON ALL TABLES IN SCHEMA {SCHEMA} TO "{role}"')
    return ok(subject, f"{role} may use the schema {SCHEMA}")


async def _migrations(pool: asyncpg.Pool) -> CheckResult:
    subject = "migrations"
    try:
        pending = await Migrator(pool).pending()
    except SchemaMismatchError as refused:
        return fail(subject, refused.reason, "do not run this version on that database")
    if pending:
        titles = ", ".join(migration.title for migration in pending)
        return warn(subject, f"{len(pending)} pending: {titles}", "run: flowstate-daemon migrate (or let `run` do it)")
    return ok(subject, "none pending")
