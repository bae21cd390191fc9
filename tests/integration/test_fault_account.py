"""The account of a fault run finds what was lost, sent twice or set aside, and a ledger that differs."""

from __future__ import annotations

import json
from random import Random

import asyncpg
from redis.asyncio import Redis

from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.redis_client.keys import Keys
from tests.bench.fault_load import Producer, balance


async def test_account(valkey_url: str, redis: Redis, keys: Keys, database_url: str) -> None:
    """Of four people one got two emails, one got one, one is in `failed`, one is lost; the ledger has one row."""
    producer = Producer(valkey_url, keys, 1.0, Random(1))
    producer.required = {number: f"person{number}@mail.dev" for number in range(1, 5)}
    accepted = {"a": "person1@mail.dev", "b": "person1@mail.dev", "c": "person2@mail.dev"}
    await redis.hset(keys.job("3"), mapping={"data": json.dumps({"to": "person3@mail.dev"}), "failedReason": "unknown"})
    await redis.zadd(keys("failed"), {"3": 1})
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        await Migrator(pool).apply()
        await pool.execute(
            "INSERT INTO flowstate_daemon.mails (key, outcome, mail, at, address, kind, job_id, attempt, provider_id,"
            " decisions) VALUES ('k', 'sent', 'k', now(), 'person1@mail.dev', 'welcome', '1', 1, 'a', '{}')"
        )
    account = await balance(producer, accepted, redis, keys, database_url)
    assert (account.lost, account.twice, account.failed, account.failed_reasons) == (1, 1, 1, {"unknown": 1})
    assert account.ledger == {"sent": 1}
    assert account.ledger_wrong == 5  # two rows are missing, and nothing is known about three people
    await producer.close()


async def test_jobs_that_redis_has_lost_are_not_required(valkey_url: str, keys: Keys) -> None:
    """After a failover only the jobs count whose ids the new Redis knows; their ids may be given to others."""
    producer = Producer(valkey_url, keys, 500.0, Random(1))
    await producer.run(0.3)
    assert producer.acknowledged == len(producer.required) > 20
    async with producer.lock:
        await producer.redis_replaced(valkey_url, 20)
    assert sorted(producer.required) == list(range(1, 21))
    await producer.close()
