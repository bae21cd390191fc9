"""Daemons with a rate limited provider: urgent codes, a drain with waiting emails, and a rate shared by three."""

from __future__ import annotations

import signal
from collections import Counter

from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Backoff, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually


async def enqueue(connection: Connection, keys: Keys, recipients: list[str], *, kind: str = "welcome") -> None:
    context, priority = ({"otpCode": "123456"}, 1) if kind == "otp" else ({"name": "Ada"}, 5)
    jobs = [
        NewJob(
            kind,
            {"type": kind, "to": to, "context": context},
            priority=priority,
            attempts=4,
            backoff=Backoff("fixed", 500),
        )
        for to in recipients
    ]
    await BullQueue(connection, keys, Clock(), token="test").add_many(jobs)


async def test_code_is_sent_with_the_next_request_and_drain_loses_nothing(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """With a backlog at two requests a second, a code is in the next request, and SIGTERM releases the other jobs."""
    provider.rate.limit = 2
    recipients = [f"person{number}@mail.dev" for number in range(900)]
    await enqueue(connection, keys, recipients)
    async with make_daemon(FLOWSTATE_QUEUE_SHUTDOWN_TIMEOUT_S="0.2") as daemon:
        await eventually(lambda: accepted(provider, 200), "two requests")
        await enqueue(connection, keys, ["code@mail.dev"], kind="otp")
        before = len({mail.key for mail in provider.accepted})
        await eventually(lambda: is_accepted(provider, "code@mail.dev"), "the code", within_s=2)
        # One request may have been under way; at two requests a second, the code waited for no further one.
        assert len({mail.key for mail in provider.accepted}) <= before + 2
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
    assert await redis.llen(keys("active")) == 0
    async with make_daemon():
        await eventually(lambda: accepted(provider, 901), "the rest")
    assert Counter(mail.to[0] for mail in provider.accepted) == Counter([*recipients, "code@mail.dev"])
    # The limiter spaces the starts; a machine that holds one request back for 50 ms brings it into the next second.
    assert provider.answered[429] <= 3


async def test_three_daemons_share_the_rate_limit(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """At five requests a second they take as long as one daemon, get almost no 429, and send nothing twice."""
    provider.rate.limit = 5
    recipients = [f"person{number}@mail.dev" for number in range(4000)]
    clock = Clock()
    async with make_daemon("one") as one, make_daemon("two") as two, make_daemon("three") as three:
        for daemon in (one, two, three):
            await daemon.ready()
        await enqueue(connection, keys, recipients)
        started = clock.monotonic()
        await eventually(lambda: accepted(provider, len(recipients)), "all emails", within_s=40)
        duration_s = clock.monotonic() - started
    requests = len({mail.key for mail in provider.accepted})
    assert Counter(mail.to[0] for mail in provider.accepted) == Counter(recipients)
    # Each daemon with a limit of its own would be refused ten times a second. The share of refusals that the limiter
    # itself causes is asserted on a virtual clock (test_rate_limiter.py); here a busy machine delays requests on their
    # way, and 50 ms of that are enough for a sixth one in a second.
    assert provider.answered[429] <= 2 + requests // 10
    assert requests <= 60  # each of the three daemons sends an incomplete batch now and then
    assert duration_s >= (requests - 5) / 5 * 0.95


async def accepted(provider: FakeResend, count: int) -> bool:
    return len(provider.accepted) >= count


async def is_accepted(provider: FakeResend, address: str) -> bool:
    return any(mail.to[0] == address for mail in provider.accepted)
