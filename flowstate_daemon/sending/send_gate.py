"""Whether emails may be sent: the circuit breaker for a failing provider, and the send gate for refusals of all emails.

The dispatcher asks before each request. A blocked gate permits one probe from time to time and opens by itself
when the provider accepts it. Meanwhile the jobs wait and use no attempts.
"""

from __future__ import annotations

import structlog

from flowstate_daemon.base.backoff import Backoff
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.sending.provider_state import ACCEPTING, ProviderState
from flowstate_daemon.sending.refusals import RefusalHistory

log = structlog.get_logger()

FAILURE_THRESHOLD = 5
MIN_OPEN_S = 5.0
MAX_OPEN_S = 60.0
MIN_PROBE_INTERVAL_S = 15.0
MAX_PROBE_INTERVAL_S = 300.0
POLL_INTERVAL_S = 5.0


class CircuitBreaker:
    """Pauses bulk emails while the provider fails; the circuit is open while they are paused. Codes are still sent."""

    def __init__(self, health: HealthRegistry, metrics: Metrics, clock: Clock) -> None:
        self._health = health
        self._metrics = metrics
        self._clock = clock
        self._failures = 0
        self._backoff = Backoff(MIN_OPEN_S, MAX_OPEN_S)
        self._closed_at = -MAX_OPEN_S
        self.probe_at = 0.0
        self.reason = ""
        self._probing = False
        self.is_open = False

    def wait_s(self) -> float:
        """0 if a request for bulk emails may start now, else how long to wait before asking again."""
        if not self.is_open:
            return 0.0
        if self._probing:
            return POLL_INTERVAL_S
        return max(self.probe_at - self._clock.monotonic(), 0.0)

    def start_request(self) -> bool:
        """A request for bulk emails starts. Returns whether it is the probe of an open circuit."""
        self._probing = self.is_open
        return self.is_open

    def retry_now(self) -> None:
        """Allow the next probe at once."""
        self.probe_at = self._clock.monotonic()

    def cancel_probe(self) -> None:
        """The probe was not sent: another request may be the probe."""
        self._probing = False

    def record_failure(self, reason: str, *, is_probe: bool) -> None:
        """A request got no usable response."""
        self._failures += 1
        if is_probe or (not self.is_open and self._failures >= FAILURE_THRESHOLD):
            self._open(reason)

    def record_success(self) -> None:
        """The provider responded, even if with a refusal."""
        self._failures = 0
        if self.is_open:
            log.warning("provider_circuit_closed")
            self._close()

    def _open(self, reason: str) -> None:
        now = self._clock.monotonic()
        # Soon after the last time the circuit was open, the provider has not recovered: wait longer than then.
        if not self.is_open and now - self._closed_at >= MAX_OPEN_S:
            self._backoff.reset()
        if not self.is_open:
            log.error(
                "provider_circuit_opened",
                reason=reason,
                remedy="bulk emails are paused, one email probes the provider from time to time; codes are still sent",
            )
        self.is_open, self._probing, self.probe_at = True, False, now + self._backoff.next_s()
        self.reason = reason
        self._health.set_condition("provider", reason, next_try_at=self.probe_at)
        self._metrics.set_provider_circuit_open(is_open=True)

    def _close(self) -> None:
        self.is_open = self._probing = False
        self._closed_at = self._clock.monotonic()
        self._health.clear_condition("provider")
        self._metrics.set_provider_circuit_open(is_open=False)


class SendGate:
    """Blocks all requests while the provider refuses the account; one gate per process."""

    def __init__(self, health: HealthRegistry, metrics: Metrics, clock: Clock) -> None:
        self._health = health
        self._metrics = metrics
        self._clock = clock
        self._probe_at = 0.0
        self._idle_probe_at = 0.0
        self._backoff = Backoff(MIN_PROBE_INTERVAL_S, MAX_PROBE_INTERVAL_S)
        self._probing = False
        self._quota: str | None = None
        self.bulk_held = False  # bulk emails are not even claimed
        self.refusal: str | None = None  # why the provider refuses the account; None while the gate is open
        self.refusals = RefusalHistory()
        self.circuit_breaker = CircuitBreaker(health, metrics, clock)
        metrics.track_provider_probe(self.next_probe_s)

    @property
    def is_open(self) -> bool:
        """Whether requests start without waiting for a probe."""
        return self.refusal is None and not self.circuit_breaker.is_open

    def next_probe_s(self) -> float:
        """Seconds until the provider is tried again; 0 while the gate is open."""
        if self.is_open:
            return 0.0
        probe_at = self.circuit_breaker.probe_at if self.refusal is None else self._probe_at
        return max(max(probe_at, self._idle_probe_at) - self._clock.monotonic(), 0.0)

    def state(self) -> ProviderState:
        """What this daemon knows of the provider, with the reason and the time until the next try."""
        next_probe_ms = round(self.next_probe_s() * 1000)
        if self.refusal is not None:
            return ProviderState("refused", self.refusal, next_probe_ms)
        if self.circuit_breaker.is_open:
            return ProviderState("circuit_open", self.circuit_breaker.reason, next_probe_ms)
        return ACCEPTING if self._quota is None else ProviderState("quota_exceeded", self._quota)

    def wait_s(self, *, urgent: bool = False) -> float:
        """0 if a request may start now, else how long to wait before asking again."""
        if self.refusal is None:
            return 0.0 if urgent else self.circuit_breaker.wait_s()
        if self._probing:
            return POLL_INTERVAL_S
        return min(max(self._probe_at - self._clock.monotonic(), 0.0), POLL_INTERVAL_S)

    def start_request(self) -> None:
        """A request starts; while the gate is blocked it is the probe. Its result must be recorded afterwards."""
        self._probing = self.refusal is not None

    def record_accepted(self, *, sent: bool = True) -> None:
        """The provider processed a request, so it accepts the account; `sent`: it accepted at least one email."""
        if sent:
            self.refusals.record_accepted()
        if self.refusal is None:
            return
        log.warning("provider_account_restored", after=self.refusal)
        self.refusal = None
        self._probing = False
        self._backoff.reset()
        self._health.clear_condition("account")
        self._metrics.set_provider_account_ok(ok=True)

    def retry_now(self) -> None:
        """An operator fixed the cause and asks to try at once."""
        self._probe_at = self._clock.monotonic()
        self._idle_probe_at = 0.0
        self.circuit_breaker.retry_now()

    def postpone_idle_probe(self) -> None:
        """A probe without an email starts. An email may be the next probe before the next one of this kind."""
        self._idle_probe_at = self._clock.monotonic() + (self._backoff.delay_s or MIN_OPEN_S)
        if self.refusal is not None:
            self._health.set_condition("account", self.refusal, next_try_at=self._idle_probe_at)

    def cancel_probe(self) -> None:
        """The request said nothing about the account (network fault, provider failure): the next one may probe."""
        self._probing = False
        self.circuit_breaker.cancel_probe()

    def hold_bulk(self, name: str, reason: str) -> None:
        """Send only codes until the next start; `name` is that of the condition for ready."""
        self.bulk_held = True
        self._health.set_condition(name, reason)

    def quota_exceeded(self, reason: str) -> None:
        """The quota is exceeded: bulk emails wait, and the daemon is not ready."""
        if self._quota is None:
            log.error(
                "provider_quota_exceeded",
                reason=reason,
                remedy="bulk emails wait until it is reset; or enlarge the plan",
            )
        self._quota = reason
        self._metrics.set_provider_quota_exceeded(is_exceeded=True)
        self._health.set_condition("quota", reason)

    def quota_restored(self) -> None:
        """Bulk emails were accepted, so there is quota."""
        if self._quota is not None:
            log.info("provider_quota_restored")
            self._quota = None
            self._metrics.set_provider_quota_exceeded(is_exceeded=False)
            self._health.clear_condition("quota")

    def block(self, reason: str, *, unclear: bool = False) -> None:
        """The provider refuses key, account, sender or endpoint: every email would fail.

        After an unclear refusal the interval between two probes does not grow: the next email may well be accepted.
        """
        if self.refusal is not None and not self._probing:
            return  # one of several requests that were in flight when the gate was blocked
        if self.refusal is None:
            log.error(
                "provider_account_refused",
                reason=reason,
                remedy="fix what the reason names: key, account, sender or RESEND_API_URL; "
                "the daemon tries again by itself",
            )
        if unclear:
            self._backoff.reset()
        self.refusal = reason
        self._probing = False
        self._probe_at = self._clock.monotonic() + self._backoff.next_s()
        self._health.set_condition("account", reason, next_try_at=self._probe_at)
        self._metrics.set_provider_account_ok(ok=False)
