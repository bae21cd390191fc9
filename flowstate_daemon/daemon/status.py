"""One line that says how the house is: what `systemctl status` shows.

Made from what the house knows anyway. Only the length of the queue is asked for, the more rarely the less happens,
because hosted Redis bills by the command.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import ClassVar

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.queue.inspector import Inspector, Snapshot

MIN_POLL_INTERVAL_S = 5.0
MAX_POLL_INTERVAL_S = 300.0
MIN_SHOWN_AGE_S = 30.0
RATE_WINDOW_S = 15.0
MAX_REASON_LENGTH = 120
MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400


class StatusReporter(Service):
    """Looks at the queue now and then, and writes the line whenever it is asked for."""

    name: ClassVar[str] = "dashboard"

    def __init__(
        self,
        inspector: Inspector,
        in_hand: Callable[[], int],
        context: ServiceContext,
        upcoming: Callable[[], tuple[str, datetime] | None] | None = None,
    ) -> None:
        """`upcoming` tells which schedule is next and when; without it there are none."""
        super().__init__(context.health.register("dashboard"))
        self._upcoming = upcoming
        self._inspector = inspector
        self._in_hand = in_hand
        self._health = context.health
        self._metrics = context.metrics
        self._clock = context.clock
        self._seen: Snapshot | None = None
        self._seen_at = self._clock.monotonic()
        self._look_after_s = MIN_POLL_INTERVAL_S
        self._claimed = -1
        self._counted: deque[tuple[float, int]] = deque()

    async def run_once(self) -> None:
        """Look when something has moved, else after ever longer waits: nothing costs nothing."""
        waited_s = self._clock.monotonic() - self._seen_at
        moving = self._metrics.claimed != self._claimed or self._in_hand() > 0
        if moving:
            self._look_after_s = MIN_POLL_INTERVAL_S
        if self._seen is None or waited_s >= self._look_after_s:
            self._claimed = self._metrics.claimed
            self._seen = await self._look()
            self._seen_at = self._clock.monotonic()
            self._look_after_s = MIN_POLL_INTERVAL_S if moving else min(self._look_after_s * 2, MAX_POLL_INTERVAL_S)
        await self.sleep(MIN_POLL_INTERVAL_S)

    async def _look(self) -> Snapshot | None:
        """A number is fresh or it is missing; that Redis is away is told by those who need it more."""
        try:
            return await self._inspector.snapshot()
        except StoreUnavailableError:
            return None

    def status_line(self) -> str:
        """The line as it is now. Addresses and secrets in reasons are hidden."""
        return " · ".join([*self._obstacles(), *self._numbers(), *self._next_slot(), *self._last_error()])

    def _obstacles(self) -> Iterator[str]:
        for name in self._health.stale_services():
            yield f"{name} is stuck"
        by_reason: dict[str, list[str]] = {}
        for name, reason in self._health.problems().items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            yield f"{', '.join(names)}: {_short(reason)}"

    def _numbers(self) -> Iterator[str]:
        yield f"rate {self._rate():.1f}/s"
        if in_hand := self._in_hand():
            yield f"{_grouped(in_hand)} in hand"
        if self._seen is None:
            return
        waiting = self._seen.wait + self._seen.paused
        age_s = self._clock.monotonic() - self._seen_at
        # A queue that was empty stays so until something is claimed; any other number may have grown old.
        old = f" {format_age(age_s)} ago" if waiting and age_s >= MIN_SHOWN_AGE_S else ""
        yield f"{_grouped(waiting)} waiting{old}{', paused' if self._seen.is_paused else ''}"
        if waiting and self._seen.oldest_waiting_ms is not None:
            yield f"oldest {format_age((self._clock.now_ms() - self._seen.oldest_waiting_ms) / 1000)}"

    def _next_slot(self) -> Iterator[str]:
        if self._upcoming is not None and (following := self._upcoming()) is not None:
            kind, due_at = following
            yield f"next {kind} in {format_age((due_at - self._clock.now()).total_seconds())}"

    def _last_error(self) -> Iterator[str]:
        if (last_error := self._health.last_error) is not None:
            yield f"last error {format_age(self._clock.monotonic() - last_error.at)} ago: {_short(last_error.reason)}"

    def _rate(self) -> float:
        """Mails sent a second, over the last quarter of a minute."""
        now, sent = self._clock.monotonic(), self._metrics.sent
        self._counted.append((now, sent))
        while len(self._counted) > 1 and now - self._counted[1][0] >= RATE_WINDOW_S:
            self._counted.popleft()
        first_at, first = self._counted[0]
        return (sent - first) / (now - first_at) if now > first_at else 0.0


def format_age(seconds: float) -> str:
    """A duration in the largest unit that says enough."""
    whole = max(int(seconds), 0)
    for unit_s, word in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "min")):
        if whole >= 2 * unit_s:
            return f"{whole // unit_s} {word}"
    return f"{whole} s"


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _short(reason: str) -> str:
    text = redact_text(reason)
    return text if len(text) <= MAX_REASON_LENGTH else text[: MAX_REASON_LENGTH - 1] + "…"
