"""`/metrics` over a real socket with a real Redis: fresh numbers, and an answer when Redis has none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.web.metrics import MetricsEndpoint
from flowstate_daemon.web.server import HttpServer
from tests.support.clock import FakeClock
from tests.support.proxy import FaultProxy


@pytest.fixture
async def proxy(valkey_url: str) -> AsyncIterator[FaultProxy]:
    """What stands between the endpoint and Redis."""
    where = urlsplit(valkey_url)
    async with FaultProxy(where.hostname or "127.0.0.1", where.port or 6379) as proxy:
        yield proxy


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(("otp", "welcome"))


@pytest.fixture
def health(clock: FakeClock) -> HealthRegistry:
    return HealthRegistry(clock)


@pytest.fixture
async def client(
    proxy: FaultProxy, keys: Keys, metrics: Metrics, health: HealthRegistry, clock: FakeClock
) -> AsyncIterator[ClientSession]:
    """A client of a running endpoint that looks at Redis through the proxy, for a quarter of a second."""
    connection = Connection(f"redis://127.0.0.1:{proxy.port}/0", client_name=keys.client_name)
    page = MetricsEndpoint(metrics, health, Inspector(connection, keys), clock, timeout_s=0.25)
    endpoint = HttpServer(page.routes(), host="127.0.0.1", port=0)
    await endpoint.open()
    async with ClientSession(f"http://127.0.0.1:{endpoint.bound_port}") as session:
        yield session
    await endpoint.close()
    await connection.close()


async def scraped(client: ClientSession) -> dict[str, float]:
    """All samples of one scrape, by name and labels."""
    async with client.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await response.text()
    return {
        sample.name + "".join(f",{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_scrape_shows_what_was_counted_and_what_waits(
    client: ClientSession, metrics: Metrics, keys: Keys, redis: Redis, clock: FakeClock
) -> None:
    """Counters come from the engine, depths and the age of the oldest job from Redis at this moment."""
    metrics.mail_sent("otp", 0.07)
    await redis.rpush(keys("wait"), "2", "1")
    await redis.hset(keys("1"), mapping={"timestamp": clock.now_ms() - 90_000, "name": "otp", "data": "{}"})
    await redis.hset(keys("2"), mapping={"timestamp": clock.now_ms() - 1_000, "name": "otp", "data": "{}"})
    await redis.zadd(keys("failed"), {"3": 1})
    await redis.rpush(keys.own("journal"), "{}", "{}", "{}")
    found = await scraped(client)
    assert found["flowstate_mails_total,otp,sent"] == 1
    assert found["flowstate_redis_up"] == 1
    assert found["flowstate_queue_jobs,wait"] == 2
    assert found["flowstate_queue_jobs,failed"] == 1
    assert found["flowstate_queue_paused"] == 0
    assert found["flowstate_queue_latency_seconds"] == 90
    assert found["flowstate_ledger_backlog_entries"] == 3


async def test_health_is_a_number_as_well(client: ClientSession, health: HealthRegistry, clock: FakeClock) -> None:
    """Alerts need no second kind of probe: live and ready say what the health pages say, loops how long they hang."""
    health.register("fetcher", stale_after_s=25)
    health.register("promoter").idle()
    clock.advance(20)
    found = await scraped(client)
    assert (found["flowstate_live"], found["flowstate_ready"]) == (1, 1)
    assert (
        found["flowstate_service_heartbeat_age_seconds,fetcher"],
        found["flowstate_service_heartbeat_age_seconds,promoter"],
    ) == (
        20,
        0,
    )
    health.set_condition("provider", "the key is refused")
    found = await scraped(client)
    assert (found["flowstate_live"], found["flowstate_ready"]) == (1, 0)
    clock.advance(20)
    assert (await scraped(client))["flowstate_live"] == 0


async def test_numbers_are_fresh_in_every_scrape(client: ClientSession, keys: Keys, redis: Redis) -> None:
    """Nothing is remembered from the scrape before."""
    await redis.rpush(keys("wait"), "1")
    assert (await scraped(client))["flowstate_queue_jobs,wait"] == 1
    await redis.delete(keys("wait"))
    await redis.rpush(keys("paused"), "1")
    await redis.set(keys("meta-paused"), "1")
    found = await scraped(client)
    assert found["flowstate_queue_jobs,wait"] == 0
    assert found["flowstate_queue_jobs,paused"] == 1
    assert found["flowstate_queue_paused"] == 1


async def test_an_empty_queue_has_nothing_that_waits(client: ClientSession) -> None:
    """The age is 0, so an alert on it needs no special case."""
    assert (await scraped(client))["flowstate_queue_latency_seconds"] == 0


async def test_the_metrics_answer_when_redis_is_away(client: ClientSession, proxy: FaultProxy) -> None:
    """The rest is shown, Redis is told to be down, and no depth is made up."""
    await scraped(client)
    await proxy.refuse()
    proxy.cut()
    found = await scraped(client)
    assert found["flowstate_redis_up"] == 0
    assert not [name for name in found if name.startswith("flowstate_queue_")]
    assert found["flowstate_jobs_claimed_total"] == 0
    await proxy.admit()
    assert (await scraped(client))["flowstate_redis_up"] == 1


async def test_the_metrics_answer_when_redis_hangs(client: ClientSession, proxy: FaultProxy) -> None:
    """A Redis that takes the question and never answers costs the deadline, not the scrape."""
    await scraped(client)
    proxy.freeze()
    assert (await scraped(client))["flowstate_redis_up"] == 0
    proxy.unfreeze()
    assert (await scraped(client))["flowstate_redis_up"] == 1
