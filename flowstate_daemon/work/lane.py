"""Whether mails may leave at all: slowed by the provider's rate limit, closed by a refused key or account.

Senders pass through `passage()` before each request. A closed lane lets one probe through from time to time and
opens again by itself when the provider accepts it; meanwhile jobs stay where they are and burn no attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.vitals import Vitals

log = structlog.get_logger()

FIRST_PROBE_S = 15.0
LONGEST_PROBE_S = 300.0
LOOK_AGAIN_S = 5.0
WORTH_A_LINE_S = 5.0  # a busy sender meets shorter rests every second


class Lane:
    """One lane to one provider, shared by all senders of this process."""

    def __init__(self, vitals: Vitals, metrics: Metrics, clock: Clock) -> None:
        self._vitals = vitals
        self._metrics = metrics
        self._clock = clock
        self._open_at = 0.0
        self._probe_after_s = FIRST_PROBE_S
        self._probing = False
        self._changed = asyncio.Event()
        self._on_wait: list[Callable[[], None]] = []
        self.closed: str | None = None

    def while_waiting(self, beat: Callable[[], None]) -> None:
        """Call `beat` as long as somebody waits here: a sender with patience is not stuck, a restart cures nothing."""
        self._on_wait.append(beat)

    async def passage(self) -> None:
        """Wait for the right to start one request; tell the lane afterwards how it went."""
        while True:
            wait_s = self._open_at - self._clock.mono()
            if wait_s <= 0 and self.closed is None:
                return
            if wait_s <= 0 and not self._probing:
                self._probing = True
                return
            for beat in self._on_wait:
                beat()
            await self._look_again(LOOK_AGAIN_S if wait_s <= 0 else min(wait_s, LOOK_AGAIN_S))

    async def _look_again(self, seconds: float) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    def accepted(self) -> None:
        """The provider took a request, so the account works."""
        if self.closed is None:
            return
        log.warning("lane_open", after=self.closed)
        self.closed = None
        self._probing = False
        self._probe_after_s = FIRST_PROBE_S
        self._vitals.clear_condition("lane")
        self._metrics.lane_open(is_open=True)
        self._changed.set()

    def unused(self) -> None:
        """The request said nothing about the account (network, provider ill): the next one may probe."""
        self._probing = False
        self._changed.set()

    def slow(self, after_ms: int) -> None:
        """The provider's rate limit: nobody starts a request for this long."""
        now, seconds = self._clock.mono(), after_ms / 1000
        if now + seconds - max(now, self._open_at) >= WORTH_A_LINE_S:
            log.warning("lane_slow", rest_s=seconds, remedy="if this is usual, ask the provider for a higher rate")
        self._open_at = max(self._open_at, now + seconds)
        self.unused()

    def close(self, reason: str) -> None:
        """The provider refuses key, account or domain: every mail would fail."""
        if self.closed is not None and not self._probing:
            return  # one of many requests under way when the lane closed
        if self.closed is None:
            log.error("lane_closed", reason=reason, remedy="mend key, account or domain; the lane opens by itself")
        else:
            self._probe_after_s = min(self._probe_after_s * 2, LONGEST_PROBE_S)
        self.closed = reason
        self._probing = False
        self._open_at = self._clock.mono() + self._probe_after_s
        self._vitals.raise_condition("lane", reason)
        self._metrics.lane_open(is_open=False)
