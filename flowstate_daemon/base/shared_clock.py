"""The wall clock of the daemon: that of Redis, which all daemons share, continued by our monotonic clock.

A jump of this machine's clock changes nothing, and one of Redis' only after it has lasted. While the clocks of this
machine, of Redis and of Postgres disagree, it is unknown which one is right.
"""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from flowstate_daemon.base.clock import Clock

log = structlog.get_logger()

SETTLE_S = 300.0  # a jump of Redis' clock that has lasted for this long is a correction
CLOCK_REMEDY = "synchronize the clocks of all machines (chrony, systemd-timesyncd)"


class SharedClock(Clock):
    """`observe` gives it the time of the servers; before that, it is the clock of this machine.

    An offset is the wall time of a server minus our monotonic time, in ms: it changes only when a clock is adjusted.
    """

    def __init__(self, system: Clock, max_difference_s: float) -> None:
        self._system = system
        self._max_ms = max_difference_s * 1000
        self._offset: float | None = None
        self._postgres: float | None = None
        self._stepped: float | None = None
        self._stepped_at = 0.0

    def now_ms(self) -> int:
        return self._system.now_ms() if self._offset is None else int(self.monotonic() * 1000 + self._offset)

    def monotonic(self) -> float:
        return self._system.monotonic()

    def observe(self, redis: float | None, postgres: float | None) -> None:
        """The current offsets of the servers; None: unknown."""
        self._postgres = postgres
        if redis is None:
            return
        if self._offset is None or abs(redis - self._offset) <= self._max_ms:
            self._offset, self._stepped = redis, None
        elif self._stepped is None or abs(redis - self._stepped) > self._max_ms:
            self._stepped, self._stepped_at = redis, self.monotonic()
        elif self.monotonic() - self._stepped_at >= SETTLE_S:
            log.warning("clock_step_accepted", step_s=round((redis - self._offset) / 1000, 1))
            self._offset, self._stepped = redis, None

    @property
    def disagreement(self) -> str | None:
        return "; ".join(self._differences()) or None

    def _differences(self) -> Iterator[str]:
        system = self._system.now_ms() - self.monotonic() * 1000
        redis = system if self._offset is None else self._offset
        name = "this machine" if self._offset is None else "Redis"
        if self._stepped is not None:
            step_s = round((self._stepped - redis) / 1000)
            yield f"the clock of Redis jumped by {step_s} s"
        if abs(system - redis) > self._max_ms:
            ahead_s = round((system - redis) / 1000)
            side = "ahead of" if ahead_s > 0 else "behind"
            yield f"the clock of this machine is {abs(ahead_s)} s {side} that of Redis"
        if self._postgres is not None and abs(self._postgres - redis) > self._max_ms:
            ahead_s = round((self._postgres - redis) / 1000)
            side = "ahead of" if ahead_s > 0 else "behind"
            yield f"the clock of Postgres is {abs(ahead_s)} s {side} that of {name}"
