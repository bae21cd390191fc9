"""The node side by itself: npm bull adds, npm bull works, and the driver says so."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys
from tests.compat import flowstate_mails
from tests.compat.driver import Driver, NodeError, NodeQueue

pytestmark = pytest.mark.node


async def test_node_processes_its_own_job(q: NodeQueue) -> None:
    """A job that npm bull adds and works on shows as events, with its value."""
    await q.process("hello", kind="return", value={"a": 1}, ms=50)
    job_id = await q.add("hello", {"x": 1})
    assert await q.job(job_id, "finished") == {"a": 1}
    done = await q.wait_for_event("completed", job_id)
    assert done.args[:2] == [job_id, '{"a":1}']
    assert (await q.wait_for_event("run")).args[0]["data"] == {"x": 1}


async def test_the_nine_mails_are_stored_as_the_backend_stores_them(q: NodeQueue) -> None:
    """All nine kinds are prioritised jobs in one order: codes first, milestones last."""
    await q.add_bulk(flowstate_mails.all_nine())
    waiting = await q.call("getWaiting")
    assert [job["name"] for job in waiting] == list(flowstate_mails.KINDS)
    assert all(job["opts"]["attempts"] == 3 for job in waiting)


async def test_an_uncaught_error_in_node_fails_the_next_question(
    node_modules: None, valkey_url: str, keys: Keys, redis: Redis
) -> None:
    """An event that is not JSON would end a backend; here it ends the driver and fails the next question."""
    driver = await Driver.start()
    queue = await driver.open(valkey_url, keys.prefix)
    await redis.publish(keys("completed"), "not JSON")
    assert await driver.ended() == 70
    with pytest.raises(NodeError, match="SyntaxError"):
        await queue.counts()
    await driver.close()
