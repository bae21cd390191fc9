"""When the circuit opens because the provider fails, for how long, and which request is the probe."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.sending.send_gate import FAILURE_THRESHOLD, MAX_OPEN_S, MIN_OPEN_S, CircuitBreaker
from tests.support.clock import FakeClock


@pytest.fixture
def health(clock: FakeClock) -> HealthRegistry:
    return HealthRegistry(clock)


@pytest.fixture
def circuit_breaker(health: HealthRegistry, clock: FakeClock) -> CircuitBreaker:
    return CircuitBreaker(health, Metrics(), clock)


def open_circuit(circuit_breaker: CircuitBreaker) -> None:
    for _ in range(FAILURE_THRESHOLD):
        circuit_breaker.record_failure("503", is_probe=False)


def fail_probe(circuit_breaker: CircuitBreaker, clock: FakeClock) -> float:
    """Wait for the next probe and let it fail; returns how long the wait was."""
    wait_s = circuit_breaker.wait_s()
    clock.advance(wait_s)
    circuit_breaker.record_failure("503", is_probe=circuit_breaker.start_request())
    return wait_s


def test_circuit_stays_closed_when_failures_are_not_consecutive(circuit_breaker: CircuitBreaker) -> None:
    """Only consecutive failures open the circuit."""
    for _ in range(3):
        for _ in range(FAILURE_THRESHOLD - 1):
            circuit_breaker.record_failure("503", is_probe=False)
        circuit_breaker.record_success()
    assert circuit_breaker.wait_s() == 0
    assert not circuit_breaker.start_request()


def test_open_circuit_pauses_bulk_and_is_not_ready(circuit_breaker: CircuitBreaker, health: HealthRegistry) -> None:
    """The health reports the reason of the last failure."""
    open_circuit(circuit_breaker)
    assert circuit_breaker.wait_s() == MIN_OPEN_S
    assert health.problems() == {"provider": "503; next try in 5 s"}


def test_only_one_probe_is_allowed_at_a_time(circuit_breaker: CircuitBreaker, clock: FakeClock) -> None:
    """No second probe starts until the result of the first is known."""
    open_circuit(circuit_breaker)
    clock.advance(MIN_OPEN_S)
    assert circuit_breaker.wait_s() == 0
    assert circuit_breaker.start_request()
    assert circuit_breaker.wait_s() > 0
    circuit_breaker.cancel_probe()
    assert circuit_breaker.wait_s() == 0


def test_probe_interval_grows_up_to_a_limit(circuit_breaker: CircuitBreaker, clock: FakeClock) -> None:
    """However long the failure lasts, a recovery is noticed within a minute."""
    open_circuit(circuit_breaker)
    waits = [fail_probe(circuit_breaker, clock) for _ in range(6)]
    assert waits == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_failures_of_requests_in_flight_do_not_prolong_the_wait(circuit_breaker: CircuitBreaker) -> None:
    """A dozen requests that time out together count as one failure of the provider."""
    open_circuit(circuit_breaker)
    open_circuit(circuit_breaker)
    assert circuit_breaker.wait_s() == MIN_OPEN_S


def test_any_response_closes_the_circuit(circuit_breaker: CircuitBreaker, health: HealthRegistry) -> None:
    """An accepted code shows the recovery just as the probe does."""
    open_circuit(circuit_breaker)
    circuit_breaker.record_success()
    assert circuit_breaker.wait_s() == 0
    assert health.problems() == {}


def test_second_failure_soon_after_recovery_waits_longer(circuit_breaker: CircuitBreaker, clock: FakeClock) -> None:
    """A provider that responds once a minute has not recovered; after a minute without failure the wait starts anew."""
    open_circuit(circuit_breaker)
    circuit_breaker.record_success()
    open_circuit(circuit_breaker)
    assert circuit_breaker.wait_s() == 2 * MIN_OPEN_S
    circuit_breaker.record_success()
    clock.advance(MAX_OPEN_S)
    open_circuit(circuit_breaker)
    assert circuit_breaker.wait_s() == MIN_OPEN_S
