"""The only module that reads the system's time. Wall time and monotonic time have different names.

Production uses `Clock`; tests pass a subclass whose time they set.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The system clocks."""

    def now_ms(self) -> int:
        """Wall time in Unix milliseconds, the unit of Bull's fields in Redis."""
        return time.time_ns() // 1_000_000

    def now(self) -> datetime:
        """Wall time as an aware UTC datetime, for Postgres and cron."""
        return datetime.fromtimestamp(self.now_ms() / 1000, tz=UTC)

    def monotonic(self) -> float:
        """Monotonic seconds: for deadlines and durations, never stored."""
        return time.monotonic()

    @property
    def disagreement(self) -> str | None:
        """Why the wall time is not to be trusted: which clocks disagree, and by how much."""
        return None

    @property
    def reliable(self) -> bool:
        """Whether scheduled emails may be planned and may expire by this clock."""
        return self.disagreement is None
