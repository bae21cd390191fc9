"""Holds bulk back while the provider answers nothing of use: errors of its own, timeouts, broken connections.

Each such outcome costs its jobs an attempt, and a backlog would have used up all of them within minutes. So after a few
in a row bulk rests, for longer each time, and one mail tries in between. Codes go on: they have no time to wait.
"""

from __future__ import annotations

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.vitals import Vitals

log = structlog.get_logger()

IN_A_ROW = 5
FIRST_REST_S = 5.0
LONGEST_REST_S = 60.0
LOOK_AGAIN_S = 5.0


class Breaker:
    """What the lane knows of the provider's health; for the one bus of this process."""

    def __init__(self, vitals: Vitals, metrics: Metrics, clock: Clock) -> None:
        self._vitals = vitals
        self._metrics = metrics
        self._clock = clock
        self._failures = 0
        self._rest_s = FIRST_REST_S
        self._well_since = -LONGEST_REST_S
        self._tries_at = 0.0
        self._trying = False
        self.resting = False

    def wait_s(self) -> float:
        """0 when a request for bulk may start now, else how long to wait before asking again."""
        if not self.resting:
            return 0.0
        if self._trying:
            return LOOK_AGAIN_S
        return max(self._tries_at - self._clock.mono(), 0.0)

    def enter(self) -> bool:
        """A request for bulk starts; while bulk rests it is the one that tries. Says whether it is that."""
        self._trying = self.resting
        return self.resting

    def try_now(self) -> None:
        """Do not wait until the rest is over."""
        self._tries_at = self._clock.mono()

    def unused(self) -> None:
        """The request that was to try has not gone out: another one may."""
        self._trying = False

    def ill(self, reason: str, *, tried: bool) -> None:
        """A request has had no answer of use; `tried`: it was the one that tried while bulk rests."""
        self._failures += 1
        if tried or (not self.resting and self._failures >= IN_A_ROW):
            self._rest(reason)

    def well(self) -> None:
        """The provider has answered, be it with a refusal."""
        self._failures = 0
        if self.resting:
            log.warning("provider_well")
            self._resume()

    def idle(self) -> None:
        """Nothing waits to be sent, so nobody can try: the next mail will show, and one failure is enough then."""
        if self.resting and self.wait_s() <= 0:
            self._failures = IN_A_ROW - 1
            self._resume()

    def _rest(self, reason: str) -> None:
        now = self._clock.mono()
        if self.resting or now - self._well_since < LONGEST_REST_S:
            self._rest_s = min(self._rest_s * 2, LONGEST_REST_S)
        else:
            self._rest_s = FIRST_REST_S
        if not self.resting:
            log.error(
                "provider_ill", reason=reason, remedy="bulk rests, and one mail tries from time to time; codes go on"
            )
        self.resting, self._trying, self._tries_at = True, False, now + self._rest_s
        self._vitals.raise_condition("provider", reason)
        self._metrics.bulk_resting(is_resting=True)

    def _resume(self) -> None:
        self.resting = self._trying = False
        self._well_since = self._clock.mono()
        self._vitals.clear_condition("provider")
        self._metrics.bulk_resting(is_resting=False)
