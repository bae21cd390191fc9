"""Moves outcomes from the journal in Redis to the ledger in Postgres, in batches, and prunes the ledger.

Postgres may be unreachable for hours: the current batch is kept, the rest waits in Redis, and emails are still sent. An
entry is removed from the journal after it is in the ledger; an entry that is written twice is stored once. What was
sent is also remembered here until it has been read from the journal, because Redis may lose its newest writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import InvalidDataError, StoreUnavailableError
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
# An entry of this process that was not read from the journal within this time was read by another daemon, or is lost.
UNREAD_S = 2.0
MAX_UNREAD = 20_000
INTERVAL_S = 6 * 3600.0
# Not at startup: the schema may not exist yet, and an urgent restart should not wait for the pruning.
INITIAL_DELAY_S = 600.0


class LedgerWriter(Service):
    """One per daemon; several daemons may write at the same time."""

    name: ClassVar[str] = "ledger_writer"

    def __init__(
        self, journal: Journal, ledger: Ledger, migrator: Migrator, heartbeat: Heartbeat, clock: Clock | None = None
    ) -> None:
        super().__init__(heartbeat)
        self._clock = clock or Clock()
        self._unread: dict[bytes, float] = {}
        self._read_at = 0.0
        self._journal = journal
        self._ledger = ledger
        self._migrator = migrator
        self._schema_ready = False
        self._batch: list[bytes] = []
        self._arrived = asyncio.Event()

    def wake(self) -> None:
        """This process has just written an outcome to the journal."""
        self._arrived.set()

    def remember(self, entry: bytes) -> None:
        """This process has sent an email and written this entry to the journal."""
        if len(self._unread) < MAX_UNREAD:
            self._unread[entry] = self._clock.monotonic()

    def stop(self) -> None:
        super().stop()
        self._arrived.set()

    async def run(self) -> None:
        """Runs until `stop()`, then moves what the other services have left in the journal.

        The worker bounds how long that may take; entries that stay in the journal are written by the next start.
        """
        await super().run()
        try:
            while await self._move_batch():
                self.progress()
        except StoreUnavailableError as outage:
            log.info("journal_kept", reason=outage.reason)
        self.heartbeat.idle()

    async def run_once(self) -> None:
        if await self._move_batch() < WRITE_BATCH_SIZE and not self.stopping:
            await self._wait_for_entries()

    async def _move_batch(self) -> int:
        """Move up to one batch to the ledger; returns the number of entries."""
        if not self.stopping:  # at the end a Postgres that hangs is asked only if there is something to write
            await self._prepare_schema()
        if not self._batch:
            self._arrived.clear()
            self._read_at = self._clock.monotonic()  # before Postgres makes us wait: later entries are in the journal
            self._batch = await self._journal.peek(WRITE_BATCH_SIZE)
        count = len(self._batch)
        for entry in self._batch:
            self._unread.pop(entry, None)
        if count:
            await self._prepare_schema()
            # After an outage the database may be another one, such as a restored backup: check the schema again.
            self._schema_ready = False
            await self._write_batch()
            self._schema_ready = True
        if count < WRITE_BATCH_SIZE:  # with a longer backlog, they may be in the journal still
            await self._write_unread()
        return count

    async def _prepare_schema(self) -> None:
        """Migrations run here and not at startup, because the daemon must start while Postgres is unreachable."""
        if not self._schema_ready:
            self.heartbeat.idle()  # another daemon may be migrating for minutes
            await self._migrator.apply()
            self._schema_ready = True

    async def _write_batch(self) -> None:
        outcomes, rejects = split_valid(self._batch)
        if rejects:
            log.error("journal_entries_rejected", count=len(rejects), reason=rejects[0].reason)
            await self._ledger.reject(rejects)
            self.heartbeat.beat_within_pass()
        written = await self._ledger.write(outcomes)
        self.heartbeat.beat_within_pass()  # the pass needs both stores: this is not its end
        dropped = await self._journal.drop(self._batch)
        log.debug("ledger_written", entries=len(self._batch), new=written, dropped=dropped)
        self._batch = []

    async def _write_unread(self) -> None:
        """Write what this process has sent and may not have been read from the journal; again does no harm."""
        before = self._read_at - UNREAD_S
        overdue = [entry for entry, at in self._unread.items() if at < before][:WRITE_BATCH_SIZE]
        if overdue:
            new = await self._ledger.write(split_valid(overdue)[0])
            if new:
                log.warning(
                    "journal_entries_lost", entries=new, reason="Redis has lost them; they are in the ledger now"
                )
        for entry in overdue:
            del self._unread[entry]

    async def _wait_for_entries(self) -> None:
        self.progress()
        await self.wait(UNREAD_S if self._unread else POLL_INTERVAL_S, self._arrived.wait())
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
