"""Starts that take long, and ends that come early: neither leaves a daemon that looks alive and does nothing."""

from __future__ import annotations

import asyncio
import json

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_faults import is_red, seed
from tests.support.waiting import eventually

STALE_S = 27.0  # a little longer than a loop may be silent


async def test_a_daemon_that_waits_for_redis_at_the_start_is_alive(make_daemon: MakeDaemon) -> None:
    """Ready is red with the reason; a restart would cure nothing, so live stays green however long it lasts."""
    async with make_daemon(REDIS_URL="redis://127.0.0.1:1") as daemon:
        await eventually(lambda: is_red(daemon), "ready is red")
        await asyncio.sleep(STALE_S)
        status, body = await daemon.look("/health/live")
        assert status == 200, json.loads(body)["reasons"]
        assert "Redis" in (await daemon.look("/health/ready"))[1]


@pytest.mark.parametrize("mails", [1, 2, 3, 50])
async def test_a_bug_in_one_loop_ends_the_whole_house(
    mails: int, make_daemon: MakeDaemon, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """While the others are in the middle of their work: nothing stays behind that only looks alive, exit 1."""
    await redis.set(keys("failed"), "no sorted set")
    for number in range(mails):
        await seed(redis, keys, str(number), "welcome", "{}")
    async with make_daemon() as daemon:
        assert await daemon.ended(within_s=10) == 1


async def test_a_live_bull_worker_is_told_at_the_start(make_daemon: MakeDaemon, valkey_url: str, keys: Keys) -> None:
    """Whoever has forgotten to stop it reads so in the log; the daemon works all the same."""
    node = Redis.from_url(valkey_url, protocol=2, client_name=keys.client_name)
    await node.ping()
    async with make_daemon() as daemon:
        await daemon.ready()
        [warning] = daemon.events("bull_workers_detected")
    await node.aclose()
    assert warning["workers"] == 1
    assert "@Processor" in warning["remedy"]
