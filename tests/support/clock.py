"""A clock that tests control."""

from __future__ import annotations

from datetime import UTC, datetime

from flowstate_daemon.base.clock import Clock

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)  # a Monday, 09:00 in Paris, no change of time nearby


class WrongClock(Clock):
    """The clock of a host that is `ahead_s` seconds ahead; tests change it while a daemon runs."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self.ahead_s = ahead_s

    def now_ms(self) -> int:
        return super().now_ms() + round(self.ahead_s * 1000)


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
