"""Alerts without Prometheus: a heartbeat URL that is requested while ready, and a URL that is called when not.

Requests run in tasks of their own with a time limit, so that nothing ever waits for them.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Literal

import aiohttp
import structlog

from flowstate_daemon.base.backoff import Backoff
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.config.settings import HealthSettings
from flowstate_daemon.web.health import InstanceInfo, not_ready_reasons

log = structlog.get_logger()

POLL_INTERVAL_S = 1.0
TIMEOUT_S = 10.0
MAX_TRIES = 6
RETRY_S = (2.0, 60.0)
MAX_REASONS = 20
Status = Literal["not_ready", "ready"]


class Alerter(Service):
    """Watches readiness from the start of the daemon to its end. A drain is neither ready nor an alert."""

    name: ClassVar[str] = "alerter"

    def __init__(self, settings: HealthSettings, instance: InstanceInfo, queue: str, context: ServiceContext) -> None:
        super().__init__(context.health.register(self.name))
        self._heartbeat_url = _text(settings.heartbeat_url)
        self._alert_url = _text(settings.alert_url)
        self._heartbeat_interval_s = settings.heartbeat_interval_s
        self._alert_after_s = settings.alert_after_s
        self._instance = instance
        self._queue = queue
        self._health = context.health
        self._clock = context.clock
        self._red_since: float | None = None
        self._alerted = False
        self._ping_due_at = self._clock.monotonic()
        self._ping_failed = False
        self._ping: asyncio.Task[None] | None = None
        self._alerts: asyncio.Task[None] | None = None
        self._pending: list[dict[str, Any]] = []

    @property
    def enabled(self) -> bool:
        return bool(self._heartbeat_url or self._alert_url)

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            tasks = [task for task in (self._ping, self._alerts) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def run_once(self) -> None:
        self.observe()
        await self.sleep(POLL_INTERVAL_S)

    def observe(self) -> None:
        """Note whether the daemon is ready, and start the requests that are due."""
        now = self._clock.monotonic()
        if self._health.draining:
            return
        reasons = not_ready_reasons(self._health)
        if not reasons:
            if self._alerted and self._red_since is not None:
                self._alert("ready", [], now - self._red_since)
            self._red_since, self._alerted = None, False
            self._ping_if_due(now)
            return
        if self._red_since is None:
            self._red_since = now
        if not self._alerted and now - self._red_since >= self._alert_after_s:
            self._alerted = True
            self._alert("not_ready", reasons, now - self._red_since)

    def _ping_if_due(self, now: float) -> None:
        if not self._heartbeat_url or now < self._ping_due_at or (self._ping is not None and not self._ping.done()):
            return
        self._ping_due_at = now + self._heartbeat_interval_s
        self._ping = asyncio.create_task(self._send_ping(self._heartbeat_url), name="heartbeat_ping")

    async def _send_ping(self, url: str) -> None:
        failure = await _request("GET", url)
        if failure is not None and not self._ping_failed:
            log.warning("heartbeat_failed", reason=failure, remedy="check FLOWSTATE_HEALTH_HEARTBEAT_URL")
        self._ping_failed = failure is not None

    def _alert(self, status: Status, reasons: list[str], red_s: float) -> None:
        if not self._alert_url:
            return
        shown = [redact_text(reason) for reason in reasons[:MAX_REASONS]]
        self._pending.append(
            {
                "status": status,
                "instance": self._instance.instance,
                "queue": self._queue,
                "version": self._instance.version,
                "delivery": self._instance.delivery,
                "not_ready_s": round(red_s),
                "reasons": shown,
                "text": self._alert_text(status, shown, red_s),
            }
        )
        if self._alerts is None or self._alerts.done():
            self._alerts = asyncio.create_task(self._send_alerts(self._alert_url), name="alerts")

    def _alert_text(self, status: Status, reasons: list[str], red_s: float) -> str:
        """What chat programs show."""
        name, duration = f"{self._instance.instance} (flowstate-daemon)", f"{round(red_s)} s"
        if status == "ready":
            return f"{name} is ready again, after {duration}"
        return f"{name} has not been ready for {duration}: {'; '.join(reasons)}"

    async def _send_alerts(self, url: str) -> None:
        """In order; one that is not accepted within a few minutes is given up."""
        while self._pending:
            body = self._pending.pop(0)
            backoff = Backoff(*RETRY_S)
            for _ in range(MAX_TRIES):
                if (failure := await _request("POST", url, body)) is None:
                    log.info("alert_sent", status=body["status"])
                    break
                await asyncio.sleep(backoff.next_s())
            else:
                log.warning("alert_failed", reason=failure, remedy="check FLOWSTATE_HEALTH_ALERT_URL")


def _text(secret: Any) -> str:
    return "" if secret is None else str(secret.get_secret_value())


async def _request(method: str, url: str, body: dict[str, Any] | None = None) -> str | None:
    """Make one request; the reason why it failed, without the URL, which is a secret, or None."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.request(method, url, json=body) as response,
        ):
            return None if response.ok else f"the server answered {response.status}"
    except TimeoutError:
        return f"no answer within {TIMEOUT_S:g} s"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return type(error).__name__
