"""Time, asked for in one place only. Wall time and monotonic time have different names.

Production uses `Clock`; tests pass a subclass that they move by hand. Nothing else asks the system for the time.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        """Wall time in Unix milliseconds: what goes into Redis, as Bull writes it."""
        return time.time_ns() // 1_000_000

    def now(self) -> datetime:
        """Wall time as an aware UTC instant: what goes into Postgres and cron arithmetic."""
        return datetime.fromtimestamp(self.now_ms() / 1000, tz=UTC)

    def monotonic(self) -> float:
        """Monotonic seconds: for deadlines and durations, never stored."""
        return time.monotonic()
