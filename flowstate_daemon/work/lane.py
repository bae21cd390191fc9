"""Whether mails may leave at all: a refused key or account closes the lane.

The bus asks before each request. A closed lane lets one probe through from time to time and opens again by itself
when the provider accepts it; meanwhile jobs stay where they are and burn no attempts.
"""

from __future__ import annotations

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.vitals import Vitals
from flowstate_daemon.work.breaker import Breaker

log = structlog.get_logger()

FIRST_PROBE_S = 15.0
LONGEST_PROBE_S = 300.0
LOOK_AGAIN_S = 5.0


class Lane:
    """One lane to one provider, for the one bus of this process."""

    def __init__(self, vitals: Vitals, metrics: Metrics, clock: Clock) -> None:
        self._vitals = vitals
        self._metrics = metrics
        self._clock = clock
        self._open_at = 0.0
        self._probe_after_s = FIRST_PROBE_S
        self._probing = False
        self._short = False
        self.closed: str | None = None
        self.breaker = Breaker(vitals, metrics, clock)

    def wait_s(self, *, urgent: bool = False) -> float:
        """0 when a request may start now, else how long to wait before asking again."""
        if self.closed is None:
            return 0.0 if urgent else self.breaker.wait_s()
        if self._probing:
            return LOOK_AGAIN_S
        return min(max(self._open_at - self._clock.mono(), 0.0), LOOK_AGAIN_S)

    def enter(self) -> None:
        """A request starts; tell the lane afterwards how it went. In a closed lane it is the probe."""
        self._probing = self.closed is not None

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

    def try_now(self) -> None:
        """Somebody has mended what was wrong, and asks not to wait any longer."""
        self._open_at = self._clock.mono()
        self.breaker.try_now()

    def unused(self) -> None:
        """The request said nothing about the account (network, provider ill): the next one may probe."""
        self._probing = False
        self.breaker.unused()

    def short(self, reason: str) -> None:
        """The quota is used up: bulk waits, which an operator must see."""
        if not self._short:
            log.error("quota_exhausted", reason=reason, remedy="bulk mails wait until it is back; or enlarge the plan")
        self._short = True
        self._vitals.raise_condition("quota", reason)

    def plenty(self) -> None:
        """Bulk was accepted, so there is quota."""
        if self._short:
            log.info("quota_back")
            self._short = False
            self._vitals.clear_condition("quota")

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
