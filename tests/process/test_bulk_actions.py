"""Actions on many jobs in a real daemon: a reload does not disturb them, a stop ends them between two pieces."""

from __future__ import annotations

import signal
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys
from tests.integration.web.test_api_actions import fill
from tests.process.conftest import MakeDaemon
from tests.support.daemon import Daemon
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually

TOKEN = "b4" * 20
COUNT = 150_000
KEPT = {"FLOWSTATE_QUEUE_FAILED_MAX_COUNT": "0", "FLOWSTATE_QUEUE_FAILED_RETENTION_DAYS": "0"}
ACTION = {"action": "remove", "state": "failed", "filter": {"recipient": "example"}}
BOUND_S = 12.0  # 7 s on an idle machine; without a bound it was 15 s


async def call(daemon: Daemon, method: str, path: str, document: Any = None) -> Any:
    """The document of an API call that must succeed."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"http://127.0.0.1:{daemon.port}/api/v1{path}"
    async with aiohttp.ClientSession(headers=headers) as client, client.request(method, url, json=document) as response:
        assert response.status < 300, await response.text()
        return await response.json()


async def removed(redis: Redis, keys: Keys) -> int:
    return COUNT - int(await redis.zcard(keys("failed")))


async def test_stop_with_a_ledger_ends_an_action(
    make_daemon: MakeDaemon, redis: Redis, keys: Keys, database_url: str
) -> None:
    """The action ends with the first signal, instead of filling the journal that the daemon writes to the ledger."""
    await fill(redis, keys, COUNT)
    patient = {"FLOWSTATE_QUEUE_SHUTDOWN_TIMEOUT_S": "120"}
    async with make_daemon(FLOWSTATE_HTTP_API_TOKEN=TOKEN, DATABASE_URL=database_url, **KEPT, **patient) as daemon:
        await daemon.ready()
        await call(daemon, "POST", "/actions", ACTION)
        await eventually(lambda: removed(redis, keys), "the action has begun")
        daemon.send(signal.SIGTERM)
        assert await daemon.ended(within_s=120) == 0
        assert await removed(redis, keys) < COUNT
        assert daemon.events("operator_action_stopped")
    assert await redis.llen(keys.own("journal")) == 0


async def test_stop_while_redis_does_not_answer(
    make_daemon: MakeDaemon, redis: Redis, keys: Keys, valkey_url: str
) -> None:
    """An action that waits for Redis does not delay the end: Docker kills after 10 s."""
    await fill(redis, keys, COUNT)
    url = urlsplit(valkey_url)
    assert url.hostname is not None
    assert url.port is not None
    async with FaultProxy(url.hostname, url.port) as proxy:
        proxied = url._replace(netloc=f"127.0.0.1:{proxy.port}").geturl()
        async with make_daemon(FLOWSTATE_HTTP_API_TOKEN=TOKEN, REDIS_URL=proxied, **KEPT) as daemon:
            await daemon.ready()
            await call(daemon, "POST", "/actions", ACTION)
            await eventually(lambda: removed(redis, keys), "the action has begun")
            proxy.freeze()
            started = time.monotonic()
            daemon.send(signal.SIGTERM)
            assert await daemon.ended(within_s=60) == 0
            assert time.monotonic() - started < BOUND_S
            assert daemon.events("operator_action_abandoned")
            proxy.unfreeze()


async def test_reload_and_stop_during_an_action(make_daemon: MakeDaemon, redis: Redis, keys: Keys) -> None:
    """The audit has what was done before the stop, and running it again does the rest."""
    await fill(redis, keys, COUNT)
    daemon = make_daemon(FLOWSTATE_HTTP_API_TOKEN=TOKEN, **KEPT)
    await daemon.start()
    await daemon.ready()
    started = await call(daemon, "POST", "/actions", ACTION)
    await eventually(lambda: removed(redis, keys), "the action has begun")
    daemon.send(signal.SIGHUP)
    await eventually(lambda: daemon.events("reloaded"), "the reload has ended")
    found = await call(daemon, "GET", f"/actions/{started['id']}")
    assert found["error"] == ""
    daemon.send(signal.SIGTERM)
    assert await daemon.ended() == 0
    done = await removed(redis, keys)
    [entry] = await redis.lrange(keys.own("audit"), 0, -1)
    assert f'"count":{done}' in entry
    assert "recipient contains 'example'" in entry
    await daemon.start()
    await daemon.ready()
    if done < COUNT:
        await call(daemon, "POST", "/actions", ACTION)
    await eventually(lambda: removed(redis, keys), "the rest is removed", equals=COUNT, within_s=60)
