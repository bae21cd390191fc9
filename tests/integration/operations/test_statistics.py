"""Statistics: what daemons did is written once a minute, read back for every span, and costs nothing while idle."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import ResultClass
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import LATENCY_BUCKETS, Metrics
from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.operations.statistics import (
    HOUR_MS,
    MINUTE_MS,
    MinuteStatistics,
    Statistics,
    StatisticsRecorder,
    build_point,
    hour_key,
    parse_minutes,
    quantile,
)
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.clock import FakeClock


def recorder(connection: Connection, keys: Keys, clock: FakeClock, instance: str) -> tuple[StatisticsRecorder, Metrics]:
    metrics = Metrics(("otp", "welcome"))
    context = ServiceContext(HealthRegistry(clock), metrics, clock)
    return StatisticsRecorder(connection, keys, context, instance=instance, urgent=frozenset({"otp"})), metrics


async def test_minutes_of_two_daemons_are_added_up(connection: Connection, keys: Keys, clock: FakeClock) -> None:
    """Counts and latencies of all daemons are in the step of their time; codes are apart from other emails."""
    one, first = recorder(connection, keys, clock, "one")
    two, second = recorder(connection, keys, clock, "two")
    for metrics, count in ((first, 3), (second, 2)):
        for _ in range(count):
            metrics.mail_sent("otp", 0.1)
            metrics.observe_mail_latency("otp", 0.02)
        metrics.mail_failed("welcome")
        metrics.observe_mail_latency("welcome", 4000)
    await one.run_once()
    await two.run_once()
    points = await Statistics(connection, keys).points(clock.now_ms(), span_ms=HOUR_MS, step_ms=MINUTE_MS)
    assert len(points) == 60
    [point] = [one for one in points if one.sent]
    assert (point.at, point.sent, point.failed) == (clock.now_ms() // MINUTE_MS * MINUTE_MS, 5, 2)
    assert point.urgent_p99 is not None
    assert point.urgent_p99 <= 0.025
    assert point.bulk_p50 is not None
    assert 1800 < point.bulk_p50 <= 7200


async def test_kind_that_becomes_urgent(connection: Connection, keys: Keys, clock: FakeClock) -> None:
    """Its earlier latencies are not written again, and counts go on."""
    service, metrics = recorder(connection, keys, clock, "one")
    metrics.mail_sent("welcome", 0.1)
    metrics.observe_mail_latency("welcome", 4000)
    service.set_urgent(frozenset({"otp", "welcome"}))
    metrics.observe_mail_latency("welcome", 0.02)
    await service.run_once()
    points = await Statistics(connection, keys).points(clock.now_ms(), span_ms=HOUR_MS, step_ms=MINUTE_MS)
    [point] = [one for one in points if one.sent]
    assert (point.sent, point.bulk_p50) == (1, None)
    assert point.urgent_p99 is not None
    assert point.urgent_p99 <= 0.025


async def test_answers_429_are_counted(connection: Connection, keys: Keys, clock: FakeClock) -> None:
    """Only they are, and only those since the last minute."""
    service, metrics = recorder(connection, keys, clock, "one")
    results: tuple[ResultClass, ...] = ("rate_limited", "accepted", "rate_limited")
    for result in results:
        metrics.observe_provider_request(result, 0.1)
    await service.run_once()
    clock.advance(60)
    metrics.observe_provider_request("rate_limited", 0.1)
    await service.run_once()
    points = await Statistics(connection, keys).points(clock.now_ms(), span_ms=HOUR_MS, step_ms=MINUTE_MS)
    assert [one.rate_limited for one in points if one.rate_limited] == [2, 1]


async def test_quiet_minutes_cost_no_command(
    connection: Connection, keys: Keys, clock: FakeClock, redis: Redis
) -> None:
    service, metrics = recorder(connection, keys, clock, "one")
    metrics.mail_sent("welcome", 1)
    await service.run_once()
    written = await redis.hgetall(hour_key(keys, clock.now_ms()))
    clock.advance(60)
    await service.run_once()
    assert await redis.hgetall(hour_key(keys, clock.now_ms())) == written
    assert 7 * 24 * 3600 < await redis.ttl(hour_key(keys, clock.now_ms())) <= 8 * 24 * 3600


@pytest.mark.parametrize(
    ("span_ms", "step_ms"), [(HOUR_MS, MINUTE_MS), (24 * HOUR_MS, 15 * MINUTE_MS), (168 * HOUR_MS, 2 * HOUR_MS)]
)
async def test_every_span_contains_each_email_once(
    connection: Connection, keys: Keys, clock: FakeClock, span_ms: int, step_ms: int
) -> None:
    service, metrics = recorder(connection, keys, clock, "one")
    for _ in range(5):
        metrics.mail_sent("welcome", 1)
        await service.run_once()
        clock.advance(span_ms / 1000 / 6)
    points = await Statistics(connection, keys).points(clock.now_ms(), span_ms=span_ms, step_ms=step_ms)
    assert sum(point.sent for point in points) == 5
    assert [point.at for point in points] == sorted({point.at for point in points})


def test_fields_of_others_are_left_out() -> None:
    fields = {b"x": b"{}", b"12:a": b"[]", b"34:a": b"not JSON", b"56:a": b'{"sent": 2}'}
    assert list(parse_minutes(fields)) == [(56, MinuteStatistics(sent=2))]


def test_quantiles() -> None:
    """Interpolated inside the bucket, as Prometheus does; the last bucket has no upper end."""
    buckets = [0] * (len(LATENCY_BUCKETS) + 1)
    assert quantile(buckets, 0.5) is None
    buckets[1] = 10
    assert quantile(buckets, 0.5) == pytest.approx(0.0175)
    assert quantile(buckets, 1.0) == pytest.approx(0.025)
    buckets[-1] = 1000
    assert quantile(buckets, 0.99) == LATENCY_BUCKETS[-1]
    assert build_point(0, []).urgent_p50 is None
