"""Slow starts and early failures: neither leaves a daemon that looks healthy and does nothing."""

from __future__ import annotations

import asyncio
import json

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_faults import seed
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

STALE_S = 27.0  # a little longer than a service may be without a heartbeat


async def test_daemon_that_waits_for_redis_is_live_but_not_ready(make_daemon: MakeDaemon) -> None:
    """Readiness fails with the reason; liveness does not, however long it takes, since a restart would not help."""
    async with make_daemon(REDIS_URL="redis://127.0.0.1:1") as daemon:
        await eventually(daemon.is_not_ready, "not ready")
        await asyncio.sleep(STALE_S)  # a fixed time, because nothing may happen during it
        status, body = await daemon.look("/health/live")
        assert status == 200, json.loads(body)["reasons"]
        assert "Redis" in (await daemon.look("/health/ready"))[1]


@pytest.mark.parametrize("mails", [1, 2, 3, 50])
async def test_unexpected_error_in_one_service_ends_the_daemon(
    mails: int, make_daemon: MakeDaemon, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """The daemon exits with 1 while its other services are busy, instead of continuing without one of them."""
    for number in range(mails):
        await seed(redis, keys, str(number), "welcome", "{}")
    async with make_daemon(module="tests.support.broken_daemon") as daemon:
        assert await daemon.ended(within_s=10) == 1


async def test_running_bull_worker_is_logged_at_the_start(make_daemon: MakeDaemon, valkey_url: str, keys: Keys) -> None:
    """The log warns of a Bull worker on the same queue, and the daemon starts."""
    node = Redis.from_url(valkey_url, protocol=2, client_name=keys.client_name)
    await node.ping()
    async with make_daemon() as daemon:
        await daemon.ready()
        [warning] = daemon.events("bull_workers_detected")
    await node.aclose()
    assert warning["workers"] == 1
    assert "@Processor" in warning["remedy"]


async def test_key_of_another_type_is_waited_for(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """Ready names the key's type and the remedy, the daemon stays, and works once the key is deleted."""
    await redis.set(keys("wait"), "no list")
    async with make_daemon() as daemon:

        async def red() -> bool:
            status, body = await daemon.look("/health/ready")
            return status == 503 and "another type" in body

        await eventually(red, "ready is red and says why")
        await redis.delete(keys("wait"))
        await enqueue(connection, keys, 1)
        await eventually(lambda: len(provider.accepted) == 1, "the email")
