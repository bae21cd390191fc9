"""Fills the stores for the benchmark of the operator's pages: jobs, rows of the ledger, statistics of a week."""

from __future__ import annotations

import json

import asyncpg
from redis.asyncio import Redis

from flowstate_daemon.base.metrics import LATENCY_BUCKETS
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.dev.seed import create_tables
from flowstate_daemon.operations.statistics import HOUR_MS, MINUTE_MS, QUARTER_MS, day_key, hour_key
from flowstate_daemon.redis_client.keys import Keys
from tests.bench.scheduler import RECIPIENTS

DAYS = 7  # all that is counted on a page is of this time
PEOPLE = 50_000
STEP = 20_000  # jobs that one script call adds: the server answers others in between
HOT_SHARE = 100  # one in this many emails is for one address, as of a test account
HOT = "hot@mail.dev"
# The hashes that Bull would write. Waiting jobs have the priority of bulk email, and run in the order of their numbers.
FILL = """
local base, state, first, last, from, span = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local ids, scored = {}, {}
for n = first, last do
  local id = state .. n
  local at = math.floor(from + span * n / tonumber(ARGV[7]))
  local to = n % tonumber(ARGV[8]) == 0 and ARGV[9] or ('person' .. n % tonumber(ARGV[10]) .. '@mail.dev')
  local data = '{"type":"task-reminder","to":"' .. to .. '","context":{"userName":"Person ' .. n ..
    '","taskTitle":"Write down what task ' .. n .. ' is about","projectName":"Personal","priority":3,' ..
    '"estimatedTime":30,"taskUrl":"https://flowstate.dev/tasks/' .. n ..
    '","settingsUrl":"https://flowstate.dev/settings/notifications"}}'
  local job = base .. id
  redis.call('HSET', job, 'name', 'task-reminder', 'data', data, 'opts',
    '{"attempts":3,"priority":5,"removeOnComplete":true}', 'timestamp', at, 'priority', 5, 'delay', 0)
  ids[#ids + 1] = id
  if state == 'wait' then
    redis.call('LPUSH', KEYS[1], id)
    redis.call('ZADD', KEYS[2], 5, id)
  else
    redis.call('HSET', job, 'finishedOn', at, 'processedOn', at - 100, 'attemptsMade', 3)
    redis.call('ZADD', KEYS[1], at, id)
    if state == 'failed' then
      redis.call('HSET', job, 'failedReason', n % 4 == 0 and 'timeout after ' .. n % 60 .. ' s'
        or 'provider: 422 Invalid `to` field (request ' .. n .. ')')
    end
  end
end
"""
MAILS = """
INSERT INTO flowstate_daemon.mails (
    key, outcome, mail, at, address, kind, job_id, attempt, provider_id, reason, decisions
)
SELECT
    'bull:email:old' || n || ':1:1', CASE WHEN n % 50 = 0 THEN 'skipped' WHEN n % 99 = 0 THEN 'failed' ELSE 'sent' END,
    'bull:email:old' || n || ':1', $2::timestamptz + $3::interval * n / $1::float8,
    CASE WHEN n % $4::integer = 0 THEN $5::text ELSE 'person' || n % $6::integer || '@mail.dev' END,
    (ARRAY['task-reminder', 'focus-report', 'overdue-summary'])[1 + n % 3], 'old' || n, 1,
    CASE WHEN n % 50 > 0 AND n % 99 > 0 THEN 'provider-' || n END,
    CASE WHEN n % 50 = 0 THEN 'unsubscribed from task-reminder' WHEN n % 99 = 0 THEN 'provider: 422 Invalid' END,
    '[{"check": "suppression", "result": "pass", "reason": null}]'::jsonb
FROM generate_series(1, $1::integer) AS n
"""
EVENTS = """
INSERT INTO flowstate_daemon.provider_events (svix_id, provider_id, type, at, address)
SELECT 'event-' || n, 'provider-' || n, (ARRAY['delivered', 'opened', 'bounced'])[1 + n % 3],
    $2::timestamptz + $3::interval * n / $1::float8, 'person' || n % $4::integer || '@mail.dev'
FROM generate_series(1, $1::integer) AS n
"""
LISTS = """
INSERT INTO flowstate_daemon.suppressions SELECT 'gone' || n || '@mail.dev', 'bounced', now(), null
FROM generate_series(1, $1::integer) AS n
"""
UNSUBSCRIBES = """
INSERT INTO flowstate_daemon.unsubscribes SELECT 'left' || n || '@mail.dev', 'task-reminder', now()
FROM generate_series(1, $1::integer) AS n
"""
ACTIONS = """
INSERT INTO flowstate_daemon.operator_actions (at, actor, action, target, count)
SELECT now() - n * interval '1 second', 'bench', 'suppression add', 'gone' || n || '@mail.dev', 1
FROM generate_series(1, $1::integer) AS n
"""


async def fill_queue(url: str, keys: Keys, count: int, now_ms: int) -> None:
    """`count` waiting, `count` failed and `count` completed jobs; those that have ended are spread over DAYS."""
    span = DAYS * 24 * HOUR_MS
    redis = Redis.from_url(url, protocol=2)
    fill = redis.register_script(FILL)
    for state in ("wait", "failed", "completed"):
        for first in range(0, count, STEP):
            last = min(first + STEP, count) - 1
            age_ms = 0 if state == "wait" else span  # older reminders would expire instead of being sent
            args = (keys.base, state, first, last, now_ms - age_ms, age_ms, count, HOT_SHARE, HOT, PEOPLE)
            await fill(keys=[keys(state), keys("priority")], args=args)
    await _fill_statistics(redis, keys, now_ms)
    await redis.aclose()


async def _fill_statistics(redis: Redis, keys: Keys, now_ms: int) -> None:
    """Every minute of the last days as two busy daemons would have written it."""
    buckets = [7] * (len(LATENCY_BUCKETS) + 1)
    minute = json.dumps({"sent": 900, "failed": 3, "retried": 5, "skipped": 9, "urgent": buckets, "bulk": buckets})
    first = (now_ms - DAYS * 24 * HOUR_MS) // HOUR_MS * HOUR_MS
    for hour in range(first, now_ms, HOUR_MS):
        fields = {
            f"{at}:{instance}": minute
            for at in range(hour, min(hour + HOUR_MS, now_ms), MINUTE_MS)
            for instance in ("one", "two")
        }
        await redis.hset(hour_key(keys, hour), mapping=fields)
        quarters = {
            f"{at}:{instance}:0": minute
            for at in range(hour, hour + HOUR_MS, QUARTER_MS)
            for instance in ("one", "two")
        }
        await redis.hset(day_key(keys, hour), mapping=quarters)


async def fill_database(url: str, count: int) -> None:
    """`count` rows of the ledger, a tenth as many events, suppressions, unsubscribes and actions, and PEOPLE users."""
    await create_tables(url)
    async with open_pool(clean_dsn(url)) as pool:
        await Migrator(pool).apply()
    connection = await asyncpg.connect(url)
    now = await connection.fetchval("SELECT now()")
    since, span = await connection.fetchrow("SELECT now() - $1 * interval '1 day', $1 * interval '1 day'", DAYS)
    await connection.execute(RECIPIENTS, PEOPLE, now.replace(tzinfo=None))
    await connection.execute(MAILS, count, since, span, HOT_SHARE, HOT, PEOPLE)
    await connection.execute(EVENTS, count // 10, since, span, PEOPLE)
    for statement in (LISTS, UNSUBSCRIBES, ACTIONS):
        await connection.execute(statement, count // 10)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
