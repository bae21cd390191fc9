"""The status line of the daemon, which `systemctl status` shows.

Most of it is known in memory. Only the queue is read from Redis, at longer intervals while nothing happens, because
hosted Redis bills by the command.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import ClassVar

from flowstate_daemon.base.backoff import Backoff
from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.health import NEXT_TRY
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.queue.inspector import Inspector, Snapshot
from flowstate_daemon.web.ages import format_age

MIN_POLL_INTERVAL_S = 5.0
MAX_POLL_INTERVAL_S = 300.0
MIN_SHOWN_AGE_S = 30.0
RATE_WINDOW_S = 15.0
MAX_REASON_LENGTH = 120


class StatusReporter(Service):
    """Polls the queue, and formats the status line on request."""

    name: ClassVar[str] = "status_reporter"

    def __init__(
        self,
        inspector: Inspector,
        in_flight: Callable[[], int],
        context: ServiceContext,
        upcoming: Callable[[], tuple[str, datetime] | None] | None = None,
    ) -> None:
        """`in_flight` returns the number of jobs in flight, `upcoming` the next schedule and when it is due."""
        super().__init__(context.health.register(self.name))
        self._upcoming = upcoming
        self._inspector = inspector
        self._in_flight = in_flight
        self._health = context.health
        self._metrics = context.metrics
        self._clock = context.clock
        self._snapshot: Snapshot | None = None
        self._snapshot_at = self._clock.monotonic()
        # While jobs move, every run polls: a run starts every MIN_POLL_INTERVAL_S.
        self._backoff = Backoff(2 * MIN_POLL_INTERVAL_S, MAX_POLL_INTERVAL_S)
        self._claimed = -1
        self._samples: deque[tuple[float, int]] = deque()

    async def run_once(self) -> None:
        """Poll at the short interval while jobs move, else at ever longer ones."""
        waited_s = self._clock.monotonic() - self._snapshot_at
        moving = self._metrics.claimed != self._claimed or self._in_flight() > 0
        if moving:
            self._backoff.reset()
        if self._snapshot is None or waited_s >= self._backoff.delay_s:
            self._claimed = self._metrics.claimed
            self._snapshot = await self._read_snapshot()
            self._snapshot_at = self._clock.monotonic()
            if not moving:
                self._backoff.next_s()
        await self.sleep(MIN_POLL_INTERVAL_S)

    async def _read_snapshot(self) -> Snapshot | None:
        """The queue, or None while Redis is unavailable: the services that depend on Redis report the outage."""
        try:
            return await self._inspector.snapshot()
        except StoreUnavailableError:
            return None

    def status_line(self) -> str:
        """The current status line. Addresses and secrets in reasons are masked."""
        return " · ".join([*self._problems(), *self._numbers(), *self._next_schedule(), *self._last_error()])

    def _problems(self) -> Iterator[str]:
        for name in self._health.stale_services():
            yield f"{name} is stuck"
        by_reason: dict[str, list[str]] = {}
        for name, reason in self._health.problems().items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            yield f"{', '.join(names)}: {_short(reason)}"

    def _numbers(self) -> Iterator[str]:
        yield f"rate {self._rate():.1f}/s"
        if in_flight := self._in_flight():
            yield f"{_grouped(in_flight)} in flight"
        if self._snapshot is None:
            return
        waiting = self._snapshot.wait + self._snapshot.paused
        age_s = self._clock.monotonic() - self._snapshot_at
        # An empty queue stays empty until something is claimed; any other number becomes outdated.
        age = f" {format_age(age_s)} ago" if waiting and age_s >= MIN_SHOWN_AGE_S else ""
        yield f"{_grouped(waiting)} waiting{age}{', paused' if self._snapshot.is_paused else ''}"
        if waiting and self._snapshot.oldest_waiting_ms is not None:
            yield f"oldest {format_age((self._clock.now_ms() - self._snapshot.oldest_waiting_ms) / 1000)}"

    def _next_schedule(self) -> Iterator[str]:
        if self._upcoming is not None and (upcoming := self._upcoming()) is not None:
            kind, due_at = upcoming
            yield f"next {kind} in {format_age((due_at - self._clock.now()).total_seconds())}"

    def _last_error(self) -> Iterator[str]:
        if (last_error := self._health.last_error) is not None:
            yield f"last error {format_age(self._clock.monotonic() - last_error.at)} ago: {_short(last_error.reason)}"

    def _rate(self) -> float:
        """Emails sent per second, over the last 15 seconds."""
        now, sent = self._clock.monotonic(), self._metrics.sent
        self._samples.append((now, sent))
        while len(self._samples) > 1 and now - self._samples[1][0] >= RATE_WINDOW_S:
            self._samples.popleft()
        first_at, first = self._samples[0]
        return (sent - first) / (now - first_at) if now > first_at else 0.0


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _short(reason: str) -> str:
    text, separator, next_try = redact_text(reason).partition(NEXT_TRY)
    text = text if len(text) <= MAX_REASON_LENGTH else text[: MAX_REASON_LENGTH - 1] + "…"
    return f"{text}{separator}{next_try}"
