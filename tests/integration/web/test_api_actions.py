"""Actions on many jobs over the API: preview, progress, stop; all of it at any size of the queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.operations.jobs import MAX_RUNNING
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import BORN
from tests.support.operator_api import ApiClient, build_operator, serve_api
from tests.support.proxy import FaultProxy
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
    """The action when it has ended. Before that it is not asked over HTTP, which is limited."""
    running = api.operator.actions.find(action_id)
    if running is None or running.finished_at is None:
        return None
    return (await api.get(f"/actions/{action_id}"))[1]


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
    (entry,) = (await api.get("/audit"))[1]["entries"]
    assert (entry["action"], entry["count"], "timeout" in entry["target"]) == ("queue retry", 250, True)


async def test_action_is_stopped_between_two_pieces(api: ApiClient, redis: Redis, keys: Keys) -> None:
    """What was done stays done and is in the audit; the rest is untouched; a second stop has nothing to stop."""
    await fill(redis, keys, 30_000)
    _, started = await api.post("/actions", {"action": "retry", **FAILED})
    assert await api.call("DELETE", f"/actions/{started['id']}") == (204, None)
    stopped = await eventually(lambda: finished(api, started["id"]), "the action stops")
    assert (stopped["stopped"], stopped["done"] < 30_000) == (True, True)
    assert (await api.get("/queue"))[1]["failed"] == 30_000 - stopped["done"]
    (entry,) = (await api.get("/audit"))[1]["entries"]
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


async def test_two_actions_at_once_leave_nothing_out(api: ApiClient, redis: Redis, keys: Keys) -> None:
    """One operator removes what the other one leaves: each changes all that match, whatever the other takes away."""
    await fill(redis, keys, 8_000)
    wanted = [
        {"action": "retry", **FAILED, "filter": {"reason": "timeout"}},
        {"action": "remove", **FAILED, "filter": {"reason": "422"}},
    ]
    started = [(await api.post("/actions", one))[1] for one in wanted]
    done = [await eventually(lambda one=one: finished(api, one["id"]), "both end") for one in started]  # type: ignore[misc]
    assert [one["done"] for one in done] == [2_000, 6_000]
    assert {name: count for name, count in (await api.get("/queue"))[1].items() if name in ("failed", "wait")} == {
        "failed": 0,
        "wait": 2_000,
    }
    entries = (await api.get("/audit"))[1]["entries"]
    assert {(entry["action"], entry["count"]) for entry in entries} == {("queue retry", 2_000), ("queue clean", 6_000)}


@pytest.fixture
async def proxy(valkey_url: str) -> AsyncIterator[FaultProxy]:
    """The network between the API and Redis."""
    address = urlsplit(valkey_url)
    async with FaultProxy(address.hostname or "127.0.0.1", address.port or 6379) as proxy:
        yield proxy


@pytest.fixture
async def distant_api(proxy: FaultProxy, keys: Keys, api: ApiClient) -> AsyncIterator[ApiClient]:
    """The API of a daemon that reaches Redis through the proxy."""
    connection = Connection(f"redis://127.0.0.1:{proxy.port}/0", client_name=keys.client_name)
    async with serve_api(build_operator(connection, keys, Clock())) as distant:
        yield distant
    await connection.close()


async def begun(api: ApiClient, action: dict[str, Any]) -> Any:
    """An action that has changed its first jobs."""
    _, started = await api.post("/actions", action)
    running = api.operator.actions.find(started["id"])
    assert running is not None
    await eventually(lambda: running.done > 0, "the action changes jobs")
    return started


async def waits(api: ApiClient, action_id: str) -> bool:
    running = api.operator.actions.find(action_id)
    if running is None or not running.waiting_for:
        return False
    return "Redis" in (await api.get(f"/actions/{action_id}"))[1]["waiting_for"]


async def test_action_goes_on_after_an_outage(
    distant_api: ApiClient, api: ApiClient, proxy: FaultProxy, redis: Redis, keys: Keys
) -> None:
    """It says what it waits for, changes all the same, and the audit has one row with who, what, filter and count."""
    count = 30_000
    await fill(redis, keys, count)
    action = await begun(distant_api, {"action": "retry", **FAILED, "filter": {"recipient": "@example.org"}})
    await proxy.refuse()
    proxy.cut()
    await eventually(lambda: waits(distant_api, action["id"]), "the action waits")
    await proxy.admit()
    done = await eventually(lambda: finished(distant_api, action["id"]), "the action ends", within_s=60)
    assert (done["error"], done["waiting_for"], done["stopped"]) == ("", "", False)
    assert count - 100 <= done["done"] <= count  # a piece whose reply was lost is not counted
    queue = (await api.get("/queue"))[1]
    assert (queue["failed"], queue["wait"]) == (0, count)
    (entry,) = (await api.get("/audit"))[1]["entries"]
    assert entry["actor"].startswith("API token ")
    assert (entry["action"], entry["count"]) == ("queue retry", done["done"])
    assert entry["target"] == "failed jobs (recipient contains '@example.org')"
    assert entry["at"] >= "2026"


async def test_action_is_stopped_during_an_outage(
    distant_api: ApiClient, api: ApiClient, proxy: FaultProxy, redis: Redis, keys: Keys
) -> None:
    """At once, without Redis; running it again does the rest."""
    await fill(redis, keys, 10_000)
    action = await begun(distant_api, {"action": "retry", **FAILED})
    await proxy.refuse()
    proxy.cut()
    await eventually(lambda: waits(distant_api, action["id"]), "the action waits")
    assert (await distant_api.call("DELETE", f"/actions/{action['id']}"))[0] == 204
    stopped = await eventually(lambda: finished(distant_api, action["id"]), "the action stops")
    assert stopped["stopped"] is True
    await proxy.admit()
    _, again = await api.post("/actions", {"action": "retry", **FAILED})
    rest = await eventually(lambda: finished(api, again["id"]), "the rest is done")
    queue = (await api.get("/queue"))[1]
    assert (queue["failed"], queue["wait"], rest["done"] < 10_000) == (0, 10_000, True)


async def test_shutdown_ends_an_action_between_two_pieces(api: ApiClient, redis: Redis, keys: Keys) -> None:
    """Nothing is half done, and the audit has what was done."""
    await fill(redis, keys, 30_000)
    action = await begun(api, {"action": "remove", **FAILED, "filter": {"reason": "timeout"}})
    await api.api.close()
    stopped = (await api.get(f"/actions/{action['id']}"))[1]
    assert stopped["finished_at"] is not None
    assert stopped["stopped"] or stopped["done"] == 7_500
    (entry,) = (await api.get("/audit"))[1]["entries"]
    assert (entry["count"], (await api.get("/queue"))[1]["failed"]) == (stopped["done"], 30_000 - stopped["done"])


async def test_more_actions_than_may_run_are_refused(api: ApiClient, redis: Redis, keys: Keys) -> None:
    """Ten at once: some run, the others are told why not, and nothing is changed twice."""
    await fill(redis, keys, 20_000)
    answers = await asyncio.gather(*(api.post("/actions", {"action": "retry", **FAILED}) for _ in range(10)))
    assert [status for status, _ in answers].count(202) == MAX_RUNNING
    assert {status for status, _ in answers} == {202, 400}
    running = [document["id"] for status, document in answers if status == 202]
    done = [await eventually(lambda one=one: finished(api, one), "all end", within_s=60) for one in running]  # type: ignore[misc]
    assert sum(one["done"] for one in done) == 20_000
    assert (await api.get("/queue"))[1]["wait"] == 20_000
