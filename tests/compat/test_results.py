"""Checklist 1-5, 9, 10, 31: how npm bull's jobs end under the Python worker, and what stays of them."""

from __future__ import annotations

import json
import time

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.worker.results import MAX_REASON_LENGTH
from tests.compat import flowstate_mails
from tests.compat.driver import NodeError, NodeQueue
from tests.compat.worker import WorkerHarness
from tests.support.waiting import clock_passed, hash_of, number

pytestmark = pytest.mark.node

HOSTILE = 'emoji 🙂👩‍🚀, "quotes", \\back\\slashes\\, </script>, \u2028 and\nnew lines'


async def kept(redis: Redis, keys: Keys, ending: str) -> list[str]:
    """The ids in an ending's set, oldest first, after checking that set and hashes agree."""
    members = [str(member) for member in await redis.zrange(keys(ending), 0, -1)]
    hashes = [key async for key in redis.scan_iter(keys("[0-9]*"), _type="HASH")]
    assert sorted(hashes) == sorted(keys.job(job_id) for job_id in members)
    return members


async def test_01_a_plain_job_completes_as_bull_records_it(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """Times have 13 digits, the value is JSON, the score is the end, nothing stays locked or active."""
    job_id = await q.add("welcome", {"type": "welcome", "to": "ada@example.org", "context": {"name": "Ada"}})
    await q.wait_for_event("completed", job_id)
    job = await hash_of(redis, keys, job_id)
    assert len(job["processedOn"]) == len(job["finishedOn"]) == 13
    assert job["timestamp"] <= job["processedOn"] <= job["finishedOn"]
    assert json.loads(job["returnvalue"])["to"] == "ada@example.org"
    assert await redis.zscore(keys("completed"), job_id) == int(job["finishedOn"])
    assert not await redis.exists(keys("active"), keys.lock(job_id))


async def test_02_mails_with_flowstates_options_leave_nothing_behind(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """After all nine kinds only the counter and the stalled check's gate remain; each completed once."""
    added = [
        await q.add(kind, flowstate_mails.data(kind), **flowstate_mails.options(kind)) for kind in flowstate_mails.KINDS
    ]
    await q.wait_for_event("completed", times=len(added))
    remaining = {key async for key in redis.scan_iter(keys("*")) if not key.startswith(keys.own(""))}
    # The gate of the stalled check is there only if a check had something to look at.
    assert remaining - {keys("stalled-check")} == {keys("id")}
    completed = q.received("completed")
    assert sorted(event.job_id for event in completed) == sorted(added)
    assert all(json.loads(event.args[1])["to"] for event in completed)


async def test_03_finished_resolves_at_once_although_the_job_removes_itself(q: NodeQueue, w: WorkerHarness) -> None:
    """`job.finished()` gets the handler's value with the event, not with the poll after five seconds."""
    job_id = await q.add("echo", {"ms": 300, "said": HOSTILE}, removeOnComplete=True)
    begun = time.monotonic()
    assert await q.job(job_id, "finished") == {"ms": 300, "said": HOSTILE}
    assert time.monotonic() - begun < 1.3


async def test_04_finished_rejects_with_the_recorded_reason(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """The message of the rejection, the hash and the event contain the same text."""
    job_id = await q.add("throw", {"message": HOSTILE})
    with pytest.raises(NodeError) as refused:
        await q.job(job_id, "finished")
    assert str(refused.value) == HOSTILE == await redis.hget(keys.job(job_id), "failedReason")
    assert (await q.wait_for_event("failed", job_id)).args[1] == HOSTILE


async def test_05_an_unknown_name_is_an_ordinary_failed_attempt(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """It runs as often as its attempts say, with Bull's message, and fails once."""
    job_id = await q.add("nobody-knows", {}, attempts=2, backoff=100)
    await q.wait_for_event("failed", job_id)
    job = await hash_of(redis, keys, job_id)
    assert job["failedReason"] == "Missing process handler for job type nobody-knows"
    assert job["attemptsMade"] == "2"
    assert len(q.received("active", job_id)) == 2
    assert len(q.received("failed", job_id)) == 1


async def test_09_remove_on_fail_keeps_nothing_or_the_newest(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """`true` removes hash, logs and entry but still publishes the event; a number keeps exactly the newest so many."""
    job_id = await q.add("report", {"message": "no"}, removeOnFail=True)
    assert (await q.wait_for_event("failed", job_id)).args[1] == "no"
    assert not await redis.exists(keys.job(job_id), keys.logs(job_id), keys("failed"))
    added = []
    for count in range(5):
        added.append(await q.add("report", {"message": str(count)}, removeOnFail=2))
        await q.wait_for_event("failed", added[-1])
    assert await kept(redis, keys, "failed") == added[-2:]
    assert [await redis.exists(keys.logs(job_id)) for job_id in added] == [0, 0, 0, 1, 1]


async def test_10_remove_on_complete_keeps_by_count_and_by_age(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """At every step the set and the hashes agree with the retention of the last job."""

    async def run(request: object) -> str:
        job_id = await q.add("echo", {}, removeOnComplete=request)
        await q.wait_for_event("completed", job_id)
        return job_id

    added = [await run(3) for _ in range(5)]
    assert await kept(redis, keys, "completed") == added[-3:]
    added.append(await run({"count": 2}))
    assert await kept(redis, keys, "completed") == added[-2:]
    for _ in range(2):
        await clock_passed(redis, await number(redis, keys, added[-1], "finishedOn") + 1_050)
        added.append(await run({"age": 1}))
        assert await kept(redis, keys, "completed") == added[-1:]


async def test_31_hostile_text_of_200_kb_makes_the_round_trip(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """Data comes back equal; a reason is cut to a readable length and breaks no listener."""
    long = HOSTILE * (200_000 // len(HOSTILE))
    job_id = await q.add("echo", {"said": long})
    assert await q.job(job_id, "finished") == {"said": long}
    failing = await q.add("throw", {"message": long})
    reason = (await q.wait_for_event("failed", failing)).args[1]
    assert reason == long[:MAX_REASON_LENGTH] == await redis.hget(keys.job(failing), "failedReason")
    assert (await q.job(failing, "toJSON"))["stacktrace"]
