"""A daemon that runs and is not what it seems: the ledger is gone, the queue is another one, Redis forgets."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.mail.samples import preview_contexts
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.worker import fetcher
from tests.integration.worker.test_crash_points import settings
from tests.support.crashing_daemon import CrashingDaemon
from tests.support.fake_resend import FakeResend


async def enqueue(connection: Connection, keys: Keys, *kinds: str) -> None:
    producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=4, backoff_ms=1000)
    await producer.enqueue_many([NewMail(kind, f"{kind}@mail.dev", preview_contexts()[kind]) for kind in kinds])


async def use_ledger(environment: dict[str, str], database_url: str, redis: Redis, keys: Keys) -> None:
    """Run a daemon with Postgres until it is known that this queue has a ledger."""

    async def remembered() -> bool:
        return bool(await redis.exists(keys.own("ledger-used")))

    await CrashingDaemon({**environment, "DATABASE_URL": database_url}).run_until(remembered)
    await redis.delete(keys.own("instance:crashing"))


def idle(daemon: CrashingDaemon) -> bool:
    return not len(daemon.daemon.components.worker.in_flight)


async def test_bulk_emails_are_held_when_the_ledger_is_gone(
    valkey_url: str,
    keys: Keys,
    redis: Redis,
    connection: Connection,
    fake: FakeResend,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Codes are sent, whatever is around them; bulk emails stay in the queue, untouched; ready names the remedy."""
    monkeypatch.setattr(fetcher, "HELD_POLL_INTERVAL_S", 0.05)
    environment = settings(valkey_url, keys, fake)
    await use_ledger(environment, database_url, redis, keys)
    await enqueue(connection, keys, "welcome", "otp", "task-reminder")
    daemon = CrashingDaemon(environment)
    health = daemon.daemon.components.health

    async def codes_sent() -> bool:
        if len(fake.accepted) == 1 and idle(daemon) and not await redis.exists(keys("second")):
            await redis.set(keys("second"), 1)
            await enqueue(connection, keys, "welcome", "otp")
        return len(fake.accepted) == 2 and idle(daemon)

    await daemon.run_until(codes_sent)
    assert {mail.to[0] for mail in fake.accepted} == {"otp@mail.dev"}
    assert "set DATABASE_URL" in health.problems()["ledger"]
    assert await redis.llen(keys("wait")) == 3
    for job_id in await redis.lrange(keys("wait"), 0, -1):
        assert await redis.hget(keys.job(job_id), "processedOn") is None


async def test_bulk_emails_are_sent_without_the_ledger_when_asked_for(
    valkey_url: str, keys: Keys, redis: Redis, connection: Connection, fake: FakeResend, database_url: str
) -> None:
    """A setting says so by name; ready is green, and warns."""
    environment = settings(valkey_url, keys, fake)
    await use_ledger(environment, database_url, redis, keys)
    await enqueue(connection, keys, "welcome")
    daemon = CrashingDaemon({**environment, "FLOWSTATE_DATABASE_WITHOUT_LEDGER": "true"})

    async def sent() -> bool:
        return len(fake.accepted) == 1 and idle(daemon)

    await daemon.run_until(sent)
    health = daemon.daemon.components.health
    assert "ledger" not in health.problems()
    assert "unsubscribed get emails again" in health.warnings["ledger"]


async def test_queue_without_a_ledger_is_as_before(
    valkey_url: str, keys: Keys, redis: Redis, connection: Connection, fake: FakeResend
) -> None:
    """A queue that never had one sends everything; the warnings name what Redis and the settings lack, once each."""
    daemon = CrashingDaemon(settings(valkey_url, keys, fake))
    health = daemon.daemon.components.health
    steps: list[str] = []

    async def sent() -> bool:
        if not steps and {"queue", "redis persistence", "links"} <= health.warnings.keys():
            assert f"no job was ever added to {keys.base.rstrip(':')}" in health.warnings["queue"]
            assert "FLOWSTATE_QUEUE_PREFIX" in health.warnings["queue"]
            await enqueue(connection, keys, "welcome")
            steps.append("warned")
        if len(fake.accepted) == 1 and idle(daemon):
            await daemon.daemon.components.risk_monitor.run_once()
        return len(fake.accepted) == 1 and "queue" not in health.warnings

    await daemon.run_until(sent)
    assert not await redis.exists(keys.own("ledger-used"))
    assert "restart loses every job" in health.warnings["redis persistence"]


async def test_shadow_mode_without_a_worker_warns(
    valkey_url: str, keys: Keys, redis: Redis, fake: FakeResend, database_url: str
) -> None:
    """Nothing is sent. Shadow mode also leaves no trace in Redis, not even that there is a ledger."""
    environment = {**settings(valkey_url, keys, fake), "FLOWSTATE_MODE": "shadow", "DATABASE_URL": database_url}
    daemon = CrashingDaemon(environment)
    health = daemon.daemon.components.health

    async def warned() -> bool:
        return "shadow mode" in health.warnings

    await daemon.run_until(warned)
    await asyncio.sleep(0)
    assert "FLOWSTATE_MODE=send" in health.warnings["shadow mode"]
    assert [key async for key in redis.scan_iter(f"{keys.base}*", count=100_000)] == []
