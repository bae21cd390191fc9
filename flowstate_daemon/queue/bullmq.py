"""Detection of BullMQ, the successor of Bull, under the name of the queue.

Both use the same prefix and key names with different meanings: jobs with a priority are in a zset that Bull never
reads, and pausing is a field of `meta`. Such emails are not sent, and no script fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import structlog

from flowstate_daemon.base.service import PeriodicService, ServiceContext
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts

log = structlog.get_logger()

CHECK_INTERVAL_S = 300.0
CONDITION = "bullmq"


@dataclass(frozen=True, slots=True)
class BullMqTraces:
    """What BullMQ left under the name of the queue. `version` is that of the last producer or worker, if it says so."""

    version: str
    events: bool
    unreachable_jobs: int

    @property
    def found(self) -> bool:
        return bool(self.version or self.events or self.unreachable_jobs)

    def reason(self, keys: Keys) -> str:
        """What was found and what it means."""
        jobs = f"; {self.unreachable_jobs} jobs wait where no Bull worker looks" if self.unreachable_jobs else ""
        return f"BullMQ{self.version and f' ({self.version})'} writes under {keys.base}, which is a queue of Bull{jobs}"

    def remedy(self, keys: Keys) -> str:
        return (
            "use npm bull in the backend, or another queue name for BullMQ; "
            f"after that, delete {keys('meta')}, {keys('events')}, {keys('marker')} and {keys('prioritized')}"
        )


async def find_bullmq(connection: Connection, keys: Keys) -> BullMqTraces:
    """Look for BullMQ under the name of the queue. Raises StoreUnavailableError."""
    names = [keys(name) for name in ("meta", "events", "prioritized", "marker")]
    version, events, unreachable = await Scripts(connection).run("find_bullmq", names, [])
    return BullMqTraces(version.decode(errors="replace"), bool(events), unreachable)


class BullMqDetector(PeriodicService):
    """Looks for BullMQ every few minutes; the daemon is not ready while it is there."""

    name: ClassVar[str] = "bullmq_detector"

    def __init__(self, connection: Connection, keys: Keys, context: ServiceContext) -> None:
        super().__init__(context.health.register(self.name), context.clock, every_s=CHECK_INTERVAL_S, first_s=0.0)
        self._connection = connection
        self._keys = keys
        self._health = context.health

    async def run_once(self) -> None:
        traces = await find_bullmq(self._connection, self._keys)
        if not traces.found:
            self._health.clear_condition(CONDITION)
            return
        reason, remedy = traces.reason(self._keys), traces.remedy(self._keys)
        log.warning("bullmq_detected", reason=reason, remedy=remedy)
        self._health.set_condition(CONDITION, f"{reason}: {remedy}")
