"""Outages of stores and provider, and malformed jobs: the daemon reports them, recovers, and loses nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from flowstate_daemon.dev.embedded import EmbeddedValkey
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend, error
from tests.support.waiting import eventually

LINE_BREAK = "a@example.org\r\nBcc: b@example.org"
MALFORMED: dict[str, tuple[str, str]] = {
    "not-json": ("welcome", "{"),
    "not-an-object": ("welcome", "[1,2]"),
    "null": ("welcome", "null"),
    "no-context": ("welcome", json.dumps({"type": "welcome", "to": "a@example.org"})),
    "null-context": ("welcome", json.dumps({"type": "welcome", "to": "a@example.org", "context": None})),
    "wrong-type": ("otp", json.dumps({"type": "otp", "to": "a@example.org", "context": {"otpCode": 123456}})),
    "line-break": ("welcome", json.dumps({"type": "welcome", "to": LINE_BREAK, "context": {"name": "x"}})),
    "five-megabytes": (
        "welcome",
        json.dumps({"type": "welcome", "to": "a@example.org", "context": {"name": "x" * 5_000_000}}),
    ),
    "other-type": ("welcome", json.dumps({"type": "otp", "to": "a@example.org", "context": {"otpCode": "123456"}})),
}


@pytest.fixture
async def own_valkey() -> AsyncIterator[EmbeddedValkey]:
    """A Redis that the test may stop, kill and start again."""
    async with EmbeddedValkey(appendonly=True) as daemon:
        yield daemon


async def seed(redis: Redis, keys: Keys, job_id: str, name: str, data: str, opts: str = "{}") -> None:
    """A job as a broken producer would write it."""
    await redis.hset(
        keys.job(job_id),
        mapping={"name": name, "data": data, "opts": opts, "timestamp": "1795000000000", "delay": 0, "priority": 0},
    )
    await redis.lpush(keys("wait"), job_id)


async def test_malformed_job_fails_at_the_first_attempt(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """Each malformed job moves to `failed` with a readable reason, and a valid job among them is sent."""
    for job_id, (name, data) in MALFORMED.items():
        await seed(redis, keys, job_id, name, data, '{"attempts":3,"backoff":{"type":"exponential","delay":50}}')
    await seed(redis, keys, "bad-opts", "welcome", "{}", "{nope")
    await seed(redis, keys, "odd-opts", "welcome", "{}", '{"attempts":"x","backoff":[1],"timeout":"soon"}')
    await redis.lpush(keys("wait"), "ghost")
    await redis.set(keys.job("no-hash"), "text")
    await redis.lpush(keys("wait"), "no-hash")
    await enqueue(connection, keys, 1)
    broken = {*MALFORMED, "bad-opts", "odd-opts"}
    async with make_daemon() as daemon:
        await daemon.ready()

        async def all_failed() -> bool:
            return int(await redis.zcard(keys("failed"))) == len(broken) and len(provider.accepted) == 1

        await eventually(all_failed, "all broken jobs failed, the good one sent")
        assert (await daemon.look("/health/ready"))[0] == 200
    assert set(await redis.zrange(keys("failed"), 0, -1)) == broken
    for job_id in broken:
        reason = await redis.hget(keys.job(job_id), "failedReason")
        assert len(reason) > 10
        assert "123456" not in reason
        assert "Bcc" not in reason
        assert await redis.hget(keys.job(job_id), "attemptsMade") == "1"
    assert "123456" not in daemon.log_text()


async def test_unknown_job_name_fails_after_its_attempts(make_daemon: MakeDaemon, keys: Keys, redis: Redis) -> None:
    """A job with an unknown name gets all its attempts, as in Bull, because another worker may know it."""
    await seed(redis, keys, "who", "pigeon", "{}", '{"attempts":2,"backoff":50}')
    async with make_daemon() as daemon:
        await daemon.ready()

        async def failed() -> bool:
            return bool(await redis.zscore(keys("failed"), "who"))

        await eventually(failed, "failed after two attempts")
    assert await redis.hget(keys.job("who"), "attemptsMade") == "2"
    assert await redis.hget(keys.job("who"), "failedReason") == "Missing process handler for job type pigeon"


async def test_daemon_recovers_when_redis_was_killed(
    own_valkey: EmbeddedValkey, make_daemon: MakeDaemon, provider: FakeResend, keys: Keys
) -> None:
    """During the outage it is live and not ready; afterwards it continues by itself, and nothing is lost."""
    connection = Connection(own_valkey.url, client_name="test")
    daemon = make_daemon(REDIS_URL=own_valkey.url)
    async with daemon:
        await daemon.ready()
        await enqueue(connection, keys, 20)

        await eventually(lambda: len(provider.accepted) == 20, "20 emails")
        await own_valkey.kill()
        await eventually(daemon.is_not_ready, "not ready without Redis")
        assert (await daemon.look("/health/live"))[0] == 200
        await own_valkey.start()
        await eventually(daemon.is_ready, "ready again", within_s=15)
        await enqueue(connection, keys, 20, first=20)

        await eventually(lambda: len(provider.accepted) == 40, "40 emails")
    assert provider.duplicates() == []
    await connection.close()


async def test_daemon_waits_for_redis_at_the_start(own_valkey: EmbeddedValkey, make_daemon: MakeDaemon) -> None:
    """A daemon that starts before Redis becomes ready once Redis has started."""
    await own_valkey.stop()
    async with make_daemon(REDIS_URL=own_valkey.url) as daemon:
        await eventually(daemon.is_not_ready, "not ready")
        await own_valkey.start()
        await daemon.ready()


async def test_daemon_recovers_when_redis_was_full(
    own_valkey: EmbeddedValkey, make_daemon: MakeDaemon, provider: FakeResend, keys: Keys
) -> None:
    """Out of memory is an outage, after which all emails are sent."""
    connection = Connection(own_valkey.url, client_name="test")
    async with make_daemon(REDIS_URL=own_valkey.url) as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 1)

        await eventually(lambda: len(provider.accepted) == 1, "one email")
        await enqueue(connection, keys, 5, first=1)
        await connection.execute("CONFIG", "SET", "maxmemory", "1")
        await connection.execute("CONFIG", "SET", "maxmemory", "0")

        await eventually(lambda: len(provider.accepted) == 6, "all emails", within_s=30)
    await connection.close()


async def test_server_error_of_the_provider_is_retried(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """After status 500 the job is retried with the same key and the backoff of the job."""
    provider.script(error(500, "application_error"), times=1)
    await seed(
        redis, keys, "try-again", "welcome",
        json.dumps({"type": "welcome", "to": "a@example.org", "context": {"name": "A"}}),
        '{"attempts":3,"backoff":{"type":"exponential","delay":100}}',
    )  # fmt: skip
    async with make_daemon() as daemon:
        await daemon.ready()

        await eventually(lambda: len(provider.accepted) == 1, "sent at the second try")
        (line,) = daemon.events("mail_retried")
        assert line["retry_in_ms"] == 100


async def test_refused_key_keeps_the_jobs(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """Readiness fails with the message of the provider, and no job fails or uses an attempt."""
    async with make_daemon(RESEND_API_KEY="re_wrong_key") as daemon:
        await eventually(daemon.is_ready, "ready")
        await enqueue(connection, keys, 10)
        await eventually(daemon.is_not_ready, "not ready")
        assert "account" in (await daemon.look("/health/ready"))[1]
        assert "re_wrong_key" not in daemon.log_text()
    assert await redis.zcard(keys("failed")) == 0
    assert await redis.llen(keys("wait")) + await redis.llen(keys("active")) == 10
