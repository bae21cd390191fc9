"""kill -9, again and again, while mails flow: every mail accepted, none twice, every job settled."""

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
RECOVERY_S = 10.0  # far below Bull's 60 s, on however busy a machine; `make bench` tells the real figure


async def enqueue(connection: Connection, keys: Keys) -> None:
    producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=4, backoff_ms=2000)
    orders = [NewMail("welcome", f"person-{number}@example.org", {"name": "Ada"}) for number in range(MAILS)]
    await producer.enqueue_many(orders)


@pytest.mark.timeout(300)
async def test_twenty_kills_lose_nothing_and_send_nothing_twice(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """10,000 mails, 20 x SIGKILL at random moments of sending; each restart is at work again at once."""
    provider.latency_s = 0.25  # slow enough, with few slots, that every kill finds mails under way
    await enqueue(connection, keys)
    chance = random.Random(7)
    recoveries = []
    for _ in range(KILLS):
        async with make_daemon(FLOWSTATE_QUEUE_CONCURRENCY="30") as daemon:
            recoveries.append(await at_work(daemon, provider))
            await asyncio.sleep(chance.uniform(0.0, 0.4))  # the moment of the kill is what is tried here
            assert daemon.process is not None
            assert daemon.process.returncode is None, daemon.log_text()
            await daemon.kill()
    provider.latency_s = 0.0
    async with make_daemon(FLOWSTATE_QUEUE_CONCURRENCY="30") as daemon:
        recoveries.append(await at_work(daemon, provider))
        await eventually(lambda: empty(redis, keys), "all jobs settled", within_s=60)

    got = Counter(mail.to[0] if isinstance(mail.to, (list, tuple)) else mail.to for mail in provider.accepted)
    assert len(got) == MAILS
    assert provider.duplicates() == []
    assert set(got.values()) == {1}
    assert await redis.zcard(keys("failed")) == 0
    print("seconds from start to first request:", sorted(round(seconds, 2) for seconds in recoveries))
    assert max(recoveries) < RECOVERY_S, recoveries


async def at_work(daemon: Daemon, provider: FakeResend) -> float:
    """Seconds from the start of the process until it asks the provider for something."""
    clock, before = Clock(), sum(provider.requests.values())
    started = clock.monotonic()

    async def asked() -> bool:
        return sum(provider.requests.values()) > before

    await eventually(asked, "a request after the start")
    return clock.monotonic() - started


async def empty(redis: Redis, keys: Keys) -> bool:
    lists = [await redis.llen(keys(name)) for name in ("wait", "active")]
    return sum(lists) + int(await redis.zcard(keys("delayed"))) == 0
