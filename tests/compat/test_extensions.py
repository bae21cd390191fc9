"""Beyond the checklist: both workers on one queue, repeatable and debounced jobs, broken jobs."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys
from tests.compat.driver import NodeQueue, OpenNode
from tests.compat.worker import WorkerHarness
from tests.support.waiting import eventually, hash_of

pytestmark = pytest.mark.node


async def test_node_and_python_workers_share_a_queue(
    open_node: OpenNode, q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """A thousand prioritised jobs, a third of them failing once: each is completed once, by one of the two."""
    node = await open_node()
    await node.process("*", concurrency=5, kind="return", value="by node")
    jobs = [
        {"name": "echo", "data": {"n": n}, "opts": {"priority": n % 3 + 1, "attempts": 2, "backoff": 50}}
        for n in range(1000)
    ]
    added = await q.add_bulk(jobs)
    await q.wait_for_event("completed", times=1000, within_s=30)
    assert sorted(event.job_id for event in q.received("completed")) == sorted(added)
    assert (await q.counts())["completed"] == 1000
    by_node = len(node.received("run"))
    assert 0 < by_node < 1000
    assert not await redis.exists(keys("active"), keys("priority"), keys("stalled"))


async def test_a_repeatable_job_goes_on_until_its_limit(q: NodeQueue, w: WorkerHarness) -> None:
    """Every run is followed by the next; after the last there is none."""
    await q.call("add", "echo", {"n": 1}, {"repeat": {"every": 200, "limit": 3}})
    await q.wait_for_event("completed", times=3)
    assert all(event.job_id.startswith("repeat:") for event in q.received("completed"))
    assert (await q.counts())["delayed"] == 0
    assert len(await q.call("getRepeatableJobs")) == 1


@pytest.mark.parametrize(
    "repeat",
    [
        {"cron": "0 9 * * *", "tz": "Europe/Paris"},
        {"cron": "15 */6 * * *"},
        {"cron": "30 2 * * 1-5", "tz": "America/New_York", "limit": 10},
        {"every": 3_600_000},
    ],
)
async def test_the_next_run_is_the_one_that_bull_would_write(
    q: NodeQueue, w: WorkerHarness, open_node: OpenNode, redis: Redis, keys: Keys, repeat: dict[str, object]
) -> None:
    """The successor has the id, the due time, the data and the options that npm bull's own worker gives it."""
    other = Keys(f"{keys.prefix}-theirs", keys.name)
    node = await open_node(prefix=other.prefix)
    await node.process("*", kind="return")
    following = []
    for queue, names in ((q, keys), (node, other)):
        await queue.call("add", "echo", {"n": 1}, {"repeat": repeat})
        first = await only_delayed(redis, names)
        await queue.job(first, "promote")
        await queue.wait_for_event("completed", first)
        job_id = await only_delayed(redis, names)
        job = await queue.job(job_id, "toJSON")
        due = int(await redis.zscore(names("delayed"), job_id) or 0) >> 12
        job["opts"].pop("delay")
        job["opts"].pop("timestamp")
        assert await redis.zrange(names("repeat"), 0, -1, withscores=True)
        following.append((job_id, due, job["name"], job["data"], job["opts"]))
    assert following[0] == following[1]


async def only_delayed(redis: Redis, keys: Keys) -> str:
    """The id of the one delayed job."""
    (job_id,) = await redis.zrange(keys("delayed"), 0, -1)
    return str(job_id)


async def test_a_debounced_job_frees_its_debounce_id(q: NodeQueue, w: WorkerHarness) -> None:
    """While the first one lives, adds are swallowed; after its end the next one is a job of its own."""
    await q.call("pause")
    first = await q.add("echo", {}, debounce={"id": "ada"})
    assert await q.add("echo", {}, debounce={"id": "ada"}) == first
    await q.wait_for_event("debounced")
    await q.call("resume")
    await q.wait_for_event("completed", first)
    second = await q.add("echo", {}, debounce={"id": "ada"})
    await q.wait_for_event("completed", second)
    assert second != first


@pytest.mark.parametrize(
    "broken",
    [
        {"data": "{not JSON", "opts": "{}"},
        {"data": '{"ms":0}', "opts": "not JSON"},
        {"data": '{"message":"no"}', "opts": '{"attempts":3,"backoff":{"type":"unheard-of"}}', "name": "throw"},
        {"data": '{"message":"no"}', "opts": '{"attempts":null,"removeOnFail":null}', "name": "throw"},
    ],
)
async def test_a_broken_job_fails_and_the_others_go_on(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys, broken: dict[str, str]
) -> None:
    """It is in `failed` with a reason, unlocked, instead of stalling as in npm bull; the next job completes."""
    job: Any = {
        "name": "echo",
        "timestamp": "1700000000000",
        "delay": "0",
        "priority": "0",
        **broken,
    }
    await redis.hset(keys.job("broken"), mapping=job)
    await redis.lpush(keys("wait"), "broken")
    failed = await q.wait_for_event("failed", "broken")
    assert (await hash_of(redis, keys, "broken"))["failedReason"] == failed.args[1] != ""
    await eventually(lambda: redis.zcard(keys("failed")), equals=1)
    assert not await redis.exists(keys("active"), keys.lock("broken"))
    await q.wait_for_event("completed", await q.add("echo", {}))
