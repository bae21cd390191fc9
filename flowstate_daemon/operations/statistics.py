"""Throughput, latency and failures over time, for charts: written to Redis once a minute, kept for eight days.

Each daemon adds what it did in a minute to the hash of the hour, and to a sum of the quarter of an hour in the hash of
the day. A quiet minute costs no command. An hour is two hashes with one field a minute and daemon; a week is eight
hashes with one field a quarter and daemon.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar
from uuid import uuid4

import msgspec

from flowstate_daemon.base.metrics import LATENCY_BUCKETS, Metrics, MetricTotals
from flowstate_daemon.base.service import PeriodicService, ServiceContext
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys

MINUTE_MS, QUARTER_MS, HOUR_MS, DAY_MS = 60_000, 900_000, 3_600_000, 86_400_000
KEPT_MS = 8 * DAY_MS
# How far back charts go, and the steps that they have, both in ms.
SPANS = {"hour": (HOUR_MS, MINUTE_MS), "day": (DAY_MS, QUARTER_MS), "week": (7 * DAY_MS, 2 * HOUR_MS)}


class MinuteStatistics(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one daemon did in one minute. The latencies are counts by LATENCY_BUCKETS, the last one without a limit."""

    sent: int = 0
    failed: int = 0
    retried: int = 0
    skipped: int = 0
    rate_limited: int = 0
    urgent: tuple[int, ...] = ()
    bulk: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a chart. Counts are of the whole step that begins at `at` (Unix ms); latencies are seconds.

    `rate_limited` counts requests that the provider answered with 429.
    """

    at: int
    sent: int
    failed: int
    retried: int
    skipped: int
    rate_limited: int
    urgent_p50: float | None
    urgent_p99: float | None
    bulk_p50: float | None
    bulk_p99: float | None


class StatisticsRecorder(PeriodicService):
    """Writes what this daemon did since its last pass."""

    name: ClassVar[str] = "statistics"

    def __init__(
        self, connection: Connection, keys: Keys, context: ServiceContext, *, instance: str, urgent: frozenset[str]
    ) -> None:
        """`urgent` are the kinds whose latency is counted as that of codes."""
        super().__init__(context.health.register(self.name), context.clock, every_s=MINUTE_MS / 1000)
        self._connection = connection
        self._keys = keys
        self._metrics: Metrics = context.metrics
        self._instance = instance
        self._urgent = urgent
        self._written = self._metrics.totals(urgent)
        # A process that starts again adds a sum of its own: it does not know what it had counted before.
        self._process = uuid4().hex[:8]
        self._quarter = (0, MinuteStatistics())

    def set_urgent(self, urgent: frozenset[str]) -> None:
        """Other kinds are urgent from now on. The latencies of the minute that has begun are not written then."""
        if urgent != self._urgent:
            self._urgent, now = urgent, self._metrics.totals(urgent)
            self._written = replace(self._written, urgent=now.urgent, bulk=now.bulk)

    async def run_once(self) -> None:
        totals = self._metrics.totals(self._urgent)
        minute = difference(totals, self._written)
        if minute == MinuteStatistics():
            return
        now_ms = self._clock.now_ms()
        at, quarter_at = now_ms // MINUTE_MS * MINUTE_MS, now_ms // QUARTER_MS * QUARTER_MS
        before = self._quarter[1] if self._quarter[0] == quarter_at else MinuteStatistics()
        quarter = total([before, minute])
        for key, field, value in (
            (hour_key(self._keys, now_ms), f"{at}:{self._instance}", minute),
            (day_key(self._keys, now_ms), f"{quarter_at}:{self._instance}:{self._process}", quarter),
        ):
            await self._connection.execute("HSET", key, field, msgspec.json.encode(value))
            await self._connection.execute("PEXPIRE", key, KEPT_MS)
        self._written, self._quarter = totals, (quarter_at, quarter)


class Statistics:
    """Reads what all daemons have written."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def points(self, now_ms: int, *, span_ms: int, step_ms: int) -> list[Point]:
        """The steps of the last `span_ms`, oldest first; empty ones included."""
        first = (now_ms - span_ms) // step_ms * step_ms + step_ms
        length_ms, key = (DAY_MS, day_key) if step_ms % QUARTER_MS == 0 else (HOUR_MS, hour_key)
        starts = range(first // length_ms * length_ms, now_ms + 1, length_ms)
        reads = (self._connection.execute("HGETALL", key(self._keys, start)) for start in starts)
        steps: dict[int, list[MinuteStatistics]] = defaultdict(list)
        for fields in await asyncio.gather(*reads):
            for at, counted in parse_minutes(fields):
                steps[at // step_ms * step_ms].append(counted)
        return [build_point(at, steps.get(at, ())) for at in range(first, now_ms + 1, step_ms)]


def hour_key(keys: Keys, at_ms: int) -> str:
    """The hash of the hour that contains a time."""
    return keys.own(f"statistics:{at_ms // HOUR_MS * HOUR_MS}")


def day_key(keys: Keys, at_ms: int) -> str:
    """The hash of the day (UTC) that contains a time."""
    return keys.own(f"statistics-quarters:{at_ms // DAY_MS * DAY_MS}")


def parse_minutes(fields: Mapping[bytes, bytes]) -> Iterable[tuple[int, MinuteStatistics]]:
    """The readable fields of one hash; what another program or version wrote is left out."""
    for name, text in fields.items():
        at, _, _ = name.partition(b":")
        try:
            yield int(at), msgspec.json.decode(text, type=MinuteStatistics)
        except (ValueError, msgspec.DecodeError):
            continue


def difference(after: MetricTotals, before: MetricTotals) -> MinuteStatistics:
    """What happened between two readings of the metrics. Pure."""
    return MinuteStatistics(
        sent=after.sent - before.sent,
        failed=after.failed - before.failed,
        retried=after.retried - before.retried,
        skipped=after.skipped - before.skipped,
        rate_limited=after.rate_limited - before.rate_limited,
        urgent=_subtract(after.urgent, before.urgent),
        bulk=_subtract(after.bulk, before.bulk),
    )


def _subtract(after: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    found = tuple(new - old for new, old in zip(after, before, strict=True))
    return found if any(found) else ()


def total(parts: Sequence[MinuteStatistics]) -> MinuteStatistics:
    """The sum of several. Pure."""
    urgent, bulk = (
        tuple(sum(counts) for counts in zip(*(buckets for buckets in every if buckets), strict=False))
        for every in ([part.urgent for part in parts], [part.bulk for part in parts])
    )
    return MinuteStatistics(
        sent=sum(part.sent for part in parts),
        failed=sum(part.failed for part in parts),
        retried=sum(part.retried for part in parts),
        skipped=sum(part.skipped for part in parts),
        rate_limited=sum(part.rate_limited for part in parts),
        urgent=urgent,
        bulk=bulk,
    )


def build_point(at: int, minutes: Sequence[MinuteStatistics]) -> Point:
    """The sum of the minutes of one step. Pure."""
    found = total(minutes)
    return Point(
        at=at,
        sent=found.sent,
        failed=found.failed,
        retried=found.retried,
        skipped=found.skipped,
        rate_limited=found.rate_limited,
        urgent_p50=quantile(found.urgent, 0.5),
        urgent_p99=quantile(found.urgent, 0.99),
        bulk_p50=quantile(found.bulk, 0.5),
        bulk_p99=quantile(found.bulk, 0.99),
    )


def quantile(buckets: Sequence[int], share: float) -> float | None:
    """The latency in seconds that this share of the emails did not exceed, interpolated inside its bucket as in
    Prometheus' `histogram_quantile`; None without emails. Pure.
    """
    wanted = sum(buckets) * share
    if not wanted:
        return None
    seen, lower = 0.0, 0.0
    for count, upper in zip(buckets, (*LATENCY_BUCKETS, LATENCY_BUCKETS[-1]), strict=False):
        if count and seen + count >= wanted:
            return lower + (upper - lower) * (wanted - seen) / count
        seen, lower = seen + count, upper
    return lower
