"""Redis loses its newest writes, in a failover or a power cut: no email is sent twice, and none is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.support.fake_resend import FakeResend
from tests.support.redis_topologies import LaggingPair, lagging_pair
from tests.support.waiting import eventually

# Short, so that jobs which come back as active are processed again soon.
LOCKS = {"FLOWSTATE_QUEUE_LOCK_DURATION_MS": "5000", "FLOWSTATE_QUEUE_STALLED_INTERVAL_MS": "3000"}
WITHIN_S = 90.0


@pytest.fixture
async def pair() -> AsyncIterator[LaggingPair]:
    async with lagging_pair() as pair:
        yield pair


async def add(url: str, keys: Keys, count: int, *, first: int = 0, codes: int = 0) -> None:
    """Enqueue `count` emails, each to its own person, of which every tenth or so is a code."""
    connection = Connection(url, client_name="test")
    producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=4, backoff_ms=2000)
    every = count // codes if codes else count + 1
    orders = [order(number, code=number % every == every - 1) for number in range(first, first + count)]
    await producer.enqueue_many(orders)
    await connection.close()


def order(number: int, *, code: bool) -> NewMail:
    to = f"person-{number}@example.org"
    if not code:
        return NewMail("welcome", to, {"name": f"Ada {number}"})
    if number % 2:
        return NewMail("otp", to, {"otpCode": f"{number:06}"})
    return NewMail("password-reset", to, {"otpCode": f"{number:06}"})


async def all_settled(url: str, keys: Keys) -> bool:
    """Whether no job waits or is active."""
    client = Redis.from_url(url, decode_responses=True, protocol=2)
    try:
        lists = [await client.llen(keys(name)) for name in ("wait", "active")]
        return sum(lists) + int(await client.zcard(keys("delayed"))) == 0
    finally:
        await client.aclose()


async def accepted(provider: FakeResend, count: int) -> None:
    await eventually(lambda: len(provider.accepted) >= count, f"{count} emails accepted", within_s=WITHIN_S)


def received(provider: FakeResend) -> Counter[str]:
    return Counter(mail.to[0] for mail in provider.accepted)


async def lose_writes(pair: LaggingPair, provider: FakeResend, *, lost: int) -> None:
    """Fail over to a replica that misses what happened while the last `lost` emails were sent."""
    pair.hold_up()
    await accepted(provider, len(provider.accepted) + lost)
    await pair.fail_over()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("lost", "codes"), [(1, 0), (150, 0), (700, 20), (1500, 100)])
async def test_failover_with_lost_writes_sends_nothing_twice(
    pair: LaggingPair, make_daemon: MakeDaemon, provider: FakeResend, keys: Keys, database_url: str,
    lost: int, codes: int,
) -> None:  # fmt: skip
    """With Postgres, whatever the replica misses: each email reaches the provider once, and no job fails."""
    mails = 2500
    provider.latency_s = 0.03
    await add(pair.url, keys, mails, codes=codes)
    async with make_daemon(REDIS_URL=pair.url, DATABASE_URL=database_url, **LOCKS) as daemon:
        await daemon.ready()
        await accepted(provider, 300)
        await lose_writes(pair, provider, lost=lost)
        await eventually(lambda: all_settled(pair.url, keys), "all jobs settled", within_s=WITHIN_S)
        found = received(provider)
        assert [to for to, times in found.items() if times > 1] == []
        assert len(found) == mails
        assert await pair.replica.client.zcard(keys("failed")) == 0
        await eventually(lambda: ledger_is(database_url, provider), "the ledger is complete", within_s=WITHIN_S)
        assert daemon.process is not None
        assert daemon.process.returncode is None


async def ledger_is(database_url: str, provider: FakeResend) -> bool:
    """Whether the ledger has exactly the emails that the provider has accepted."""
    server = await asyncpg.connect(database_url)
    try:
        rows = await server.fetch("SELECT provider_id FROM flowstate_daemon.mails WHERE outcome = 'sent'")
    finally:
        await server.close()
    return sorted(row["provider_id"] for row in rows) == sorted(mail.id for mail in provider.accepted)
