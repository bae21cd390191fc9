"""When bulk rests because the provider is ill, for how long, and who tries meanwhile."""

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


def fall_ill(circuit_breaker: CircuitBreaker) -> None:
    for _ in range(FAILURE_THRESHOLD):
        circuit_breaker.record_failure("503", is_probe=False)


def fail_to_try(circuit_breaker: CircuitBreaker, clock: FakeClock) -> float:
    """Wait for the next try and let it fail; how long that was."""
    rest_s = circuit_breaker.wait_s()
    clock.advance(rest_s)
    circuit_breaker.record_failure("503", is_probe=circuit_breaker.start_request())
    return rest_s


def test_a_few_failures_with_answers_between_them_change_nothing(circuit_breaker: CircuitBreaker) -> None:
    """Only what fails in a row is an illness."""
    for _ in range(3):
        for _ in range(FAILURE_THRESHOLD - 1):
            circuit_breaker.record_failure("503", is_probe=False)
        circuit_breaker.record_success()
    assert circuit_breaker.wait_s() == 0
    assert not circuit_breaker.start_request()


def test_bulk_rests_and_health_turns_red(circuit_breaker: CircuitBreaker, health: HealthRegistry) -> None:
    """The reason of the last failure is what operators read."""
    fall_ill(circuit_breaker)
    assert circuit_breaker.wait_s() == MIN_OPEN_S
    assert health.problems() == {"provider": "503"}


def test_one_tries_and_the_others_wait(circuit_breaker: CircuitBreaker, clock: FakeClock) -> None:
    """Until it is known how the try went, no second one starts."""
    fall_ill(circuit_breaker)
    clock.advance(MIN_OPEN_S)
    assert circuit_breaker.wait_s() == 0
    assert circuit_breaker.start_request()
    assert circuit_breaker.wait_s() > 0
    circuit_breaker.cancel_probe()
    assert circuit_breaker.wait_s() == 0


def test_rests_grow_up_to_a_limit(circuit_breaker: CircuitBreaker, clock: FakeClock) -> None:
    """However long the illness lasts, it is noticed within a minute that it is over."""
    fall_ill(circuit_breaker)
    rests = [fail_to_try(circuit_breaker, clock) for _ in range(6)]
    assert rests == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_requests_that_were_under_way_do_not_prolong_the_rest(circuit_breaker: CircuitBreaker) -> None:
    """A dozen that time out together are one illness."""
    fall_ill(circuit_breaker)
    fall_ill(circuit_breaker)
    assert circuit_breaker.wait_s() == MIN_OPEN_S


def test_any_answer_ends_the_rest(circuit_breaker: CircuitBreaker, health: HealthRegistry) -> None:
    """A code that was accepted shows it as well as the one that tries."""
    fall_ill(circuit_breaker)
    circuit_breaker.record_success()
    assert circuit_breaker.wait_s() == 0
    assert health.problems() == {}


def test_a_relapse_rests_for_longer_than_the_first_time(circuit_breaker: CircuitBreaker, clock: FakeClock) -> None:
    """Who answers once a minute is not well; after some time of health it begins anew."""
    fall_ill(circuit_breaker)
    circuit_breaker.record_success()
    fall_ill(circuit_breaker)
    assert circuit_breaker.wait_s() == 2 * MIN_OPEN_S
    circuit_breaker.record_success()
    clock.advance(MAX_OPEN_S)
    fall_ill(circuit_breaker)
    assert circuit_breaker.wait_s() == MIN_OPEN_S


def test_with_nothing_to_send_health_does_not_stay_red(
    circuit_breaker: CircuitBreaker, health: HealthRegistry, clock: FakeClock
) -> None:
    """Nobody is there to try; the next failure is enough to rest again."""
    fall_ill(circuit_breaker)
    circuit_breaker.reset_if_idle()
    assert health.problems()
    clock.advance(MIN_OPEN_S)
    circuit_breaker.reset_if_idle()
    assert health.problems() == {}
    circuit_breaker.record_failure("503", is_probe=False)
    assert circuit_breaker.wait_s() > 0
