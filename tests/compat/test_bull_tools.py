"""Checklist 21, 22, 26, 29, 30: what people do with bull-board and npm bull while the Python worker runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import JobFailed, JobSucceeded
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.compat.driver import NodeQueue, OpenNode
from tests.compat.worker import StartWorker, WorkerHarness
from tests.support.waiting import clock_passed, eventually, number

pytestmark = pytest.mark.node


@pytest.fixture
async def board(q: NodeQueue) -> AsyncIterator[ClientSession]:
    """A browser's view of bull-board over the test's queue."""
    async with ClientSession(await q.board(), raise_for_status=True) as session:
        yield session


async def page(board: ClientSession, status: str) -> dict[str, Any]:
    """The queue as bull-board's page of this status gets it."""
    wanted = {"activeQueue": "email", "status": status, "page": "1", "jobsPerPage": "10"}
    async with board.get("/api/queues", params=wanted) as answer:
        queues: list[dict[str, Any]] = (await answer.json())["queues"]
    return queues[0]


async def test_21_bull_board_shows_retries_and_cleans(
    q: NodeQueue, w: WorkerHarness, board: ClientSession, redis: Redis, keys: Keys
) -> None:
    """Pages render, logs and workers show, one retry and "retry all" run, "clean" cleans."""
    done = await q.add("report", {})
    failed = [await q.add("report", {"message": str(n)}) for n in range(3)]
    await q.wait_for_event("completed", done)
    await q.wait_for_event("failed", times=3)

    async with board.get("/queue/email") as html:
        assert "<html" in await html.text()
    assert [job["id"] for job in (await page(board, "completed"))["jobs"]] == [done]
    shown = await page(board, "failed")
    assert shown["counts"]["failed"] == 3
    assert shown["hasWorkers"]
    assert {(job["id"], job["failedReason"]) for job in shown["jobs"]} == set(zip(failed, "012", strict=True))
    async with board.get(f"/api/queues/email/{done}/logs") as logs:
        assert await logs.json() == ["half of it", "nearly there"]

    await q.job(failed[0], "update", {})
    await board.put(f"/api/queues/email/{failed[0]}/retry")
    await q.wait_for_event("completed", failed[0])
    for job_id in failed[1:]:
        await q.job(job_id, "update", {})
    async with board.put("/api/queues/email/retry/failed") as answer:
        assert (await answer.json())["retried"] == 2
    await q.wait_for_event("completed", times=4)
    assert (await page(board, "failed"))["counts"]["failed"] == 0

    # "clean" spares what ended in the last five seconds: let the four look older than that.
    for job_id in (done, *failed):
        ended = await number(redis, keys, job_id, "finishedOn") - 6_000
        await redis.hset(keys.job(job_id), "finishedOn", ended)
        await redis.zadd(keys("completed"), {job_id: ended})
    await board.put("/api/queues/email/clean/completed")
    assert (await page(board, "completed"))["jobs"] == []


MAIL = {"type": "welcome", "to": "ada@example.org", "context": {"name": "Ada"}}


async def test_bull_board_shows_emails_that_wait_and_that_failed(
    q: NodeQueue, board: ClientSession, redis: Redis, keys: Keys, connection: Connection
) -> None:
    """As docs/bull-board.md says: waiting emails with their codes, failed ones with the reason; no sent ones."""
    waiting = await q.add("otp", {"type": "otp", "to": "ada@example.org", "context": {"otpCode": "482913"}})
    (shown,) = (await page(board, "waiting"))["jobs"]
    assert (shown["id"], shown["name"], shown["data"]["context"]["otpCode"]) == (waiting, "otp", "482913")
    bull = BullQueue(connection, keys, Clock(), token="daemon/test")
    (job,) = await bull.claim(1)
    assert (await page(board, "active"))["counts"]["active"] == 1
    await bull.complete([JobSucceeded(job, b"{}")])
    failed = await q.add("welcome", MAIL)
    (job,) = await bull.claim(1)
    await bull.fail([JobFailed(job, "parked: it may have been sent", b"[]")])
    (shown,) = (await page(board, "failed"))["jobs"]
    assert (shown["id"], shown["failedReason"], shown["data"]) == (failed, "parked: it may have been sent", MAIL)


async def test_read_only_bull_board_changes_nothing(q: NodeQueue, redis: Redis, keys: Keys) -> None:
    """`readOnlyMode`, which docs/bull-board.md recommends, refuses the requests behind the buttons."""
    await redis.hset(keys.job("f1"), mapping={"name": "welcome", "data": "{}", "opts": "{}", "failedReason": "no"})
    await redis.zadd(keys("failed"), {"f1": 1})
    async with ClientSession(await q.board(readOnlyMode=True)) as session:
        for change in ("retry/failed", "clean/failed", "f1/retry", "f1/clean", "pause", "empty", "obliterate"):
            async with session.put(f"/api/queues/email/{change}") as answer:
                assert answer.status >= 400, change
        assert [job["id"] for job in (await page(session, "failed"))["jobs"]] == ["f1"]
    assert await redis.zcard(keys("failed")) == 1
    assert not await redis.exists(keys("meta-paused"))


async def test_22_progress_and_logs_reach_node(q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys) -> None:
    """A listener receives the progress, the hash contains it, and the log rows are in order."""
    job_id = await q.add("report", {})
    assert (await q.wait_for_event("progress", job_id)).args[1] == 50
    await q.wait_for_event("completed", job_id)
    assert await redis.hget(keys.job(job_id), "progress") == "50"
    logs = await q.call("getJobLogs", job_id)
    assert logs == {"logs": ["half of it", "nearly there"], "count": 2}


@pytest.mark.parametrize(("name", "ending"), [("echo", "completed"), ("throw", "failed")])
async def test_26_clean_takes_the_old_and_keeps_the_young(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys, name: str, ending: str
) -> None:
    """`clean(60000)` finds nothing to do, `clean(0)` returns all ids and removes their hashes."""
    added = [await q.add(name, {"message": "no"}) for _ in range(5)]
    await q.wait_for_event(ending, times=5)
    assert await q.call("clean", 60_000, ending) == []
    await clock_passed(redis, await number(redis, keys, added[-1], "finishedOn"))
    assert sorted(await q.call("clean", 0, ending)) == sorted(added)
    assert not await redis.exists(keys(ending), *(keys.job(job_id) for job_id in added))


async def test_29_a_prefix_in_braces_keeps_all_keys_in_one_slot(
    open_node: OpenNode, start_worker: StartWorker, redis: Redis
) -> None:
    """With prefix `{bull}` on both sides jobs run, and every key begins with `{bull}:email:`."""
    for key in [key async for key in redis.scan_iter("{bull}:*")]:
        await redis.delete(key)
    before = {key async for key in redis.scan_iter("*")}
    keys = Keys("{bull}", "email")
    q = await open_node(prefix=keys.prefix)
    await start_worker(keys)
    done = await q.add("echo", {"said": "hello"})
    await q.wait_for_event("completed", done)
    failed = await q.add("throw", {"message": "no"}, attempts=2, backoff=100)
    await q.wait_for_event("failed", failed)
    await q.add("echo", {}, delay=60_000)
    assert len(await q.call("getWorkers")) == 1
    new = {key async for key in redis.scan_iter("*")} - before
    assert new
    assert all(key.startswith("{bull}:email:") for key in new)


async def test_30_obliterate_under_a_running_job_leaves_no_stub(
    q: NodeQueue, w: WorkerHarness, redis: Redis, keys: Keys
) -> None:
    """The worker drops the job it held and writes nothing; the next job gets id 1 and runs."""
    held = await q.add("echo", {"ms": 500})
    await q.wait_for_event("active", held)
    await q.call("pause")
    await q.call("obliterate", {"force": True})
    await eventually(lambda: held_by(w), equals=0)
    hashes = [key async for key in redis.scan_iter(keys("*"), _type="HASH")]
    assert not [key for key in hashes if not key.startswith(keys.own("")) and not await redis.hexists(key, "name")]
    assert await q.add("echo", {"n": 1}) == "1"
    await q.wait_for_event("completed", "1")
    assert not q.received("completed", "2")


async def held_by(w: WorkerHarness) -> int:
    """How many jobs the worker still thinks of."""
    return len(w.worker.in_flight)
