"""Two questions: is it alive (else restart it), is it ready (else look why)?

Asked by supervisors, load balancers and people. Answers come from the vital signs only, without any I/O, so
that they are as fast when Redis hangs as when it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from flowstate_daemon.base.privacy import scrubbed
from flowstate_daemon.base.vitals import Pulse, Vitals
from flowstate_daemon.web.app import answer


@dataclass(frozen=True, slots=True)
class About:
    """Which daemon answers, and whether it sends or, as a `shadow`, only looks on."""

    version: str
    instance: str
    mode: str = "send"


class Health:
    """`/health/live` and `/health/ready`."""

    def __init__(self, vitals: Vitals, about: About) -> None:
        self._vitals = vitals
        self._about = about

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/health/live", self.live), web.get("/health/ready", self.ready)]

    async def live(self, _request: web.Request) -> web.Response:
        """Red only when a loop is stuck: an outage of a store is not cured by a restart."""
        reasons = stuck(self._vitals)
        return self._report("stuck" if reasons else "alive", reasons)

    async def ready(self, _request: web.Request) -> web.Response:
        """Green when mails can go out: nothing stuck, no store away, lane open, not leaving."""
        reasons = obstacles(self._vitals)
        return self._report("not_ready" if reasons else "ready", reasons)

    def _report(self, status: str, reasons: list[str]) -> web.Response:
        body = {
            "status": status,
            "version": self._about.version,
            "instance": self._about.instance,
            "mode": self._about.mode,
            "uptime_s": round(self._vitals.uptime_s, 1),
            "reasons": [scrubbed(reason) for reason in reasons],
            "loops": [shown(pulse) for pulse in self._vitals.pulses],
        }
        return answer(body, 503 if reasons else 200)


def stuck(vitals: Vitals) -> list[str]:
    return [f"{name}: no progress" for name in vitals.stuck()]


def obstacles(vitals: Vitals) -> list[str]:
    """Everything that keeps mails from going out, in words."""
    leaving = ["draining: no new work is taken"] if vitals.draining else []
    return [*leaving, *stuck(vitals), *(f"{name}: {reason}" for name, reason in vitals.troubles().items())]


def shown(pulse: Pulse) -> dict[str, Any]:
    trouble = None if pulse.trouble is None else scrubbed(pulse.trouble)
    return {"name": pulse.name, "age_s": round(pulse.age_s, 1), "resting": pulse.resting, "trouble": trouble}
