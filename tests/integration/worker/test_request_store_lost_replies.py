"""A seal that Redis executed without being heard: whoever comes back to it sends the same bytes, or nobody does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import LockLostError, StoreUnavailableError
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.redis_client.scripts import load_scripts
from tests.support.dispatcher_harness import DispatcherHarness, wait_for_results
from tests.support.fake_resend import FakeResend

STORE = load_scripts()["request_save"].sha


@pytest.fixture
def unheard(harness: DispatcherHarness, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The answer to the first seal is lost on its way; the event says when."""
    call, lost = harness.connection.execute, asyncio.Event()

    async def deaf(*command: Any) -> Any:
        answer = await call(*command)
        if command[:2] == ("EVALSHA", STORE) and not lost.is_set():
            lost.set()
            raise StoreUnavailableError("the connection broke")
        return answer

    monkeypatch.setattr(harness.connection, "execute", deaf)
    return lost


async def both_under_way(
    harness: DispatcherHarness, unheard: asyncio.Event
) -> tuple[list[Any], list[asyncio.Task[Accepted]]]:
    await harness.connection.execute(
        "SCRIPT", "LOAD", load_scripts()["request_save"].text
    )  # or the first call would be a miss
    jobs = await harness.jobs(2)
    tasks = [harness.post(job) for job in jobs]
    async with asyncio.timeout(5):
        await unheard.wait()
    return jobs, tasks


async def test_a_mail_that_is_handed_back_meanwhile(
    harness: DispatcherHarness, fake: FakeResend, unheard: asyncio.Event
) -> None:
    """It is bound to the request of both; the other one must not have left in a request of its own."""
    jobs, tasks = await both_under_way(harness, unheard)
    tasks[1].cancel()
    assert isinstance((await wait_for_results(tasks))[0], Accepted)
    assert isinstance(
        (await wait_for_results([harness.post(job) for job in await harness.released(jobs[1:])]))[0], Accepted
    )
    assert [len(fake.accepted), fake.duplicates()] == [2, []]


async def test_a_mail_that_another_worker_takes_meanwhile(
    harness: DispatcherHarness, fake: FakeResend, unheard: asyncio.Event, redis: Redis
) -> None:
    """The other worker may send the sealed bytes; so do we."""
    jobs, tasks = await both_under_way(harness, unheard)
    await redis.set(harness.keys.lock(jobs[1].id), "another/worker")
    results = await wait_for_results(tasks)
    assert (type(results[0]), type(results[1])) == (Accepted, LockLostError)
    await redis.set(harness.keys.lock(jobs[1].id), harness.token)
    assert isinstance(
        (await wait_for_results([harness.post(job) for job in await harness.released(jobs[1:])]))[0], Accepted
    )
    assert [len(fake.accepted), fake.duplicates()] == [2, []]
