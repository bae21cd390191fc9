"""Actions on many jobs over the API: preview, progress, stop; all of it at any size of the queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import BORN
from tests.support.operator_api import ApiClient, build_operator, serve_api
from tests.support.waiting import eventually

FILL = """
for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
  local id = 'f' .. number
  redis.call('HSET', ARGV[1] .. id, 'name', 'welcome', 'data', '{"to":"p' .. number .. '@example.org"}', 'opts', '{}',
    'timestamp', ARGV[4], 'failedReason', number % 4 == 0 and 'timeout' or '422 Invalid', 'finishedOn', ARGV[4])
  redis.call('ZADD', KEYS[1], tonumber(ARGV[4]) + number, id)
end
"""
STEP = 20_000
FAILED = {"state": "failed"}


async def fill(redis: Redis, keys: Keys, count: int) -> None:
    """Failed jobs; a quarter timed out."""
    for first in range(0, count, STEP):
        last = min(first + STEP, count) - 1
        await redis.eval(FILL, 1, keys("failed"), keys.base, first, last, BORN)


@pytest.fixture
async def api(connection: Connection, keys: Keys, redis: Redis) -> AsyncIterator[ApiClient]:
    async with serve_api(build_operator(connection, keys, Clock())) as api:
        yield api
    names = [name async for name in redis.scan_iter(f"{keys.base}*", count=20_000)]
    for first in range(0, len(names), STEP):
        await redis.unlink(*names[first : first + STEP])


async def finished(api: ApiClient, action_id: str) -> Any:
    _, document = await api.get(f"/actions/{action_id}")
    return document if document["finished_at"] is not None else None


async def test_action_changes_what_the_preview_counted(api: ApiClient, redis: Redis, keys: Keys) -> None:
    """Only the jobs that match; the action is listed with its result, and the audit names filter and count."""
    await fill(redis, keys, 1_000)
    wanted = {"action": "retry", **FAILED, "filter": {"reason": "timeout"}}
    assert await api.post("/action-previews", wanted) == (
        200,
        {"matching": 250, "exact": True, "examined": 1_000, "total": 1_000},
    )
    status, started = await api.post("/actions", wanted)
    assert (status, started["expected"], started["finished_at"]) == (202, 250, None)
    done = await eventually(lambda: finished(api, started["id"]), "the action ends")
    assert (done["done"], done["stopped"], done["error"]) == (250, False, "")
    assert [action["id"] for action in (await api.get("/actions"))[1]] == [started["id"]]
    assert (await api.get("/queue"))[1]["failed"] == 750
    (entry,) = (await api.get("/audit"))[1]
    assert (entry["action"], entry["count"], "timeout" in entry["target"]) == ("queue retry", 250, True)


async def test_action_is_stopped_between_two_pieces(api: ApiClient, redis: Redis, keys: Keys) -> None:
    """What was done stays done and is in the audit; the rest is untouched; a second stop has nothing to stop."""
    await fill(redis, keys, 30_000)
    _, started = await api.post("/actions", {"action": "retry", **FAILED})
    assert await api.call("DELETE", f"/actions/{started['id']}") == (204, None)
    stopped = await eventually(lambda: finished(api, started["id"]), "the action stops")
    assert (stopped["stopped"], stopped["done"] < 30_000) == (True, True)
    assert (await api.get("/queue"))[1]["failed"] == 30_000 - stopped["done"]
    (entry,) = (await api.get("/audit"))[1]
    assert entry["count"] == stopped["done"]
    assert (await api.call("DELETE", f"/actions/{started['id']}"))[0] == 404


async def test_preview_of_a_large_state_takes_less_than_a_second(api: ApiClient, redis: Redis, keys: Keys) -> None:
    """It estimates from an evenly spread part, so that its time does not depend on the number of jobs."""
    count = 300_000
    await fill(redis, keys, count)
    clock, times = Clock(), []
    for _ in range(3):  # the best of three: other programs use this machine
        before = clock.monotonic()
        status, preview = await api.post(
            "/action-previews", {"action": "remove", **FAILED, "filter": {"reason": "timeout", "recipient": "p"}}
        )
        times.append(clock.monotonic() - before)
        assert (status, preview["total"]) == (200, count)
        assert abs(preview["matching"] - count / 4) < count / 40
    assert min(times) < 1.0
