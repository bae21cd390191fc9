"""`/health/live` and `/health/ready`, for supervisors, load balancers and operators.

Both read the health registry only and do no I/O, so they respond quickly even when Redis hangs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from flowstate_daemon.base.health import HealthRegistry, Heartbeat
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.web.responses import json_response

STALE_REASON = "no progress"
DRAINING_REASON = "no new work is taken"


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """Version, instance id, mode (`send` or `shadow`) and delivery (`resend`, `outbox` or `none`) of this daemon.

    `is_dev`: it is that of the command `dev`.
    """

    version: str
    instance: str
    mode: str = "send"
    delivery: str = "resend"
    is_dev: bool = False


class Health:
    """`/health/live` and `/health/ready`."""

    def __init__(self, health: HealthRegistry, instance: InstanceInfo) -> None:
        self._health = health
        self._instance = instance

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/health/live", self.live), web.get("/health/ready", self.ready)]

    async def live(self, _request: web.Request) -> web.Response:
        """503 only when a service is stuck: a restart does not fix a store that is unavailable."""
        reasons = stale_services(self._health)
        return self._report("stuck" if reasons else "alive", reasons)

    async def ready(self, _request: web.Request) -> web.Response:
        """200 while emails can be sent: nothing is stuck, the stores and the provider are available, no drain."""
        reasons = not_ready_reasons(self._health)
        return self._report("not_ready" if reasons else "ready", reasons)

    def _report(self, status: str, reasons: list[str]) -> web.Response:
        body = {
            "status": status,
            "version": self._instance.version,
            "instance": self._instance.instance,
            "mode": self._instance.mode,
            "delivery": self._instance.delivery,
            "is_dev": self._instance.is_dev,
            "uptime_s": round(self._health.uptime_s, 1),
            "reasons": [redact_text(reason) for reason in reasons],
            "warnings": [redact_text(f"{name}: {reason}") for name, reason in self._health.warnings.items()],
            "services": [heartbeat_document(heartbeat) for heartbeat in self._health.heartbeats],
        }
        return json_response(body, 503 if reasons else 200)


def stale_services(health: HealthRegistry) -> list[str]:
    return [f"{name}: {STALE_REASON}" for name in health.stale_services()]


def not_ready_reasons(health: HealthRegistry) -> list[str]:
    """Every reason why no emails can be sent."""
    return [f"{name}: {reason}" for name, reason in find_problems(health)]


def find_problems(health: HealthRegistry) -> list[tuple[str, str]]:
    """Why no emails can be sent: the names of the services and conditions, each with its reason."""
    draining = [("draining", DRAINING_REASON)] if health.draining else []
    stale = [(name, STALE_REASON) for name in health.stale_services()]
    return [*draining, *stale, *health.problems().items()]


def heartbeat_document(heartbeat: Heartbeat) -> dict[str, Any]:
    error = None if heartbeat.error is None else redact_text(heartbeat.error)
    return {
        "name": heartbeat.name,
        "age_s": round(heartbeat.age_s, 1),
        "idle": heartbeat.is_idle,
        "error": error,
    }
