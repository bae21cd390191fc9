"""The provider, charts, instances, and what operators did."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.operations.statistics import HOUR_MS, MINUTE_MS, Point
from flowstate_daemon.web.api_v1 import models
from flowstate_daemon.web.api_v1.endpoints import Call, Endpoint
from flowstate_daemon.web.health import heartbeat_document

SPANS = {
    "hour": (HOUR_MS, MINUTE_MS),
    "day": (24 * HOUR_MS, 15 * MINUTE_MS),
    "week": (7 * 24 * HOUR_MS, 2 * HOUR_MS),
}


class StateEndpoints:
    """`/provider`, `/statistics`, `/instances`, `/audit`."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                "get", "/provider", "Rate limit and state of the provider", self.provider, models.ProviderDocument
            ),
            Endpoint(
                "post", "/provider/retry", "Try the provider again at once", self.retry_provider, rights="operate"
            ),
            Endpoint(
                "get",
                "/statistics",
                "Throughput, latency and failures over time",
                self.statistics,
                list[Point],
                query=models.StatisticsQuery,
            ),
            Endpoint(
                "get",
                "/instances",
                "Worker processes of the queue, and the services of this daemon",
                self.instances,
                models.InstancesDocument,
            ),
            Endpoint(
                "get",
                "/audit",
                "What operators did, newest first",
                self.audit,
                list[models.AuditEntry],
                query=models.AuditQuery,
            ),
        ]

    async def provider(self, _call: Call) -> models.ProviderDocument:
        found = await self._operator.rate_limiter.state()
        problems = [models.ProviderProblem(**msgspec.structs.asdict(problem)) for problem in found.problems]
        return models.ProviderDocument(
            state=found.state,
            limit=found.limit,
            slowdown=found.slowdown,
            blocked_for_ms=found.blocked_for_ms,
            bulk_paused_ms=found.bulk_paused_ms,
            reason=found.reason,
            recent_requests=found.recent_requests,
            problems=problems,
        )

    async def retry_provider(self, call: Call) -> None:
        await self._operator.rate_limiter.request_retry()
        await self._operator.audit(call.actor).record("provider retry", "all daemons", 1)

    async def statistics(self, call: Call) -> list[Point]:
        span_ms, step_ms = SPANS[call.query.span]
        now_ms = self._operator.clock.now_ms()
        return await self._operator.statistics.points(now_ms, span_ms=span_ms, step_ms=step_ms)

    async def instances(self, _call: Call) -> models.InstancesDocument:
        health, workers = self._operator.health, await self._operator.inspector.workers()
        return models.InstancesDocument(
            instance=self._operator.config.queue.instance_id,
            uptime_s=round(health.uptime_s, 1),
            services=[models.HeartbeatDocument(**heartbeat_document(heartbeat)) for heartbeat in health.heartbeats],
            workers=[
                models.WorkerDocument(name=one.name, address=one.address, age_s=one.age_s, idle_s=one.idle_s)
                for one in workers
            ],
            note=workers.note,
        )

    async def audit(self, call: Call) -> list[models.AuditEntry]:
        """Actions on the queue are recorded in Redis, those on the lists of recipients in Postgres."""
        count, recipients = call.query.limit, self._operator.recipients
        queue = await self._operator.audit(call.actor).newest(count)
        entries = [
            models.AuditEntry(
                at=datetime.fromtimestamp(one.at / 1000, UTC),
                actor=one.actor,
                action=one.action,
                target=one.target,
                count=one.count,
            )
            for one in queue
        ]
        if recipients is not None:
            entries += [
                models.AuditEntry(at=one.at, actor=one.actor, action=one.action, target=one.target, count=one.count)
                for one in await recipients.suppressions.actions(count)
            ]
        return sorted(entries, key=lambda entry: entry.at, reverse=True)[:count]
