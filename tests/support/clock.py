"""A clock that tests control."""

from __future__ import annotations

from datetime import UTC, datetime

from flowstate_daemon.base.clock import Clock

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)  # a Monday, 09:00 in Paris, no change of time nearby


class FakeClock(Clock):
    """A clock that stands still. `advance` moves the monotonic and the wall clock, `jump` only the wall clock."""

    def __init__(self, start: datetime = START) -> None:
        self._wall_ms = round(start.timestamp() * 1000)
        self._mono_s = 1_000.0

    def now_ms(self) -> int:
        return self._wall_ms

    def monotonic(self) -> float:
        return self._mono_s

    def advance(self, seconds: float) -> None:
        self._wall_ms += round(seconds * 1000)
        self._mono_s += seconds

    def jump(self, seconds: float) -> None:
        """What an operator or NTP does: wall time changes, no time has passed."""
        self._wall_ms += round(seconds * 1000)
