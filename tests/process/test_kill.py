"""Repeated kill -9 while emails are sent: every email is accepted once, and every job ends."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

MAILS = 10_000
KILLS = 20
RECOVERY_S = 20.0  # 1 s on a quiet machine; without recovery by the same instance the locks expire after 30 s


async def enqueue(connection: Connection, keys: Keys) -> None:
    producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=4, backoff_ms=2000)
    orders = [NewMail("welcome", f"person-{number}@example.org", {"name": "Ada"}) for number in range(MAILS)]
    await producer.enqueue_many(orders)


@pytest.mark.timeout(300)
async def test_repeated_kills_lose_nothing_and_send_nothing_twice(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """Of 10,000 emails and 20 kills at random times nothing is lost, and each restart works again at once."""
    provider.latency_s = 0.25  # so slow, with a low concurrency, that every kill finds emails in flight
    await enqueue(connection, keys)
    rng = random.Random(7)
    recoveries = []
    for _ in range(KILLS):
        async with make_daemon(FLOWSTATE_QUEUE_CONCURRENCY="30") as daemon:
            recoveries.append(await time_to_first_request(daemon, provider))
            await asyncio.sleep(rng.uniform(0.0, 0.4))  # a random time of the kill is the purpose of this test
            assert daemon.process is not None
            assert daemon.process.returncode is None, daemon.log_text()
            await daemon.kill()
    provider.latency_s = 0.0
    async with make_daemon(FLOWSTATE_QUEUE_CONCURRENCY="30") as daemon:
        recoveries.append(await time_to_first_request(daemon, provider))
        await eventually(lambda: is_empty(redis, keys), "all jobs settled", within_s=60)

    counts = Counter(mail.to[0] if isinstance(mail.to, (list, tuple)) else mail.to for mail in provider.accepted)
    assert len(counts) == MAILS
    assert provider.duplicates() == []
    assert set(counts.values()) == {1}
    assert await redis.zcard(keys("failed")) == 0
    print("seconds from start to first request:", sorted(round(seconds, 2) for seconds in recoveries))
    assert max(recoveries) < RECOVERY_S, recoveries


async def time_to_first_request(daemon: Daemon, provider: FakeResend) -> float:
    """Seconds from the start of the process until its first request to the provider."""
    clock, before = Clock(), sum(provider.requests.values())
    started = clock.monotonic()

    await eventually(lambda: sum(provider.requests.values()) > before, "a request after the start")
    return clock.monotonic() - started


async def is_empty(redis: Redis, keys: Keys) -> bool:
    lists = [await redis.llen(keys(name)) for name in ("wait", "active")]
    return sum(lists) + int(await redis.zcard(keys("delayed"))) == 0
