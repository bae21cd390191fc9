"""The scheduler with many users: how long planning a morning takes, and how fast emails are enqueued.

`python -m tests.bench.scheduler [--full]`. With `--full` there are a million users in one zone, a
fifth of them with something due: the worst case. Planner and enqueuer are the daemon's own and run in a separate
process (this module with `--morning`), so that its memory is that of these services.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

from flowstate_daemon.base import logs
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.garbage import GC_THRESHOLDS
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.dev.embedded import EmbeddedPostgres, EmbeddedValkey
from flowstate_daemon.dev.seed import create_tables
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.bench.flowstate import cpu_s, rss_mb
from tests.support.clock import FakeClock
from tests.support.scheduler import SchedulerDatabase, SchedulerHarness

FEW, MANY = 20_000, 1_000_000
DUE_SHARE = 5  # one in this many users has something due
EVENING = datetime(2026, 3, 1, 16, 0, tzinfo=UTC)  # Sunday, 17:00 in Paris
OVERDUE_AT, REMINDER_AT = EVENING + timedelta(hours=14), EVENING + timedelta(hours=16)
HOURS = {"focus-report": EVENING, "overdue-summary": OVERDUE_AT, "task-reminder": REMINDER_AT}
PLAN_S, MAILS_PER_S, GROWTH_MB = 20, 5_000, 100
# Every user has a completed task, one for next month and a session of a month ago. Users with something due also have
# two tasks due tomorrow, two overdue tasks, and three sessions of this week.
RECIPIENTS = """
INSERT INTO users (id, email, password, "fullName", "isEmailVerified", preferences, "updatedAt")
SELECT
    md5('u' || n)::uuid::text, 'person' || n || '@mail.dev', '', 'Person ' || n, true,
    CASE WHEN n % 3 > 0 THEN '{"timezone": "Europe/Paris", "language": "en", "theme": "dark"}'::jsonb END, $2
FROM generate_series(1, $1::integer) AS n
"""
TASKS = """
INSERT INTO tasks (id, "userId", title, "isCompleted", "dueDate", "updatedAt")
SELECT
    md5('t' || n || '.' || k)::uuid::text, md5('u' || n)::uuid::text, 'Write down what task ' || k || ' is about',
    k = 1,
    $2::timestamp + CASE WHEN k = 1 THEN -3 WHEN k = 2 THEN 30 WHEN k < 5 THEN 2 ELSE -k END * interval '1 day', $2
FROM generate_series(1, $1::integer) AS n
CROSS JOIN generate_series(1, 6) AS k
WHERE k < 3 OR n % $3::integer = 0
"""
SESSIONS = """
INSERT INTO focus_sessions (id, "userId", "taskId", "plannedDuration", "actualDuration", "startTime", "focusRating")
SELECT
    md5('s' || n || '.' || k)::uuid::text, md5('u' || n)::uuid::text, md5('t' || n || '.' || k)::uuid::text,
    25, 20 + k, $2::timestamp - CASE WHEN k = 1 THEN 30 ELSE k END * interval '1 day', 1 + n % 5
FROM generate_series(1, $1::integer) AS n
CROSS JOIN generate_series(1, 4) AS k
WHERE k < 2 OR n % $3::integer = 0
"""


async def write_recipients(url: str, recipients: int) -> None:
    """Fill the application's tables, and analyze them as autovacuum would."""
    today = EVENING.replace(hour=12, tzinfo=None)
    await create_tables(url)
    connection = await asyncpg.connect(url)
    await connection.execute(
        "SET session_replication_role = replica"
    )  # skips the check of millions of valid foreign keys
    await connection.execute(RECIPIENTS, recipients, today)
    await connection.execute(TASKS, recipients, today, DUE_SHARE)
    await connection.execute(SESSIONS, recipients, today, DUE_SHARE)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    async with open_pool(clean_dsn(url)) as pool:
        await Migrator(pool).apply()


async def morning(database_url: str, redis_url: str) -> dict[str, Any]:
    """Plan and enqueue each kind at its hour; returns figures by kind, and the memory growth of this process."""
    dsn, connection = clean_dsn(database_url), Connection(redis_url, client_name="bench-scheduler")
    async with open_pool(dsn) as pool:
        database = SchedulerDatabase(
            pool, dsn.schema, connection, Keys("scheduler"), FakeClock(EVENING - timedelta(minutes=1))
        )
        harness = database.harness()
        await harness.plan()
        before_mb = rss_mb()
        figures = {kind: await _hour(database, harness, at) for kind, at in HOURS.items()}
        growth_mb = round(max(one["rss_mb"] for one in figures.values()) - before_mb, 1)
    await connection.close()
    return {"kinds": figures, "growth_mb": growth_mb}


async def _hour(database: SchedulerDatabase, harness: SchedulerHarness, at: datetime) -> dict[str, Any]:
    clock = Clock()
    database.clock.advance((at - database.clock.now()).total_seconds())
    started = clock.monotonic()
    await harness.plan()
    plan_s = clock.monotonic() - started
    enqueued, enqueue_s, enqueue_cpu_s, max_mb = 0, 0.0, 0.0, rss_mb()
    while True:
        started, used_s = clock.monotonic(), cpu_s()
        count = await harness.scheduler.enqueuer.enqueue_due()
        enqueue_s, enqueue_cpu_s = enqueue_s + clock.monotonic() - started, enqueue_cpu_s + cpu_s() - used_s
        enqueued, max_mb = enqueued + count, max(max_mb, rss_mb())
        if not count:
            break
        await _empty_queue(database)
    return {
        "plan_s": round(plan_s, 2),
        "mails": enqueued,
        "mails_per_s": round(enqueued / enqueue_s),
        "mails_per_cpu_s": round(enqueued / max(enqueue_cpu_s, 0.01)),
        "rss_mb": max_mb,
    }


async def _empty_queue(database: SchedulerDatabase) -> None:
    """Empty the queue, as workers would between two batches."""
    keys, call = database.keys, database.connection.execute
    jobs = [keys.job(job_id.decode()) for job_id in await call("LRANGE", keys("wait"), 0, -1)]
    await call("UNLINK", keys("wait"), keys("priority"), *jobs)


async def scheduler(redis_url: str, *, full: bool) -> dict[str, Any]:
    recipients = MANY if full else FEW
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(EmbeddedPostgres(settings={"shared_buffers": "1GB"}))
        await write_recipients(postgres.url(), recipients)
        command = (sys.executable, "-m", "tests.bench.scheduler", "--morning", postgres.url(), redis_url)
        child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await child.communicate()
    if child.returncode:
        raise RuntimeError("the scheduler process failed")
    return {"recipients": recipients, **json.loads(out.decode().splitlines()[-1])}


def show(figures: dict[str, Any]) -> None:
    recipients = figures["recipients"]
    title = f"The scheduler with {recipients:,} users, {recipients // DUE_SHARE:,} of them with something due"
    table = Table(title=title, title_justify="left")
    for column in ("", *figures["kinds"], "goal"):
        table.add_column(column, justify="right" if column else "left")
    rows = {
        "planned in, s": "plan_s",
        "enqueued, emails/s": "mails_per_s",
        "enqueued, emails/s of CPU time": "mails_per_cpu_s",
    }
    goals = {"plan_s": f"< {PLAN_S}" if recipients == MANY else "", "mails_per_s": f">= {MAILS_PER_S:,}"}
    for text, name in rows.items():
        cells = (f"{one[name]:,}" for one in figures["kinds"].values())
        table.add_row(text, *cells, goals.get(name, ""))
    table.add_row("RSS growth, MB", str(figures["growth_mb"]), *[""] * (len(HOURS) - 1), f"< {GROWTH_MB}")
    Console().print(table)


async def measure(*, full: bool) -> dict[str, Any]:
    async with EmbeddedValkey() as daemon:
        return await scheduler(daemon.url, full=full)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scheduler", description=__doc__)
    parser.add_argument("--full", action="store_true", help="a million users instead of 20 000")
    parser.add_argument("--morning", nargs=2, metavar=("DATABASE", "REDIS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    logs.configure("warning")
    if given.morning:
        gc.set_threshold(*GC_THRESHOLDS)  # as the daemon does
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(morning(*given.morning))))
        return
    figures = asyncio.run(measure(full=given.full))
    show(figures)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
