"""Whether mails may leave at all: a refused key or account closes the lane.

The bus asks before each request. A closed lane lets one probe through from time to time and opens again by itself
when the provider accepts it; meanwhile jobs stay where they are and burn no attempts.
"""

from __future__ import annotations

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics

log = structlog.get_logger()

FAILURE_THRESHOLD = 5
MIN_OPEN_S = 5.0
MAX_OPEN_S = 60.0
POLL_INTERVAL_S = 5.0


class CircuitBreaker:
    """What the lane knows of the provider's health; for the one bus of this process."""

    def __init__(self, health: HealthRegistry, metrics: Metrics, clock: Clock) -> None:
        self._health = health
        self._metrics = metrics
        self._clock = clock
        self._failures = 0
        self._rest_s = MIN_OPEN_S
        self._well_since = -MAX_OPEN_S
        self._attempts_at = 0.0
        self._trying = False
        self.resting = False

    def wait_s(self) -> float:
        """0 when a request for bulk may start now, else how long to wait before asking again."""
        if not self.resting:
            return 0.0
        if self._trying:
            return POLL_INTERVAL_S
        return max(self._attempts_at - self._clock.monotonic(), 0.0)

    def start_request(self) -> bool:
        """A request for bulk starts; while bulk rests it is the one that tries. Says whether it is that."""
        self._trying = self.resting
        return self.resting

    def retry_now(self) -> None:
        """Do not wait until the rest is over."""
        self._attempts_at = self._clock.monotonic()

    def cancel_probe(self) -> None:
        """The request that was to try has not gone out: another one may."""
        self._trying = False

    def record_failure(self, reason: str, *, tried: bool) -> None:
        """A request has had no answer of use; `tried`: it was the one that tried while bulk rests."""
        self._failures += 1
        if tried or (not self.resting and self._failures >= FAILURE_THRESHOLD):
            self._rest(reason)

    def record_success(self) -> None:
        """The provider has answered, be it with a refusal."""
        self._failures = 0
        if self.resting:
            log.warning("provider_circuit_closed")
            self._resume()

    def reset_if_idle(self) -> None:
        """Nothing waits to be sent, so nobody can try: the next mail will show, and one failure is enough then."""
        if self.resting and self.wait_s() <= 0:
            self._failures = FAILURE_THRESHOLD - 1
            self._resume()

    def _rest(self, reason: str) -> None:
        now = self._clock.monotonic()
        if self.resting or now - self._well_since < MAX_OPEN_S:
            self._rest_s = min(self._rest_s * 2, MAX_OPEN_S)
        else:
            self._rest_s = MIN_OPEN_S
        if not self.resting:
            log.error(
                "provider_circuit_opened",
                reason=reason,
                remedy="bulk rests, and one mail tries from time to time; codes go on",
            )
        self.resting, self._trying, self._attempts_at = True, False, now + self._rest_s
        self._health.set_condition("provider", reason)
        self._metrics.set_provider_circuit_open(is_resting=True)

    def _resume(self) -> None:
        self.resting = self._trying = False
        self._well_since = self._clock.monotonic()
        self._health.clear_condition("provider")
        self._metrics.set_provider_circuit_open(is_resting=False)


MIN_PROBE_INTERVAL_S = 15.0
MAX_PROBE_INTERVAL_S = 300.0


class SendGate:
    """One lane to one provider, for the one bus of this process."""

    def __init__(self, health: HealthRegistry, metrics: Metrics, clock: Clock) -> None:
        self._health = health
        self._metrics = metrics
        self._clock = clock
        self._open_at = 0.0
        self._probe_after_s = MIN_PROBE_INTERVAL_S
        self._probing = False
        self._short = False
        self.closed: str | None = None
        self.circuit_breaker = CircuitBreaker(health, metrics, clock)

    def wait_s(self, *, urgent: bool = False) -> float:
        """0 when a request may start now, else how long to wait before asking again."""
        if self.closed is None:
            return 0.0 if urgent else self.circuit_breaker.wait_s()
        if self._probing:
            return POLL_INTERVAL_S
        return min(max(self._open_at - self._clock.monotonic(), 0.0), POLL_INTERVAL_S)

    def start_request(self) -> None:
        """A request starts; tell the lane afterwards how it went. In a closed lane it is the probe."""
        self._probing = self.closed is not None

    def record_accepted(self) -> None:
        """The provider took a request, so the account works."""
        if self.closed is None:
            return
        log.warning("provider_account_restored", after=self.closed)
        self.closed = None
        self._probing = False
        self._probe_after_s = MIN_PROBE_INTERVAL_S
        self._health.clear_condition("lane")
        self._metrics.set_provider_account_ok(is_open=True)

    def retry_now(self) -> None:
        """Somebody has mended what was wrong, and asks not to wait any longer."""
        self._open_at = self._clock.monotonic()
        self.circuit_breaker.retry_now()

    def cancel_probe(self) -> None:
        """The request said nothing about the account (network, provider ill): the next one may probe."""
        self._probing = False
        self.circuit_breaker.cancel_probe()

    def quota_exceeded(self, reason: str) -> None:
        """The quota is used up: bulk waits, which an operator must see."""
        if not self._short:
            log.error(
                "provider_quota_exceeded", reason=reason, remedy="bulk mails wait until it is back; or enlarge the plan"
            )
        self._short = True
        self._health.set_condition("quota", reason)

    def quota_restored(self) -> None:
        """Bulk was accepted, so there is quota."""
        if self._short:
            log.info("provider_quota_restored")
            self._short = False
            self._health.clear_condition("quota")

    def block(self, reason: str) -> None:
        """The provider refuses key, account or domain: every mail would fail."""
        if self.closed is not None and not self._probing:
            return  # one of many requests under way when the lane closed
        if self.closed is None:
            log.error(
                "provider_account_refused",
                reason=reason,
                remedy="mend key, account or domain; the provider retrys by itself",
            )
        else:
            self._probe_after_s = min(self._probe_after_s * 2, MAX_PROBE_INTERVAL_S)
        self.closed = reason
        self._probing = False
        self._open_at = self._clock.monotonic() + self._probe_after_s
        self._health.set_condition("lane", reason)
        self._metrics.set_provider_account_ok(is_open=False)
