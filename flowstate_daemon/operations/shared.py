"""Values that are expensive to read, shared by everybody who looks at them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import StoreUnavailableError

T = TypeVar("T")

PAGE_WAIT_S = 0.1  # the first byte of a page is sent within 200 ms
SHARE = 20  # reading takes at most one part in this of the time
MAX_AGE_S = 300.0


class StillReadingError(StoreUnavailableError):
    """There is no value yet, and reading it takes longer than a page waits."""


class SharedValue(Generic[T]):
    """The result of `read`. One reader reads for all; the longer that took, the longer the result is shared.

    A value that is read within a few milliseconds is always new, one that takes 5 s is read every 100 s.
    """

    def __init__(self, read: Callable[[], Awaitable[T]], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._last: T | None = None
        self._fresh_until = float("-inf")
        self._task: asyncio.Task[T] | None = None

    async def get(self, *, wait_s: float | None = None) -> T:
        """The value; an old one when reading takes longer than `wait_s`.

        Raises StillReadingError when there is no old one, and what `read` raises.
        """
        if self._last is not None and self._clock.monotonic() < self._fresh_until:
            return self._last
        if self._task is None:
            self._task = asyncio.create_task(self._renew(), name="shared value")
            self._task.add_done_callback(self._finished)
        # A viewer who leaves does not end the reading of the others.
        done, _ = await asyncio.wait((self._task,), timeout=wait_s)
        if done:
            return done.pop().result()
        if self._last is None:
            raise StillReadingError("reading this takes long the first time: load the page again in a few seconds")
        return self._last

    async def _renew(self) -> T:
        started = self._clock.monotonic()
        value = self._last = await self._read()
        ended = self._clock.monotonic()
        self._fresh_until = ended + min(MAX_AGE_S, (ended - started) * SHARE)
        return value

    def _finished(self, task: asyncio.Task[T]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # those who wait get it; nobody may be waiting any more
