"""Measures the cost of an email on the real daemon, Valkey and Postgres, and that of keeping and pruning the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.dev.embedded import EmbeddedPostgres, EmbeddedValkey
from flowstate_daemon.dev.seed import create_tables
from flowstate_daemon.queue.admin import QueueAdmin
from flowstate_daemon.redis_client.keys import Keys
from tests.bench.delivery import Bench, provider
from tests.bench.flowstate import cpu_s
from tests.support.waiting import eventually

SCHEMA = "flowstate_daemon"
RETENTION_DAYS = 365
LOOKUPS = 200
UPDATE_BATCH = 500
# A million outcomes of the year before the last one, and as many of the last year; about 90 bytes of reasons and steps.
FILL = """
INSERT INTO flowstate_daemon.{table} (key, outcome, mail, at, address, kind, job_id, attempt, provider_id, decisions)
SELECT
    'bull:email:' || n || ':' || n || ':1', 'sent', 'bull:email:' || n || ':' || n,
    now() - make_interval(secs => {newest} + (n % $1::bigint) * {spread} / $1::bigint),
    'person' || (n * 7919 % $1::bigint) || '@mail.dev', 'task-reminder', n::text, 1, md5(n::text),
    '[{{"check": "suppression", "result": "ok"}}, {{"check": "preferences", "result": "ok"}}]'::jsonb
FROM generate_series({first}::bigint, {first} + $1::bigint - 1) AS n
"""
YEAR_S = RETENTION_DAYS * 86_400


def descendants(pid: int) -> Iterator[int]:
    """The process and its children, as Postgres has one for each connection."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in thread.read_text().split():
            yield from descendants(int(child))


def tree_cpu_s(pid: int) -> float:
    """CPU of a process, its running children, and those that have ended."""
    total = 0.0
    for one in descendants(pid):
        try:
            total += cpu_s(one)
        except FileNotFoundError:
            continue
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return total + (int(fields[13]) + int(fields[14])) / 100


async def delivery_costs(folder: Path, mails: int) -> dict[str, float]:
    """Send `mails` reminders through the daemon, with ledger, as fast as a provider without a limit takes them."""
    async with AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(EmbeddedValkey())
        postgres = await stack.enter_async_context(EmbeddedPostgres())
        await create_tables(postgres.url())
        fake = await stack.enter_async_context(provider(folder, None))
        settings = {"DATABASE_URL": postgres.url(), "FLOWSTATE_SCHEDULE_ENABLED": "false"}
        bench = Bench(valkey.url, "capacity", fake, folder, settings)
        redis = Redis.from_url(valkey.url, decode_responses=True, protocol=2)
        stack.push_async_callback(redis.aclose)
        database = await asyncpg.connect(postgres.url())
        queue = QueueAdmin(bench.connection, Keys("capacity"), bench.clock, token="bench")
        before = await redis.info()
        await queue.pause()
        await bench.add_reminders(mails)
        waiting = await redis.info()
        async with bench.daemon as daemon:
            await daemon.ready(within_s=60)
            assert daemon.process is not None
            assert postgres.pid is not None
            started = await redis.info()
            idle = [cpu_s(daemon.process.pid), tree_cpu_s(postgres.pid)]
            await queue.resume()
            await bench.accepted(mails, within_s=600)
            await eventually(lambda: _is_written(database, mails), "the ledger has all", within_s=120)
            ended = await redis.info()
            used = [cpu_s(daemon.process.pid) - idle[0], tree_cpu_s(postgres.pid) - idle[1]]
        await bench.connection.close()
        sizes = {table: await _row_bytes(database, table) for table in ("mails", "request_members")}
        await database.close()

    def grown(name: str) -> float:
        return float(ended[name]) - float(started[name])

    return {
        "daemon_cpu_us": used[0] / mails * 1e6,
        "redis_cpu_us": (grown("used_cpu_user") + grown("used_cpu_sys")) / mails * 1e6,
        "postgres_cpu_us": used[1] / mails * 1e6,
        "waiting_job_bytes": (waiting["used_memory"] - before["used_memory"]) / mails,
        "redis_in_bytes": grown("total_net_input_bytes") / mails,
        "redis_out_bytes": grown("total_net_output_bytes") / mails,
        "redis_commands": grown("total_commands_processed") / mails,
        "ledger_row_bytes": sizes["mails"],
        "request_row_bytes": sizes["request_members"],
    }


async def _is_written(database: asyncpg.Connection, mails: int) -> bool:
    return bool(await database.fetchval(f"SELECT count(*) >= $1 FROM {SCHEMA}.mails", mails))


async def _row_bytes(database: asyncpg.Connection, table: str) -> float:
    size, rows = await database.fetchrow(
        f"SELECT pg_total_relation_size('{SCHEMA}.{table}'), count(*) FROM {SCHEMA}.{table}"
    )
    return float(size / rows)


async def ledger_costs(rows: int) -> dict[str, float]:
    """Prune `rows` old outcomes of twice as many: by DELETE as the daemon does, and by dropping partitions."""
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(EmbeddedPostgres(settings={"shared_buffers": "256MB"}))
        await create_tables(postgres.url())
        pool = await stack.enter_async_context(open_pool(clean_dsn(postgres.url())))
        await Migrator(pool).apply()
        database = await asyncpg.connect(postgres.url(), command_timeout=1800)
        stack.push_async_callback(database.close)
        scheduled = await _scheduled_row_bytes(database, min(rows, 20_000))
        await _fill(database, "mails", rows, first=1, newest=YEAR_S + 3600)
        young_s = await _fill(database, "mails", rows, first=rows + 1, newest=0)
        await database.execute("VACUUM ANALYZE flowstate_daemon.mails")
        full_bytes = await _size(database, "mails")
        lookup_ms = await _lookup_ms(database, "mails", rows)
        started, used = time.monotonic(), tree_cpu_s(postgres.pid or 0)
        deleted = await Ledger(pool, Clock()).prune(RETENTION_DAYS)
        delete_s, delete_cpu_s = time.monotonic() - started, tree_cpu_s(postgres.pid or 0) - used
        assert deleted >= rows, deleted
        vacuum_s = await _timed(database, "VACUUM flowstate_daemon.mails")
        await _fill(database, "mails", rows, first=2 * rows + 1, newest=0)
        refilled_bytes = await _size(database, "mails")
        await _partitioned(database, rows)
        partition_lookup_ms = await _lookup_ms(database, "by_month", rows)
        drop_s = await _timed(database, "DROP TABLE flowstate_daemon.by_month_old")
    return {
        "rows": rows,
        "scheduled_row_bytes": scheduled,
        "insert_rows_per_s": rows / young_s,
        "delete_rows_per_s": rows / delete_s,
        "delete_cpu_us": delete_cpu_s / rows * 1e6,
        "vacuum_s": vacuum_s,
        "bytes_before": full_bytes,
        "bytes_after_refill": refilled_bytes,
        "lookup_ms": lookup_ms,
        "partition_lookup_ms": partition_lookup_ms,
        "drop_s": drop_s,
    }


async def _fill(database: asyncpg.Connection, table: str, rows: int, *, first: int, newest: int) -> float:
    started = time.monotonic()
    await database.execute(FILL.format(table=table, newest=newest, spread=YEAR_S - 7200, first=first), rows)
    return time.monotonic() - started


async def _timed(database: asyncpg.Connection, statement: str) -> float:
    started = time.monotonic()
    await database.execute(statement)
    return time.monotonic() - started


async def _size(database: asyncpg.Connection, table: str) -> float:
    return float(await database.fetchval(f"SELECT pg_total_relation_size('{SCHEMA}.{table}')"))


async def _lookup_ms(database: asyncpg.Connection, table: str, rows: int) -> float:
    """The median time to find the emails of one address, the query of `explain`."""
    query = await database.prepare(f"SELECT * FROM {SCHEMA}.{table} WHERE address = $1 ORDER BY at DESC LIMIT 20")
    spent = []
    for number in range(LOOKUPS):
        started = time.perf_counter()
        await query.fetch(f"person{number * 104_729 % rows}@mail.dev")
        spent.append(time.perf_counter() - started)
    return median(spent) * 1000


async def _partitioned(database: asyncpg.Connection, rows: int) -> None:
    """The same rows in thirteen partitions by time, and one that is old; without a key that is unique across them."""
    await database.execute(
        "CREATE TABLE flowstate_daemon.by_month (LIKE flowstate_daemon.mails INCLUDING DEFAULTS) "
        "PARTITION BY RANGE (at)"
    )
    await database.execute("CREATE INDEX ON flowstate_daemon.by_month (address, at DESC)")
    await database.execute("CREATE UNIQUE INDEX ON flowstate_daemon.by_month (key, outcome, at)")
    for number, (begins, ends) in enumerate(_months()):
        await database.execute(
            f"CREATE TABLE flowstate_daemon.by_month_{number or 'old'} PARTITION OF flowstate_daemon.by_month "
            f"FOR VALUES FROM ('{begins}') TO ('{ends}')"
        )
    await _fill(database, "by_month", rows, first=1, newest=YEAR_S + 3600 * 24 * 40)
    await _fill(database, "by_month", rows, first=rows + 1, newest=0)
    await database.execute("VACUUM ANALYZE flowstate_daemon.by_month")


def _months() -> Sequence[tuple[str, str]]:
    now = Clock().now()
    ends = [now - timedelta(days=30 * back - 1) for back in range(14)]
    edges = ["1970-01-01+00", *(end.isoformat() for end in reversed(ends))]
    return list(pairwise(edges))


async def _scheduled_row_bytes(database: asyncpg.Connection, rows: int) -> float:
    """A row that has gone through its life: planned, enqueued, sent, in batches as the enqueuer and the ledger have."""
    await database.execute(
        """
        INSERT INTO flowstate_daemon.scheduled_mails
            (kind, user_id, local_date, zone, due_at, expires_at, job_id, planned_at)
        SELECT 'task-reminder', md5(n::text)::uuid::text, '2026-03-02', 'Europe/Paris', now(), now(),
            'scheduled.task-reminder.20260302.' || md5(n::text), now()
        FROM generate_series(1, $1::integer) AS n
        """,
        rows,
    )
    for first in range(0, rows, UPDATE_BATCH):
        for state in ("queued", "sent"):
            await database.execute(
                "UPDATE flowstate_daemon.scheduled_mails SET state = $1, queued_at = now() WHERE id > $2 AND id <= $3",
                state,
                first,
                first + UPDATE_BATCH,
            )
    return await _row_bytes(database, "scheduled_mails")


async def measure(folder: Path, mails: int, rows: int) -> dict[str, Any]:
    return {"delivery": await delivery_costs(folder, mails), "ledger": await ledger_costs(rows)}


def run(folder: Path, mails: int, rows: int) -> dict[str, Any]:
    return asyncio.run(measure(folder, mails, rows))
