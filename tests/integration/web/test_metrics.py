"""`/metrics` over a real socket with a real Redis: current values, and a response during an outage of Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.queue.audit import ACTIONS, AuditLog
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.web.metrics import MetricsEndpoint
from tests.integration.web.conftest import serve
from tests.support.clock import FakeClock
from tests.support.proxy import FaultProxy


@pytest.fixture
async def proxy(valkey_url: str) -> AsyncIterator[FaultProxy]:
    """The proxy between the endpoint and Redis."""
    address = urlsplit(valkey_url)
    async with FaultProxy(address.hostname or "127.0.0.1", address.port or 6379) as proxy:
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
    """A client of the endpoint, which reads Redis through the proxy with a timeout of a quarter of a second."""
    connection = Connection(f"redis://127.0.0.1:{proxy.port}/0", client_name=keys.client_name)
    endpoint = MetricsEndpoint(metrics, health, Inspector(connection, keys), clock, timeout_s=0.25)
    async with serve(endpoint.routes()) as client:
        yield client
    await connection.close()


async def scrape(client: ClientSession) -> dict[str, float]:
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


async def test_scrape_has_counters_and_queue_depths(
    client: ClientSession, metrics: Metrics, keys: Keys, redis: Redis, clock: FakeClock
) -> None:
    """Counters come from the process; depths and the age of the oldest job are read from Redis for each scrape."""
    metrics.mail_sent("otp", 0.07)
    await redis.rpush(keys("wait"), "2", "1")
    await redis.hset(keys("1"), mapping={"timestamp": clock.now_ms() - 90_000, "name": "otp", "data": "{}"})
    await redis.hset(keys("2"), mapping={"timestamp": clock.now_ms() - 1_000, "name": "otp", "data": "{}"})
    await redis.zadd(keys("failed"), {"3": 1})
    await redis.rpush(keys.own("journal"), "{}", "{}", "{}")
    samples = await scrape(client)
    assert samples["flowstate_mails_total,otp,sent"] == 1
    assert samples["flowstate_redis_up"] == 1
    assert samples["flowstate_queue_jobs,wait"] == 2
    assert samples["flowstate_queue_jobs,failed"] == 1
    assert samples["flowstate_queue_paused"] == 0
    assert samples["flowstate_queue_latency_seconds"] == 90
    assert samples["flowstate_ledger_backlog_entries"] == 3


async def test_last_added_is_a_unix_time_and_absent_when_unknown(
    client: ClientSession, keys: Keys, redis: Redis, clock: FakeClock
) -> None:
    """Seconds, also of a job that was sent and deleted; a producer whose clock is ahead does not hide a silence."""
    name = "flowstate_queue_last_added_timestamp_seconds"
    assert name not in await scrape(client)
    await redis.set(keys.own("last-added"), clock.now_ms() - 90_000)
    assert (await scrape(client))[name] == clock.now_ms() / 1000 - 90
    await redis.set(keys("id"), 3)
    await redis.hset(keys("3"), "timestamp", clock.now_ms() + 90_000)
    assert (await scrape(client))[name] == clock.now_ms() / 1000


async def test_health_is_exported_as_metrics(client: ClientSession, health: HealthRegistry, clock: FakeClock) -> None:
    """`flowstate_live` and `flowstate_ready` match the health endpoints, and each service has its heartbeat age."""
    health.register("fetcher", stale_after_s=25)
    health.register("promoter").idle()
    clock.advance(20)
    samples = await scrape(client)
    assert (samples["flowstate_live"], samples["flowstate_ready"]) == (1, 1)
    assert (
        samples["flowstate_service_heartbeat_age_seconds,fetcher"],
        samples["flowstate_service_heartbeat_age_seconds,promoter"],
    ) == (
        20,
        0,
    )
    health.set_condition("provider", "the key is refused")
    samples = await scrape(client)
    assert (samples["flowstate_live"], samples["flowstate_ready"]) == (1, 0)
    clock.advance(20)
    assert (await scrape(client))["flowstate_live"] == 0


async def test_queue_depths_are_read_again_for_each_scrape(client: ClientSession, keys: Keys, redis: Redis) -> None:
    """No value of an earlier scrape is cached."""
    await redis.rpush(keys("wait"), "1")
    assert (await scrape(client))["flowstate_queue_jobs,wait"] == 1
    await redis.delete(keys("wait"))
    await redis.rpush(keys("paused"), "1")
    await redis.set(keys("meta-paused"), "1")
    samples = await scrape(client)
    assert samples["flowstate_queue_jobs,wait"] == 0
    assert samples["flowstate_queue_jobs,paused"] == 1
    assert samples["flowstate_queue_paused"] == 1


async def test_latency_of_an_empty_queue_is_zero(client: ClientSession) -> None:
    """The latency is 0 rather than absent, so an alert needs no special case."""
    assert (await scrape(client))["flowstate_queue_latency_seconds"] == 0


async def test_metrics_are_returned_while_redis_is_unreachable(client: ClientSession, proxy: FaultProxy) -> None:
    """`flowstate_redis_up` is 0, the queue metrics are absent, and the other metrics are returned."""
    await scrape(client)
    await proxy.refuse()
    proxy.cut()
    samples = await scrape(client)
    assert samples["flowstate_redis_up"] == 0
    assert not [name for name in samples if name.startswith("flowstate_queue_")]
    assert samples["flowstate_jobs_claimed_total"] == 0
    await proxy.admit()
    assert (await scrape(client))["flowstate_redis_up"] == 1


async def test_metrics_are_returned_while_redis_hangs(client: ClientSession, proxy: FaultProxy) -> None:
    """When Redis does not answer, the scrape takes its timeout and succeeds."""
    await scrape(client)
    proxy.freeze()
    assert (await scrape(client))["flowstate_redis_up"] == 0
    proxy.unfreeze()
    assert (await scrape(client))["flowstate_redis_up"] == 1


async def test_actions_of_all_operators_are_counted(
    client: ClientSession, connection: Connection, keys: Keys, redis: Redis, clock: FakeClock
) -> None:
    """Also those of other processes, such as commands; text of others creates no series."""
    for actor, action in (("ada", "queue pause"), ("bob", "queue pause"), ("bob", "from a later version")):
        await AuditLog(connection, keys, clock, actor=actor).record(action, "queue", 1)
    await redis.hset(keys.own("audit-counts"), mapping={"hostile": "7", "queue retry": "x"})
    samples = await scrape(client)
    found = {name: value for name, value in samples.items() if name.startswith("flowstate_operator_actions")}
    assert found["flowstate_operator_actions_total,queue pause"] == 2
    assert found["flowstate_operator_actions_total,other"] == 8
    assert found["flowstate_operator_actions_total,queue retry"] == 0
    assert len(found) == len(ACTIONS) + 1
