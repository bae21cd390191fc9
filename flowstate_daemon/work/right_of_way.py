"""Who goes first on the event loop: while a code is on its way to the wire, bulk work waits at its next pause.

The bus's order decides who leaves first; but there are a dozen turns of the loop between a claim and its request, and
whatever else is ready runs in each of them. The fetcher announces, the carrier lets go; everything that works on many
mails gives way between pieces of about a millisecond.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

from flowstate_daemon.base.clock import Clock

T = TypeVar("T")

PIECE = 5  # mails that bulk work touches before it looks up
STEP_S = 0.002
LONGEST_STEPS = 15  # bulk waits 30 ms at most, however many codes come: it gets slow, it does not stand still
ON_ITS_WAY_S = 0.03  # from claim to wire; a code that takes longer, or ends otherwise, has lost its right
ONTO_THE_WIRE_S = 0.003  # between handing a request to the HTTP client and its bytes leaving


class RightOfWay:
    """The codes on their way, by job id; each holds its right for a bounded time, so nobody can forget to return it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def claimed(self, job_id: str) -> None:
        """A code is in our hands."""
        self._until[job_id] = self._clock.mono() + ON_ITS_WAY_S

    def leaving(self, job_id: str) -> None:
        """Its request is being written to the wire; nothing to do for any other mail."""
        if job_id in self._until:
            self._until[job_id] = self._clock.mono() + ONTO_THE_WIRE_S

    async def give_way(self) -> None:
        """Let the loop look up; while codes are on their way, wait for them, but not for ever."""
        await asyncio.sleep(0)
        for _ in range(LONGEST_STEPS):
            if not self._taken():
                return
            await asyncio.sleep(STEP_S)

    async def in_pieces(self, mails: Iterable[T]) -> AsyncIterator[T]:
        """The mails, with a pause after every few."""
        for number, mail in enumerate(mails, start=1):
            yield mail
            if number % PIECE == 0:
                await self.give_way()

    def _taken(self) -> bool:
        if self._until:
            now = self._clock.mono()
            self._until = {job_id: until for job_id, until in self._until.items() if until > now}
        return bool(self._until)
