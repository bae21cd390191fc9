"""Compares the clocks of this machine, of Redis and of Postgres.

While they disagree, nothing is planned, and a code expires only by the time that has passed in this process.
"""

from __future__ import annotations

from typing import ClassVar

import asyncpg
import structlog

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.base.shared_clock import CLOCK_REMEDY, SharedClock
from flowstate_daemon.database.server_info import read_time as read_postgres_time
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.server_info import read_time as read_redis_time

log = structlog.get_logger()

CHECK_INTERVAL_S = 1.0  # costs no command: only this machine's clock is read
REDIS_INTERVAL_S = 60.0  # a jump of this machine's clock is seen at once; that of Redis rarely jumps
POSTGRES_INTERVAL_S = 30.0
CONDITION = "clocks"
PRODUCER_WARNING = "producer clock"
PRODUCER_WARNING_S = 600.0  # how long a wrong clock of a producer is shown after its last job


class ClockMonitor(Service):
    """Keeps the shared clock up to date. Outages of the stores are reported by the services that need them."""

    name: ClassVar[str] = "clock_monitor"

    def __init__(
        self,
        shared: SharedClock,
        connection: Connection,
        pool: asyncpg.Pool | None,
        context: ServiceContext,
        *,
        max_difference_s: float,
    ) -> None:
        super().__init__(context.health.register(self.name))
        self._shared = shared
        self._max_difference_s = max_difference_s
        self._producer_seen_at: float | None = None
        self._connection = connection
        self._pool = pool
        self._health = context.health
        self._redis: float | None = None
        self._postgres: float | None = None
        self._redis_due_at = self._postgres_due_at = 0.0
        self._disagreed = False

    async def read(self) -> None:
        """Read the clocks that are due, and report whether they disagree."""
        now = self._shared.monotonic()
        # What was not read now is unknown: an old offset says nothing about a clock that may have jumped since.
        if now >= self._redis_due_at:
            self._redis_due_at = now + REDIS_INTERVAL_S
            try:
                self._redis = await read_redis_time(self._connection, self._shared)
            except StoreUnavailableError:
                self._redis = None
        if self._pool is not None and now >= self._postgres_due_at:
            self._postgres_due_at = now + POSTGRES_INTERVAL_S
            try:
                self._postgres = await read_postgres_time(self._pool, self._shared)
            except StoreUnavailableError:
                self._postgres = None
        self._shared.observe(self._redis, self._postgres)
        self._report()

    def producer_differs(self, ahead_s: float) -> None:
        """A job was added by a producer whose clock is `ahead_s` seconds ahead of Redis'."""
        if abs(ahead_s) <= self._max_difference_s:
            return
        if self._producer_seen_at is None:
            log.warning("producer_clock_differs", ahead_s=round(ahead_s), remedy=CLOCK_REMEDY)
        self._producer_seen_at = self._shared.monotonic()
        side = "ahead of" if ahead_s > 0 else "behind"
        text = f"the clock of a producer is {round(abs(ahead_s))} s {side} that of Redis; {CLOCK_REMEDY}"
        self._health.set_warning(PRODUCER_WARNING, text)

    def _report(self) -> None:
        now = self._shared.monotonic()
        if self._producer_seen_at is not None and now - self._producer_seen_at > PRODUCER_WARNING_S:
            self._producer_seen_at = None
            self._health.clear_warning(PRODUCER_WARNING)
        disagreement = self._shared.disagreement
        if disagreement is None:
            if self._disagreed:
                log.warning("clocks_agree_again")
            self._health.clear_condition(CONDITION)
        else:
            if not self._disagreed:
                log.error("clocks_disagree", reason=disagreement, remedy=CLOCK_REMEDY)
            self._health.set_condition(
                CONDITION, f"{disagreement}: nothing is planned, and codes do not expire; {CLOCK_REMEDY}"
            )
        self._disagreed = disagreement is not None

    async def run_once(self) -> None:
        await self.sleep(CHECK_INTERVAL_S)
        if not self.stopping:
            await self.read()
