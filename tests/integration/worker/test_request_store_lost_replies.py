"""A request that Redis stored although its reply was lost: it is sent as the same bytes, or not at all."""

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
def lost_reply(harness: DispatcherHarness, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The reply to the first save is lost; the event says when."""
    call, lost = harness.connection.execute, asyncio.Event()

    async def lose_reply(*command: Any) -> Any:
        answer = await call(*command)
        if command[:2] == ("EVALSHA", STORE) and not lost.is_set():
            lost.set()
            raise StoreUnavailableError("the connection broke")
        return answer

    monkeypatch.setattr(harness.connection, "execute", lose_reply)
    return lost


async def send_two(
    harness: DispatcherHarness, lost_reply: asyncio.Event
) -> tuple[list[Any], list[asyncio.Task[Accepted]]]:
    await harness.connection.execute(
        "SCRIPT", "LOAD", load_scripts()["request_save"].text
    )  # else the first EVALSHA would miss
    jobs = await harness.jobs(2)
    tasks = [harness.post(job) for job in jobs]
    async with asyncio.timeout(5):
        await lost_reply.wait()
    return jobs, tasks


async def test_released_mail_is_sent_in_the_same_request(
    harness: DispatcherHarness, fake: FakeResend, lost_reply: asyncio.Event
) -> None:
    """It is bound to the request of both; the other email must not have been sent in a request of its own."""
    jobs, tasks = await send_two(harness, lost_reply)
    tasks[1].cancel()
    assert isinstance((await wait_for_results(tasks))[0], Accepted)
    assert isinstance(
        (await wait_for_results([harness.post(job) for job in await harness.released(jobs[1:])]))[0], Accepted
    )
    assert [len(fake.accepted), fake.duplicates()] == [2, []]


async def test_mail_claimed_by_another_worker_is_sent_once(
    harness: DispatcherHarness, fake: FakeResend, lost_reply: asyncio.Event, redis: Redis
) -> None:
    """The other worker may send the stored bytes; so does this one."""
    jobs, tasks = await send_two(harness, lost_reply)
    await redis.set(harness.keys.lock(jobs[1].id), "another/worker")
    results = await wait_for_results(tasks)
    assert (type(results[0]), type(results[1])) == (Accepted, LockLostError)
    await redis.set(harness.keys.lock(jobs[1].id), harness.token)
    assert isinstance(
        (await wait_for_results([harness.post(job) for job in await harness.released(jobs[1:])]))[0], Accepted
    )
    assert [len(fake.accepted), fake.duplicates()] == [2, []]
