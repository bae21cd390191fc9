"""Moves outcomes from the journal in Redis to the ledger in Postgres, in batches, and prunes the ledger.

Postgres may be unreachable for hours: the current batch is kept, the rest waits in Redis, and emails are still sent. An
entry is removed from the journal after it is in the ledger; an entry that is written twice is stored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import PeriodicService, Service
from flowstate_daemon.database.ledger import WRITE_BATCH_SIZE, Ledger, Outcome, RejectedEntry, parse_outcome
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.queue.journal import Journal

log = structlog.get_logger()

# Entries of other daemons, or from before a crash, are not announced: poll three times a minute.
POLL_INTERVAL_S = 20.0
# Outcomes within this time share one batch: three Redis commands a second instead of three per email.
BATCH_WINDOW_S = 0.5
INTERVAL_S = 6 * 3600.0
# Not at startup: the schema may not exist yet, and an urgent restart should not wait for the pruning.
INITIAL_DELAY_S = 600.0


class LedgerWriter(Service):
    """One per daemon; several daemons may write at the same time."""

    name: ClassVar[str] = "ledger_writer"

    def __init__(self, journal: Journal, ledger: Ledger, migrator: Migrator, heartbeat: Heartbeat) -> None:
        super().__init__(heartbeat)
        self._journal = journal
        self._ledger = ledger
        self._migrator = migrator
        self._schema_ready = False
        self._batch: list[bytes] = []
        self._arrived = asyncio.Event()

    def wake(self) -> None:
        """This process has just written an outcome to the journal."""
        self._arrived.set()

    def stop(self) -> None:
        super().stop()
        self._arrived.set()

    async def run_once(self) -> None:
        if not self._schema_ready:
            # Migrations run here and not at startup, because the daemon must start while Postgres is unreachable.
            self.heartbeat.idle()  # another daemon may be migrating for minutes
            await self._migrator.apply()
        # After an outage the database may be another one, such as a restored backup: check the schema again.
        self._schema_ready = False
        if not self._batch:
            self._arrived.clear()
            self._batch = await self._journal.peek(WRITE_BATCH_SIZE)
        full = len(self._batch) == WRITE_BATCH_SIZE
        if self._batch:
            await self._write_batch()
        self._schema_ready = True
        if not full and not self.stopping:
            await self._wait_for_entries()

    async def _write_batch(self) -> None:
        outcomes, rejects = split_valid(self._batch)
        if rejects:
            log.error("journal_entries_rejected", count=len(rejects), reason=rejects[0].reason)
            await self._ledger.reject(rejects)
            self.progress()
        written = await self._ledger.write(outcomes)
        self.progress()
        dropped = await self._journal.drop(self._batch)
        log.debug("ledger_written", entries=len(self._batch), new=written, dropped=dropped)
        self._batch = []

    async def _wait_for_entries(self) -> None:
        self.progress()
        await self.wait(POLL_INTERVAL_S, self._arrived.wait())
        await self.sleep(BATCH_WINDOW_S)


def split_valid(entries: Sequence[bytes]) -> tuple[list[Outcome], list[RejectedEntry]]:
    """The valid outcomes among the entries, and the invalid entries. Pure."""
    outcomes, rejects = [], []
    for raw in entries:
        try:
            outcomes.append(parse_outcome(raw))
        except InvalidDataError as malformed:
            rejects.append(RejectedEntry(raw, malformed.reason))
    return outcomes, rejects


class Pruner(PeriodicService):
    """Deletes old outcomes. One per daemon; a row that another daemon is deleting is skipped."""

    name: ClassVar[str] = "pruner"

    def __init__(self, ledger: Ledger, heartbeat: Heartbeat, clock: Clock, *, retention_days: int) -> None:
        super().__init__(heartbeat, clock, every_s=INTERVAL_S, first_s=INITIAL_DELAY_S)
        self._ledger = ledger
        self._retention_days = retention_days

    async def run_once(self) -> None:
        if not self._clock.reliable:
            return  # by a wrong clock all entries may be old; the next run is soon enough
        self.heartbeat.idle()  # the first run may have to delete for minutes
        rows = await self._ledger.prune(self._retention_days)
        log.info("ledger_pruned", rows=rows, retention_days=self._retention_days)
