"""Two questions: is it alive (else restart it), is it ready (else look why)?

Asked by supervisors, load balancers and people. Answers come from the vital signs only, without any I/O, so
that they are as fast when Redis hangs as when it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from flowstate_daemon.base.health import HealthRegistry, Heartbeat
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.web.server import json_response


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """Which daemon answers, and whether it sends or, as a `shadow`, only looks on."""

    version: str
    instance: str
    mode: str = "send"


class Health:
    """`/health/live` and `/health/ready`."""

    def __init__(self, health: HealthRegistry, about: InstanceInfo) -> None:
        self._health = health
        self._about = about

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/health/live", self.live), web.get("/health/ready", self.ready)]

    async def live(self, _request: web.Request) -> web.Response:
        """Red only when a loop is stuck: an outage of a store is not cured by a restart."""
        reasons = stale_services(self._health)
        return self._report("stuck" if reasons else "alive", reasons)

    async def ready(self, _request: web.Request) -> web.Response:
        """Green when mails can go out: nothing stuck, no store away, provider retry, not leaving."""
        reasons = not_ready_reasons(self._health)
        return self._report("not_ready" if reasons else "ready", reasons)

    def _report(self, status: str, reasons: list[str]) -> web.Response:
        body = {
            "status": status,
            "version": self._about.version,
            "instance": self._about.instance,
            "mode": self._about.mode,
            "uptime_s": round(self._health.uptime_s, 1),
            "reasons": [redact_text(reason) for reason in reasons],
            "services": [heartbeat_document(heartbeat) for heartbeat in self._health.heartbeats],
        }
        return json_response(body, 503 if reasons else 200)


def stale_services(health: HealthRegistry) -> list[str]:
    return [f"{name}: no progress" for name in health.stale_services()]


def not_ready_reasons(health: HealthRegistry) -> list[str]:
    """Everything that keeps mails from going out, in words."""
    leaving = ["draining: no new work is taken"] if health.draining else []
    return [*leaving, *stale_services(health), *(f"{name}: {reason}" for name, reason in health.problems().items())]


def heartbeat_document(heartbeat: Heartbeat) -> dict[str, Any]:
    error = None if heartbeat.error is None else redact_text(heartbeat.error)
    return {
        "name": heartbeat.name,
        "age_s": round(heartbeat.age_s, 1),
        "idle": heartbeat.is_idle,
        "error": error,
    }
