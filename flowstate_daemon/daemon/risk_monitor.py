"""Looks for what makes a healthy daemon useless: a Redis that forgets, an unused queue, nothing to observe.

Also remembers in Redis that this queue is used with a ledger. Without it, it is unknown who bounced or unsubscribed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import asyncpg
import structlog

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.risks import Risk
from flowstate_daemon.base.service import PeriodicService, ServiceContext
from flowstate_daemon.config.loader import Config
from flowstate_daemon.config.risks import find_risks
from flowstate_daemon.database.server_info import read_time
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.server_info import find_durability_risks

log = structlog.get_logger()

INTERVAL_S = 600.0
LEDGER_KEY = "ledger-used"
LEDGER_RISK = Risk(
    "ledger",
    "this queue was used with a ledger before, and DATABASE_URL is not set: it is unknown who bounced or "
    "unsubscribed, so only codes are sent",
    "set DATABASE_URL; or FLOWSTATE_DATABASE_WITHOUT_LEDGER=true to send to everybody again",
    affects_mails=False,  # they wait, and the daemon is not ready
)
WITHOUT_LEDGER_RISK = Risk(
    "ledger",
    "this queue was used with a ledger before: people who bounced or unsubscribed get emails again",
    "set DATABASE_URL, and remove FLOWSTATE_DATABASE_WITHOUT_LEDGER",
)
NO_WORKER_RISK = Risk(
    "shadow mode",
    "no Bull worker of the backend is connected to this queue: no emails are sent, and there is nothing to compare",
    "start the backend's worker, or set FLOWSTATE_MODE=send",
)


async def ledger_was_used(connection: Connection, keys: Keys) -> bool:
    """Whether a daemon with a ledger has worked on this queue. Raises StoreUnavailableError."""
    return bool(await connection.execute("EXISTS", keys.own(LEDGER_KEY)))


async def queue_was_used(connection: Connection, keys: Keys) -> bool:
    """Whether a job was ever added. Bull's counter is kept for ever. Raises StoreUnavailableError."""
    return bool(await connection.execute("EXISTS", keys("id"), keys("wait"), keys("paused"), keys("delayed")))


def unused_queue_risk(keys: Keys) -> Risk:
    return Risk(
        "queue",
        f"no job was ever added to {keys.base.rstrip(':')}",
        "compare FLOWSTATE_QUEUE_PREFIX, FLOWSTATE_QUEUE_NAME and REDIS_URL with the backend's Bull; FlowState's "
        "backend uses database 0, whatever number its REDIS_URL has",
    )


class KnownRisks:
    """Logs each risk once while it lasts, and keeps ready's warnings up to date."""

    def __init__(self, health: HealthRegistry) -> None:
        self._health = health
        self._known: dict[str, set[Risk]] = {}

    def update(self, source: str, risks: Iterable[Risk]) -> None:
        """`risks` are all that `source` knows of now."""
        current, before = set(risks), self._known.get(source, set())
        for gone in before - current:
            self._health.clear_warning(gone.name)
        for risk in sorted(current - before, key=lambda risk: risk.name):
            log.warning("risk_found", risk=risk.name, reason=risk.finding, remedy=risk.remedy)
        for risk in current:
            if risk.affects_mails:
                self._health.set_warning(risk.name, f"{risk.finding}; {risk.remedy}")
        self._known[source] = current


class RiskMonitor(PeriodicService):
    """Costs a few commands every ten minutes."""

    name: ClassVar[str] = "risk_monitor"

    def __init__(
        self,
        config: Config,
        connection: Connection,
        keys: Keys,
        pool: asyncpg.Pool | None,
        context: ServiceContext,
    ) -> None:
        super().__init__(context.health.register(self.name), context.clock, every_s=INTERVAL_S, first_s=0.0)
        self._is_shadow = config.queue.mode == "shadow"
        self._sends = config.delivery == "resend"
        self._without_ledger = config.database.without_ledger
        self._connection = connection
        self._keys = keys
        self._pool = pool
        self._context = context
        self._inspector = Inspector(connection, keys)
        self._queue_used = config.is_dev  # its queue is new, and no backend uses it
        self._ledger_remembered = False
        self._risks = KnownRisks(context.health)

    def apply_settings(self, config: Config) -> None:
        """The risks of the settings, at the start and after a reload."""
        self._risks.update("settings", find_risks(config))

    async def must_hold_bulk(self) -> bool:
        """Whether only codes may be sent, because the ledger of this queue is gone. Raises StoreUnavailableError."""
        needs_ledger = self._pool is None and self._sends
        if not needs_ledger or not await ledger_was_used(self._connection, self._keys):
            self._risks.update("ledger", ())
            return False
        self._risks.update("ledger", [WITHOUT_LEDGER_RISK if self._without_ledger else LEDGER_RISK])
        return not self._without_ledger

    async def run_once(self) -> None:
        if not self._is_shadow:  # a shadow stores nothing, and may not be allowed to read the settings of Redis
            self._risks.update("redis", await find_durability_risks(self._connection))
        self._risks.update("queue", await self._queue_risks())
        await self._remember_ledger()

    async def _queue_risks(self) -> list[Risk]:
        risks = []
        if not self._queue_used:
            used = self._context.metrics.claimed > 0 or await queue_was_used(self._connection, self._keys)
            self._queue_used = used
            if not used:
                risks.append(unused_queue_risk(self._keys))
        if self._is_shadow:
            workers = await self._inspector.foreign_workers()
            if workers.note is None and not workers.clients:
                risks.append(NO_WORKER_RISK)
        return risks

    async def _remember_ledger(self) -> None:
        if self._pool is None or self._is_shadow or self._ledger_remembered:
            return
        try:
            await read_time(self._pool, self._context.clock)
        except StoreUnavailableError:
            return  # the ledger writer reports it
        await self._connection.execute("SET", self._keys.own(LEDGER_KEY), self._context.clock.now_ms())
        self._ledger_remembered = True
