"""Moves due jobs from `delayed` to the wait list: sleeps until the next one is due or a nearer one is announced."""

from __future__ import annotations

from typing import ClassVar

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.signals import Signals

# Announcements are fire and forget: look at the set at least this often.
LONGEST_SLEEP_S = 60.0
LONGEST_SILENCE_S = 10.0


class Promoter(Service):
    """One timer for the whole delayed set."""

    name: ClassVar[str] = "promoter"

    def __init__(self, bull: Bull, signals: Signals, pulse: Pulse, clock: Clock) -> None:
        super().__init__(pulse)
        self._bull = bull
        self._signals = signals
        self._clock = clock

    async def turn(self) -> None:
        promoted = await self._bull.promote()
        self.progressed()
        await self._sleep_until(promoted.next_due_ms)

    async def _sleep_until(self, due_ms: int | None) -> None:
        """Sleep until `due_ms`, or until something nearer is announced."""
        wake_ms = self._clock.now_ms() + int(LONGEST_SLEEP_S * 1000)
        if due_ms is not None:
            wake_ms = min(wake_ms, due_ms)
        while (left_ms := wake_ms - self._clock.now_ms()) > 0 and not self.stopping:
            signal = await self.unless_stopped(self._signals.next(min(left_ms / 1000, LONGEST_SILENCE_S)))
            self.progressed()
            if signal is not None and signal.due_ms is not None:
                wake_ms = min(wake_ms, signal.due_ms)
