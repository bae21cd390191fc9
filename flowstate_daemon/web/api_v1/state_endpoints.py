"""The provider, charts, instances, and what operators did."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.database.recipients import ListAction
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.operations.statistics import SPANS, Point
from flowstate_daemon.queue.audit import OperatorAction
from flowstate_daemon.web.api_v1 import models
from flowstate_daemon.web.api_v1.endpoints import Call, Endpoint
from flowstate_daemon.web.health import heartbeat_document

T = TypeVar("T")


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
                models.AuditList,
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

    async def audit(self, call: Call) -> models.AuditList:
        """Actions on the queue are recorded in Redis, those on the lists of recipients in Postgres.

        While one of them is unavailable, the rest is shown. Raises StoreUnavailableError if that is nothing.
        """
        count, recipients = call.query.limit, self._operator.recipients
        sources: dict[str, Awaitable[Sequence[OperatorAction | ListAction]]] = {
            "the queue": self._operator.audit(call.actor).newest(count)
        }
        if recipients is not None:
            sources["suppressions and unsubscribes"] = recipients.suppressions.actions(count)
        entries, missing = [], []
        for name, found in zip(sources, await asyncio.gather(*map(read_or_outage, sources.values())), strict=True):
            if isinstance(found, StoreUnavailableError):
                missing.append(f"{name}: {redact_text(found.reason)}")
            else:
                entries += [audit_entry(one) for one in found]
        if len(missing) == len(sources):
            raise StoreUnavailableError("; ".join(missing))
        newest = sorted(entries, key=lambda entry: entry.at, reverse=True)[:count]
        return models.AuditList(entries=newest, missing=missing)


async def read_or_outage(work: Awaitable[T]) -> T | StoreUnavailableError:
    try:
        return await work
    except StoreUnavailableError as outage:
        return outage


def audit_entry(one: OperatorAction | ListAction) -> models.AuditEntry:
    at = one.at if isinstance(one.at, datetime) else datetime.fromtimestamp(one.at / 1000, UTC)
    return models.AuditEntry(at=at, actor=one.actor, action=one.action, target=one.target, count=one.count)
