"""Turns of the event loop: codes have priority over bulk work.

The send queue orders emails, but between a claim and its request the event loop turns about a dozen times, and all
other ready tasks run each time. So the fetcher announces a code, the batch sender ends the priority, and work on many
emails yields after every chunk of about a millisecond.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

from flowstate_daemon.base.clock import Clock

T = TypeVar("T")

CHUNK_SIZE = 5  # emails of bulk work between two yields
TURN_S = 0.00025  # to render and encode five usual emails; a summary of 300 tasks alone takes twice as long
YIELD_S = 0.002
MAX_YIELDS = 15  # bulk waits at most 30 ms, however many codes arrive: it slows down but never stops
URGENT_TIMEOUT_S = 0.03  # from claim to socket; afterwards a code has no priority on the event loop
WRITE_GRACE_S = 0.003  # between passing a request to the HTTP client and writing its bytes


class UrgentPriority:
    """The codes being sent, by job id; each has priority for a bounded time, so it cannot be held for ever."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def started(self, job_id: str) -> None:
        """A code was claimed."""
        self._until[job_id] = self._clock.monotonic() + URGENT_TIMEOUT_S

    def finished(self, job_id: str) -> None:
        """The code's request is being written to the socket; does nothing for other emails."""
        if job_id in self._until:
            self._until[job_id] = self._clock.monotonic() + WRITE_GRACE_S

    async def yield_to_urgent(self) -> None:
        """Yield to the event loop; while codes are being sent, wait for them for a bounded time."""
        await asyncio.sleep(0)
        for _ in range(MAX_YIELDS):
            if not self._taken():
                return
            await asyncio.sleep(YIELD_S)

    async def chunked(self, mails: Iterable[T], size: int = CHUNK_SIZE) -> AsyncIterator[T]:
        """The emails, with a yield after every `size` of them."""
        for number, mail in enumerate(mails, start=1):
            yield mail
            if number % size == 0:
                await self.yield_to_urgent()

    def _taken(self) -> bool:
        if self._until:
            now = self._clock.monotonic()
            self._until = {job_id: until for job_id, until in self._until.items() if until > now}
        return bool(self._until)


class BulkTurns:
    """For work that starts in many tasks at once: `CHUNK_SIZE` of them run in a turn of the event loop.

    Fewer if they take longer than `TURN_S` together, but at least one. No more run while codes are being sent, for the
    same bounded time as in `UrgentPriority.yield_to_urgent`.
    """

    def __init__(self, urgent_priority: UrgentPriority, clock: Clock) -> None:
        self._urgent_priority = urgent_priority
        self._clock = clock
        self._left = CHUNK_SIZE
        self._ends_at: float | None = None  # set by the first task that runs in a turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._late: deque[asyncio.Future[None]] = deque()  # they were in a turn whose time was over
        self._task: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        """Wait until the caller may run; it must not wait for anything else before its work is done."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._give_turns(), name="bulk_turns")
        if self._left:
            self._left -= 1
        else:
            await _new_turn(self._waiting)
        while not self._has_time():
            await _new_turn(self._late)

    def _has_time(self) -> bool:
        now = self._clock.monotonic()
        if self._ends_at is None:
            self._ends_at = now + TURN_S
        return now < self._ends_at

    async def _give_turns(self) -> None:
        """Ends by itself when no task has waited for a turn since the last one."""
        while self._left < CHUNK_SIZE:
            await self._urgent_priority.yield_to_urgent()
            self._left, self._ends_at = CHUNK_SIZE, None
            self._waiting.extendleft(reversed(self._late))
            self._late.clear()
            while self._left and self._waiting:
                turn = self._waiting.popleft()
                if not turn.done():  # it was cancelled
                    turn.set_result(None)
                    self._left -= 1


def _new_turn(turns: deque[asyncio.Future[None]]) -> asyncio.Future[None]:
    turn = asyncio.get_running_loop().create_future()
    turns.append(turn)
    return turn
