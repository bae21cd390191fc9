"""The one shape of a loop: `name`, `run()`, `stop()`.

A subclass writes `turn()`, one pass of its loop. The base class beats the pulse, and outlives outages with
capped backoff; any other error is a bug and ends the house, which a supervisor restarts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, ClassVar, TypeVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import Outage
from flowstate_daemon.base.vitals import Pulse

log = structlog.get_logger()

T = TypeVar("T")

FIRST_REST_S = 0.1
LONGEST_REST_S = 5.0
LONGEST_SILENCE_S = 10.0
CANCEL_AGAIN_S = 0.1


class Service:
    """One loop of the house. `stop()` asks; `run()` returns at the end of the turn under way."""

    name: ClassVar[str]

    def __init__(self, pulse: Pulse) -> None:
        self.pulse = pulse
        pulse.rest()  # a loop that has not begun, because the house waits for a store, is not stuck
        self._rest_s = 0.0
        self._stopping = asyncio.Event()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        self._stopping.set()

    async def turn(self) -> None:
        """One pass: wait for work, bounded, and do it. Raises Outage when a store is away."""
        raise NotImplementedError

    async def run(self) -> None:
        self.pulse.beat()  # from here on, silence is watched
        while not self.stopping:
            try:
                await self.turn()
            except Outage as outage:
                await self._sit_out(outage)
            else:
                self.progressed()
        # The house may drain for longer than a pulse stays fresh: an ended loop is not a stuck one.
        self.pulse.rest()

    def progressed(self) -> None:
        """Something was got done. Called after each turn, and in a turn that will wait for long by the turn itself."""
        if self._rest_s:
            log.info("store_back", service=self.name)
            self._rest_s = 0.0
        self.pulse.beat()

    async def _sit_out(self, outage: Outage) -> None:
        if not self._rest_s:
            log.warning("store_away", service=self.name, reason=outage.reason)
        self._rest_s = min(max(self._rest_s * 2, FIRST_REST_S), LONGEST_REST_S)
        self.pulse.suffer(outage.reason)
        await self.pause(self._rest_s)

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than until `stop()`."""
        if seconds > 0:
            await self.within(seconds, self._stopping.wait())

    async def within(self, seconds: float, awaitable: Awaitable[object]) -> None:
        """Await something for at most `seconds`; used for waits that may come to nothing."""
        try:
            async with asyncio.timeout(seconds):
                await awaitable
        except TimeoutError:
            return

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await `work`, which must be safe to cancel; None when `stop()` came first."""
        return await unless(self._stopping, work)


async def unless(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Await `work`, which must be safe to cancel; None when `stopping` was set first."""
    task = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        stop.cancel()
        # Until it is done: `wait_for` in Python 3.11 swallows a cancellation that meets its inner task's end,
        # and redis-py writes every command inside one.
        while not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=CANCEL_AGAIN_S)


class PeriodicService(Service):
    """A loop that acts once in `every_s` seconds; in between it beats, so that its pulse stays fresh."""

    def __init__(self, pulse: Pulse, clock: Clock, *, every_s: float, first_s: float | None = None) -> None:
        """`first_s` is the wait before the first time, `every_s` unless given."""
        super().__init__(pulse)
        self._clock = clock
        self._every_s = every_s
        self._next_at = clock.mono() + (every_s if first_s is None else first_s)

    async def act(self) -> None:
        """What is done each time. Raises Outage when a store is away: it is tried again soon."""
        raise NotImplementedError

    async def turn(self) -> None:
        await self.pause(min(LONGEST_SILENCE_S, self._next_at - self._clock.mono()))
        if self._clock.mono() >= self._next_at and not self.stopping:
            await self.act()
            self._next_at = self._clock.mono() + self._every_s
