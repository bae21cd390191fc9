"""`/metrics` in Prometheus' text format: the daemon's counters, and a snapshot of the queue.

The queue is read at each scrape and never cached: a number is current or it is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.queue.inspector import Counts, Inspector, Snapshot
from flowstate_daemon.web.health import not_ready_reasons, stale_services

log = structlog.get_logger()

SCRAPE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class RedisReading:
    """What Redis answered to one scrape."""

    queue: Snapshot
    operator_actions: Mapping[str, int]


class MetricsCollector:
    """The metrics of one scrape. `reading` is None when Redis did not answer."""

    def __init__(self, metrics: Metrics, health: HealthRegistry, reading: RedisReading | None, now_ms: int) -> None:
        self._metrics = metrics
        self._health = health
        self._reading = reading
        self._now_ms = now_ms

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics.registry.collect():
            # Prometheus does not use these samples, and they would double the size of the response.
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
        yield from self._health_families()
        up = self._reading is not None
        yield GaugeMetricFamily("flowstate_redis_up", "1 when Redis answered this scrape, else 0.", value=up)
        if self._reading is not None:
            yield from self._queue_families(self._reading.queue)
            yield self._operator_actions(self._reading.operator_actions)

    def _health_families(self) -> Iterator[Metric]:
        live, ready = not stale_services(self._health), not not_ready_reasons(self._health)
        yield GaugeMetricFamily(
            "flowstate_live", "1 while all services make progress, else 0, as /health/live.", value=live
        )
        yield GaugeMetricFamily("flowstate_ready", "1 while emails can be sent, else 0, as /health/ready.", value=ready)
        text = "Time since each service last made progress; 0 while it is idle."
        heartbeat_age = GaugeMetricFamily("flowstate_service_heartbeat_age_seconds", text, labels=["service"])
        for heartbeat in self._health.heartbeats:
            heartbeat_age.add_metric([heartbeat.name], 0 if heartbeat.is_idle else heartbeat.age_s)
        yield heartbeat_age

    def _queue_families(self, queue: Snapshot) -> Iterator[Metric]:
        depth = GaugeMetricFamily("flowstate_queue_jobs", "Jobs in the queue, by Bull's state.", labels=["state"])
        for state in fields(Counts):
            depth.add_metric([state.name], getattr(queue, state.name))
        yield depth
        yield GaugeMetricFamily("flowstate_queue_paused", "1 while the queue is paused, else 0.", value=queue.is_paused)
        oldest_ms = self._now_ms if queue.oldest_waiting_ms is None else queue.oldest_waiting_ms
        yield GaugeMetricFamily(
            "flowstate_queue_latency_seconds",
            "Age of the oldest waiting job; 0 when none waits.",
            value=max(self._now_ms - oldest_ms, 0) / 1000,
        )
        if queue.last_added_ms is not None:
            text = "When the backend last added a job, Unix time; emails of the daemon's schedules do not count."
            last_added_s = min(queue.last_added_ms, self._now_ms) / 1000
            yield GaugeMetricFamily("flowstate_queue_last_added_timestamp_seconds", text, value=last_added_s)
        text = "Outcomes in Redis that are not in the ledger yet."
        yield GaugeMetricFamily("flowstate_ledger_backlog_entries", text, value=queue.journal)

    def _operator_actions(self, counts: Mapping[str, int]) -> Metric:
        text = "Actions of operators on this queue, by name; the same value from every daemon on it."
        actions = CounterMetricFamily("flowstate_operator_actions", text, labels=["action"])
        for action, count in counts.items():
            actions.add_metric([action], count)
        return actions


class MetricsEndpoint:
    """`GET /metrics`."""

    def __init__(
        self,
        metrics: Metrics,
        health: HealthRegistry,
        inspector: Inspector,
        clock: Clock,
        *,
        timeout_s: float = SCRAPE_TIMEOUT_S,
    ) -> None:
        self._metrics = metrics
        self._health = health
        self._inspector = inspector
        self._clock = clock
        self._timeout_s = timeout_s
        self._snapshot_lock = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/metrics", self.get)]

    async def get(self, _request: web.Request) -> web.Response:
        collector = MetricsCollector(self._metrics, self._health, await self._read(), self._clock.now_ms())
        return web.Response(body=generate_latest(collector), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _read(self) -> RedisReading | None:
        """The queue, or None when Redis does not answer in time.

        One read at a time: while Redis hangs, many scrapers must not use up the daemon's connections.
        """
        try:
            async with asyncio.timeout(self._timeout_s), self._snapshot_lock:
                return RedisReading(await self._inspector.snapshot(), await self._inspector.operator_actions())
        except StoreUnavailableError as outage:
            log.debug("scrape_without_redis", reason=outage.reason)
        except TimeoutError:
            log.debug("scrape_without_redis", reason=f"no answer within {self._timeout_s} s")
        return None
