"""Actions on many jobs in a real daemon: a reload does not disturb them, a stop ends them between two pieces."""

from __future__ import annotations

import signal
from typing import Any

import aiohttp
from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys
from tests.integration.web.test_api_actions import fill
from tests.process.conftest import MakeDaemon
from tests.support.daemon import Daemon
from tests.support.waiting import eventually

TOKEN = "b4" * 20
COUNT = 150_000


async def call(daemon: Daemon, method: str, path: str, document: Any = None) -> Any:
    """The document of an API call that must succeed."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"http://127.0.0.1:{daemon.port}/api/v1{path}"
    async with aiohttp.ClientSession(headers=headers) as client, client.request(method, url, json=document) as response:
        assert response.status < 300, await response.text()
        return await response.json()


async def removed(redis: Redis, keys: Keys) -> int:
    return COUNT - int(await redis.zcard(keys("failed")))


async def test_reload_and_stop_during_an_action(make_daemon: MakeDaemon, redis: Redis, keys: Keys) -> None:
    """The audit has what was done before the stop, and running it again does the rest."""
    await fill(redis, keys, COUNT)
    kept = {"FLOWSTATE_QUEUE_FAILED_MAX_COUNT": "0", "FLOWSTATE_QUEUE_FAILED_RETENTION_DAYS": "0"}
    daemon = make_daemon(FLOWSTATE_HTTP_API_TOKEN=TOKEN, **kept)
    await daemon.start()
    await daemon.ready()
    action = {"action": "remove", "state": "failed", "filter": {"recipient": "example"}}
    started = await call(daemon, "POST", "/actions", action)
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
        await call(daemon, "POST", "/actions", action)
    await eventually(lambda: removed(redis, keys), "the rest is removed", equals=COUNT, within_s=60)
