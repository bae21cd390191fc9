"""The rate limiter on a real server: the keys it writes, and how several instances share the rate."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.provider_state import ACCEPTING, ProviderState
from flowstate_daemon.sending.rate_limiter import POLL_INTERVAL_S, RateLimiter, RateLimitState
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock


@dataclass
class Rate:
    limit: float
    remaining: float
    reset_s: float = 1.0


@pytest.fixture
def rate_limiter(connection: Connection, keys: Keys, clock: FakeClock) -> RateLimiter:
    return RateLimiter(connection, keys, clock)


@pytest.fixture
def other(connection: Connection, keys: Keys, clock: FakeClock) -> RateLimiter:
    """The same in another daemon."""
    return RateLimiter(connection, keys, clock)


async def commands(stage: QueueFixture) -> int:
    stats = await stage.redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


async def test_without_a_limit(stage: QueueFixture, rate_limiter: RateLimiter, clock: FakeClock) -> None:
    """Any number may start, nothing is written, and Redis is asked once a second."""
    await rate_limiter.acquire()
    before = await commands(stage)
    assert {await rate_limiter.acquire(urgent=bool(number % 2)) for number in range(100)} == {0.0}
    assert await commands(stage) == before
    clock.advance(POLL_INTERVAL_S)
    assert await rate_limiter.acquire() == 0.0
    assert await commands(stage) > before
    assert await stage.dump() == {}
    assert not rate_limiter.has_limit
    assert not rate_limiter.limit_known
    await rate_limiter.update_from_headers(None)
    assert rate_limiter.limit_known


async def test_a_limit_is_learnt_for_all(
    stage: QueueFixture, rate_limiter: RateLimiter, other: RateLimiter, clock: FakeClock
) -> None:
    """What one daemon learns holds for the others within a second, and is forgotten after a day without news."""
    await other.acquire()
    await rate_limiter.update_from_headers(Rate(2, 1))
    assert (rate_limiter.has_limit, rate_limiter.limit_known) == (True, True)
    assert await rate_limiter.acquire() == 0.0
    assert 0.4 < await rate_limiter.acquire() <= 0.525
    clock.advance(POLL_INTERVAL_S)
    assert 0.3 < await other.acquire() <= 0.525
    assert other.has_limit
    assert list(await stage.dump()) == ["flowstate:rate"]
    assert 86_000_000 < await stage.redis.pttl(stage.keys.own("rate")) <= 86_400_000


async def test_only_news_is_written(stage: QueueFixture, rate_limiter: RateLimiter) -> None:
    """Answers that say the same again cost nothing; an empty window, which may be others' doing, is passed on."""
    await rate_limiter.update_from_headers(Rate(10, 9))
    before = await commands(stage)
    await rate_limiter.update_from_headers(Rate(10, 5))
    await rate_limiter.update_from_headers(None)
    await rate_limiter.update_from_headers(Rate(0, 0))
    assert await commands(stage) == before
    await rate_limiter.update_from_headers(Rate(10, 0))
    assert await commands(stage) == before + 1
    assert (await rate_limiter.state()).blocked_for_ms > 0


async def test_an_assumed_rate(stage: QueueFixture, connection: Connection, keys: Keys, clock: FakeClock) -> None:
    """It applies until the provider's limit is known, and is not stored as the provider's limit."""
    rate_limiter = RateLimiter(connection, keys, clock, initial_rate=0.5)
    assert (rate_limiter.has_limit, rate_limiter.limit_known) == (True, True)
    assert await rate_limiter.acquire() == 0.0
    assert 2.0 < await rate_limiter.acquire() <= 2.1
    assert "limit" not in (await stage.dump())["flowstate:rate"]
    assert await stage.redis.pttl(stage.keys.own("rate")) > 0
    await rate_limiter.update_from_headers(Rate(10, 9))
    assert 0 < await rate_limiter.acquire() <= 0.105


async def test_a_refusal_holds_all(rate_limiter: RateLimiter, other: RateLimiter, clock: FakeClock) -> None:
    """After a 429 no request starts, urgent or not, with or without a limit; other instances see it within a second."""
    await other.acquire()
    await rate_limiter.back_off(3_000)
    assert 2.5 < await rate_limiter.acquire(urgent=True) <= 3.0
    clock.advance(POLL_INTERVAL_S)
    assert 2.5 < await other.acquire() <= 3.0
    assert not rate_limiter.has_limit
    await rate_limiter.back_off(60_000)
    assert await rate_limiter.acquire() == 5.0


async def test_bulk_is_paused_and_let_go(
    stage: QueueFixture, rate_limiter: RateLimiter, other: RateLimiter, clock: FakeClock
) -> None:
    """The pause stops bulk email in all instances, with its reason, not urgent email; it is lifted or expires."""
    await rate_limiter.pause_bulk(clock.now_ms() + 60_000, "quota")
    assert rate_limiter.bulk_paused
    assert await rate_limiter.acquire() == 5.0
    assert await rate_limiter.acquire(urgent=True) == 0.0
    assert await rate_limiter.acquire(urgent=True) == 0.0
    assert await other.acquire() == 5.0
    assert other.bulk_paused
    assert (await stage.dump()) == {"flowstate:bulk-paused": "quota"}
    state = await other.state()
    assert (state.reason, 59_000 < state.bulk_paused_ms <= 60_000) == ("quota", True)
    await other.pause_bulk(0, "")
    assert not other.bulk_paused
    assert await rate_limiter.acquire() == 0.0
    assert not rate_limiter.bulk_paused
    await rate_limiter.pause_bulk(clock.now_ms() + 1_000, "quota")
    clock.advance(1)
    assert not rate_limiter.bulk_paused


async def test_state(rate_limiter: RateLimiter) -> None:
    """Limit, slowdown, block and recent requests are returned, also from an empty Redis."""
    assert await rate_limiter.state() == RateLimitState(None, 1.0, 0, 0, "", 0)
    await rate_limiter.update_from_headers(Rate(10, 9))
    await rate_limiter.acquire()
    await rate_limiter.back_off(1_000)
    state = await rate_limiter.state()
    assert (state.limit, state.recent_requests) == (10.0, 1)
    assert 1.09 < state.slowdown <= 1.1
    assert 900 < state.blocked_for_ms <= 1_000


async def test_a_refusal_is_shared_with_all_instances(rate_limiter: RateLimiter, other: RateLimiter) -> None:
    """With its reason, until the provider accepts the account again."""
    await rate_limiter.publish_state(ProviderState("refused", "the key is invalid", 15_000))
    state = await other.state()
    [problem] = state.problems
    assert (state.state, problem.reason) == ("refused", "the key is invalid")
    assert 10_000 < (problem.next_probe_ms or 0) <= 15_000
    await rate_limiter.publish_state(ACCEPTING)
    assert (await other.state()).problems == ()


async def test_a_retry_request_reaches_every_instance_once(
    rate_limiter: RateLimiter, other: RateLimiter, clock: FakeClock, keys: Keys
) -> None:
    """And bulk that waits for a quota goes on."""
    assert not await rate_limiter.retry_requested()
    await rate_limiter.pause_bulk(clock.now_ms() + 60_000, "quota")
    await RateLimiter(rate_limiter._connection, Keys(f"{keys.prefix}other", keys.name), clock).request_retry()
    assert not await rate_limiter.retry_requested()
    await other.request_retry()
    assert (await rate_limiter.state()).bulk_paused_ms == 0
    assert [await rate_limiter.retry_requested() for _ in range(2)] == [True, False]
    assert await other.retry_requested()
    await other.request_retry()
    assert await rate_limiter.retry_requested()


async def test_two_connections_share_one_rate(valkey_url: str, connection: Connection, keys: Keys) -> None:
    """Four daemons race for two seconds: together they keep the rate, and the urgent one is not late."""
    second = Connection(valkey_url, client_name="second")
    clock = Clock()
    daemons = [RateLimiter(one, keys, clock, initial_rate=20.0) for one in (connection, second, connection, second)]
    began, starts, waits = clock.monotonic(), [0], [0.0]

    async def bulk(rate_limiter: RateLimiter) -> None:
        while clock.monotonic() < began + 2:
            wait = await rate_limiter.acquire()
            starts[0] += not wait
            await asyncio.sleep(wait)

    async def urgent(rate_limiter: RateLimiter) -> None:
        while clock.monotonic() < began + 2:
            asked = clock.monotonic()
            while wait := await rate_limiter.acquire(urgent=True):
                await asyncio.sleep(wait)
            waits.append(clock.monotonic() - asked)
            starts[0] += 1
            await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as group:
        for rate_limiter in daemons[1:]:
            group.create_task(bulk(rate_limiter))
        group.create_task(urgent(daemons[0]))
    await second.close()
    print(f"{starts[0]} starts in 2 s at 20/s; longest wait of an urgent one {max(waits) * 1000:.0f} ms")
    assert 32 <= starts[0] <= 40
    assert max(waits) < 0.15
