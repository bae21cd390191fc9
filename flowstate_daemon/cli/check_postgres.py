"""What `check` says of FlowState's Postgres and of our schema in it. Judging is pure."""

from __future__ import annotations

import asyncpg

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.config import Config
from flowstate_daemon.base.errors import ConfigError, Outage
from flowstate_daemon.cli.check_redis import judge_clock
from flowstate_daemon.cli.check_tables import examine_tables
from flowstate_daemon.cli.verdict import Grade, Verdict, fail, ok, unreachable, warn
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.migrate import Migrator, SchemaRefused
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.schema import SCHEMA
from flowstate_daemon.database.standing import SchemaRights, Standing, look_at_postgres, zone_fault

OLDEST = 130_000  # server_version_num; older ones get no more fixes, and nobody has tried
SLOW_MS = 50.0
ZONE = "Europe/Paris"  # where the application's days begin


async def examine_postgres(config: Config) -> list[Verdict]:
    """The server, the rights in our schema, the migrations, the calendar, the application's tables."""
    if config.database.url is None:
        return [ok("postgres", "DATABASE_URL is not set: schedules and ledger are off")]
    try:
        dsn = clean_dsn(config.database.url.get_secret_value())
        noted = [warn("postgres url", words, "remove it from DATABASE_URL") for words in dsn.warnings]
        async with open_pool(dsn, size=2) as pool:
            return noted + await _examine(pool, dsn.schema, Clock())
    except ConfigError as error:
        return [Verdict("postgres", Grade.FAIL, reason, misconfigured=True) for reason in error.mistakes]
    except Outage as outage:
        return [unreachable("postgres", outage.reason)]


async def _examine(pool: asyncpg.Pool, schema: str, clock: Clock) -> list[Verdict]:
    standing = await look_at_postgres(pool, clock)
    found = [judge_postgres(standing), judge_clock("postgres clock", standing.skew_s)]
    found.append(judge_schema(standing.schema, standing.role))
    if found[-1].grade is not Grade.FAIL:
        found.append(await _migrations(pool))
    fault = await zone_fault(pool, ZONE, clock)
    if fault is not None:
        found.append(fail("time zones", fault, "update tzdata there: mails would go out at the wrong hour"))
    return found + await examine_tables(pool, schema)


def judge_postgres(standing: Standing) -> Verdict:
    """The server itself, and what stands before it. Pure."""
    title = f"PostgreSQL {standing.version}, {standing.latency_ms} ms away"
    if standing.read_only:
        return fail("postgres", f"{title}, is read-only", "point DATABASE_URL at the primary")
    if standing.number < OLDEST:
        return warn("postgres", f"{title}, is older than what was tried", "use PostgreSQL 13 or newer")
    if standing.latency_ms > SLOW_MS:
        return warn("postgres", title, "run the daemon near its Postgres")
    return ok("postgres", f"{title}, through a pooler" if standing.pooled else title)


def judge_schema(rights: SchemaRights, role: str) -> Verdict:
    """Whether this role can keep the ledger. Pure."""
    subject, made = "postgres rights", f'CREATE SCHEMA {SCHEMA} AUTHORIZATION "{role}"'
    if not rights.exists:
        if rights.may_make:
            return ok(subject, f"{role} will make the schema {SCHEMA}")
        return fail(subject, f"there is no schema {SCHEMA}, and {role} may not make it", f"as an administrator: {made}")
    if not rights.may_use or not rights.may_create:
        return fail(subject, f"{role} may not use the schema {SCHEMA}", f'ALTER SCHEMA {SCHEMA} OWNER TO "{role}"')
    if rights.closed:
        tables = ", ".join(f"{SCHEMA}.{name}" for name in rights.closed)
        return fail(subject, f"{role} may not use {tables}", f'GRANT ALL ON ALL TABLES IN SCHEMA {SCHEMA} TO "{role}"')
    return ok(subject, f"{role} may use the schema {SCHEMA}")


async def _migrations(pool: asyncpg.Pool) -> Verdict:
    subject = "migrations"
    try:
        pending = await Migrator(pool).pending()
    except SchemaRefused as refused:
        return fail(subject, refused.reason, "do not run this version on that database")
    if pending:
        titles = ", ".join(migration.title for migration in pending)
        return warn(subject, f"{len(pending)} pending: {titles}", "run: flowstate-daemon migrate (or let `run` do it)")
    return ok(subject, "none pending")
