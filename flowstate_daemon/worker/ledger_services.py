"""Moves outcomes from the journal in Redis to the ledger in Postgres, in batches, in its own time.

Postgres may be away for hours: the batch in hand is kept, the rest waits in Redis, mails go out. An entry leaves the
journal after it is in the ledger; whatever is moved twice, by us after a crash or by another daemon, counts once.
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

# Nobody tells us what other daemons, or we ourselves before a crash, have left: look three times a minute.
POLL_INTERVAL_S = 20.0
# What settles within this time shares one batch: three Redis commands a second instead of three a mail.
BATCH_WINDOW_S = 0.5


class LedgerWriter(Service):
    """One of these per daemon; they need not know of each other."""

    name: ClassVar[str] = "ledger_writer"

    def __init__(self, journal: Journal, ledger: Ledger, migrator: Migrator, heartbeat: Heartbeat) -> None:
        super().__init__(heartbeat)
        self._journal = journal
        self._ledger = ledger
        self._migrator = migrator
        self._at_home = False
        self._in_hand: list[bytes] = []
        self._arrived = asyncio.Event()

    def wake(self) -> None:
        """An outcome was just written to the journal by this process."""
        self._arrived.set()

    def stop(self) -> None:
        super().stop()
        self._arrived.set()

    async def run_once(self) -> None:
        if not self._at_home:
            # Here instead of at the start of the house: it must open while Postgres is away.
            self.heartbeat.idle()  # another migrator may be at work for minutes
            await self._migrator.apply()
        # An outage may end with another database than it began with: after one, look again.
        self._at_home = False
        if not self._in_hand:
            self._arrived.clear()
            self._in_hand = await self._journal.peek(WRITE_BATCH_SIZE)
        full = len(self._in_hand) == WRITE_BATCH_SIZE
        if self._in_hand:
            await self._move()
        self._at_home = True
        if not full and not self.stopping:
            await self._something_arrives()

    async def _move(self) -> None:
        outcomes, rejects = split_valid(self._in_hand)
        if rejects:
            log.error("journal_entries_rejected", count=len(rejects), reason=rejects[0].reason)
            await self._ledger.reject(rejects)
            self.progress()
        written = await self._ledger.write(outcomes)
        self.progress()
        dropped = await self._journal.drop(self._in_hand)
        log.debug("ledger_written", entries=len(self._in_hand), new=written, dropped=dropped)
        self._in_hand = []

    async def _something_arrives(self) -> None:
        self.progress()
        await self.wait(POLL_INTERVAL_S, self._arrived.wait())
        await self.sleep(BATCH_WINDOW_S)


def split_valid(entries: Sequence[bytes]) -> tuple[list[Outcome], list[RejectedEntry]]:
    """The outcomes among the entries, and what is none. Pure."""
    outcomes, rejects = [], []
    for raw in entries:
        try:
            outcomes.append(parse_outcome(raw))
        except InvalidDataError as malformed:
            rejects.append(RejectedEntry(raw, malformed.reason))
    return outcomes, rejects


INTERVAL_S = 6 * 3600.0
# Not at the start: the schema may not be there yet, and whoever restarts in a hurry has other worries.
INITIAL_DELAY_S = 600.0


class Pruner(PeriodicService):
    """One of these per daemon; what one is just deleting, another passes over."""

    name: ClassVar[str] = "pruner"

    def __init__(self, ledger: Ledger, heartbeat: Heartbeat, clock: Clock, *, keep_days: int) -> None:
        super().__init__(heartbeat, clock, every_s=INTERVAL_S, first_s=INITIAL_DELAY_S)
        self._ledger = ledger
        self._keep_days = keep_days

    async def run_once(self) -> None:
        self.heartbeat.idle()  # a first run over a long past may take minutes
        gone = await self._ledger.prune(self._keep_days)
        log.info("ledger_pruned", rows=gone, retention_days=self._keep_days)
