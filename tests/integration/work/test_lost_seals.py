"""A seal that Redis executed without being heard: whoever comes back to it sends the same bytes, or nobody does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import LockLost, Outage
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.queue.scripts import catalogue
from tests.support.depot import Depot, fates
from tests.support.fake_resend import FakeResend

SEAL = catalogue()["seal"].sha


@pytest.fixture
def unheard(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The answer to the first seal is lost on its way; the event says when."""
    call, lost = depot.connection.call, asyncio.Event()

    async def deaf(*command: Any) -> Any:
        answer = await call(*command)
        if command[:2] == ("EVALSHA", SEAL) and not lost.is_set():
            lost.set()
            raise Outage("the connection broke")
        return answer

    monkeypatch.setattr(depot.connection, "call", deaf)
    return lost


async def both_under_way(depot: Depot, unheard: asyncio.Event) -> tuple[list[Any], list[asyncio.Task[Accepted]]]:
    await depot.connection.call("SCRIPT", "LOAD", catalogue()["seal"].text)  # or the first call would be a miss
    jobs = await depot.jobs(2)
    tasks = [depot.post(job) for job in jobs]
    async with asyncio.timeout(5):
        await unheard.wait()
    return jobs, tasks


async def test_a_mail_that_is_handed_back_meanwhile(depot: Depot, fake: FakeResend, unheard: asyncio.Event) -> None:
    """It is bound to the request of both; the other one must not have left in a request of its own."""
    jobs, tasks = await both_under_way(depot, unheard)
    tasks[1].cancel()
    assert isinstance((await fates(tasks))[0], Accepted)
    assert isinstance((await fates([depot.post(job) for job in await depot.handed_back(jobs[1:])]))[0], Accepted)
    assert [len(fake.accepted), fake.duplicates()] == [2, []]


async def test_a_mail_that_another_worker_takes_meanwhile(
    depot: Depot, fake: FakeResend, unheard: asyncio.Event, redis: Redis
) -> None:
    """The other worker may send the sealed bytes; so do we."""
    jobs, tasks = await both_under_way(depot, unheard)
    await redis.set(depot.keys.lock(jobs[1].id), "another/worker")
    results = await fates(tasks)
    assert (type(results[0]), type(results[1])) == (Accepted, LockLost)
    await redis.set(depot.keys.lock(jobs[1].id), depot.token)
    assert isinstance((await fates([depot.post(job) for job in await depot.handed_back(jobs[1:])]))[0], Accepted)
    assert [len(fake.accepted), fake.duplicates()] == [2, []]
