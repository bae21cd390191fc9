"""Ends the ledger's memory: deletes what is older than the retention, a few times a day, in small batches."""

from __future__ import annotations

from typing import ClassVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.service import PeriodicService
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.database.ledger import Ledger

log = structlog.get_logger()

INTERVAL_S = 6 * 3600.0
# Not at the start: the schema may not be there yet, and whoever restarts in a hurry has other worries.
FIRST_AFTER_S = 600.0


class Pruner(PeriodicService):
    """One of these per daemon; what one is just deleting, another passes over."""

    name: ClassVar[str] = "pruner"

    def __init__(self, ledger: Ledger, pulse: Pulse, clock: Clock, *, keep_days: int) -> None:
        super().__init__(pulse, clock, every_s=INTERVAL_S, first_s=FIRST_AFTER_S)
        self._ledger = ledger
        self._keep_days = keep_days

    async def act(self) -> None:
        self.pulse.rest()  # a first run over a long past may take minutes
        gone = await self._ledger.prune(self._keep_days)
        log.info("ledger_pruned", rows=gone, keep_days=self._keep_days)
