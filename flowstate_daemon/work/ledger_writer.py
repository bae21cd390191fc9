"""Moves outcomes from the journal in Redis to the ledger in Postgres, in batches, in its own time.

Postgres may be away for hours: the batch in hand is kept, the rest waits in Redis, mails go out. An entry leaves the
journal after it is in the ledger; whatever is moved twice, by us after a crash or by another daemon, counts once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar, Protocol

import structlog

from flowstate_daemon.base.errors import Malformed
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.database.ledger import BATCH, Ledger, Reject
from flowstate_daemon.database.migrate import Migrator
from flowstate_daemon.database.outcome import Outcome, read_outcome

log = structlog.get_logger()

# Nobody tells us what other daemons, or we ourselves before a crash, have left: look three times a minute.
LOOK_AGAIN_S = 20.0
# What settles within this time shares one batch: three Redis commands a second instead of three a mail.
GATHER_S = 0.5


class Journal(Protocol):
    """The list of outcomes, oldest first."""

    async def peek(self, count: int) -> list[bytes]:
        """The oldest entries, which stay where they are."""
        ...

    async def drop(self, entries: Sequence[bytes]) -> int:
        """Remove exactly these from the head, as far as they are still there; returns how many."""
        ...


class LedgerWriter(Service):
    """One of these per daemon; they need not know of each other."""

    name: ClassVar[str] = "ledger_writer"

    def __init__(self, journal: Journal, ledger: Ledger, migrator: Migrator, pulse: Pulse) -> None:
        super().__init__(pulse)
        self._journal = journal
        self._ledger = ledger
        self._migrator = migrator
        self._at_home = False
        self._in_hand: list[bytes] = []
        self._arrived = asyncio.Event()

    def notice(self) -> None:
        """An outcome was just written to the journal by this process."""
        self._arrived.set()

    def stop(self) -> None:
        super().stop()
        self._arrived.set()

    async def turn(self) -> None:
        if not self._at_home:
            # Here instead of at the start of the house: it must open while Postgres is away.
            self.pulse.rest()  # another migrator may be at work for minutes
            await self._migrator.apply()
        # An outage may end with another database than it began with: after one, look again.
        self._at_home = False
        if not self._in_hand:
            self._arrived.clear()
            self._in_hand = await self._journal.peek(BATCH)
        full = len(self._in_hand) == BATCH
        if self._in_hand:
            await self._move()
        self._at_home = True
        if not full and not self.stopping:
            await self._something_arrives()

    async def _move(self) -> None:
        outcomes, rejects = sorted_out(self._in_hand)
        if rejects:
            log.error("journal_entries_set_aside", count=len(rejects), reason=rejects[0].reason)
            await self._ledger.set_aside(rejects)
            self.progressed()
        written = await self._ledger.write(outcomes)
        self.progressed()
        dropped = await self._journal.drop(self._in_hand)
        log.debug("outcomes_moved", entries=len(self._in_hand), new=written, dropped=dropped)
        self._in_hand = []

    async def _something_arrives(self) -> None:
        self.progressed()
        await self.within(LOOK_AGAIN_S, self._arrived.wait())
        await self.pause(GATHER_S)


def sorted_out(entries: Sequence[bytes]) -> tuple[list[Outcome], list[Reject]]:
    """The outcomes among the entries, and what is none. Pure."""
    outcomes, rejects = [], []
    for raw in entries:
        try:
            outcomes.append(read_outcome(raw))
        except Malformed as malformed:
            rejects.append(Reject(raw, malformed.reason))
    return outcomes, rejects
