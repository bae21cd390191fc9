"""When bulk rests because the provider is ill, for how long, and who tries meanwhile."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.vitals import Vitals
from flowstate_daemon.work.breaker import FIRST_REST_S, IN_A_ROW, LONGEST_REST_S, Breaker
from tests.support.clock import HandClock


@pytest.fixture
def vitals(clock: HandClock) -> Vitals:
    return Vitals(clock)


@pytest.fixture
def breaker(vitals: Vitals, clock: HandClock) -> Breaker:
    return Breaker(vitals, Metrics(), clock)


def fall_ill(breaker: Breaker) -> None:
    for _ in range(IN_A_ROW):
        breaker.ill("503", tried=False)


def fail_to_try(breaker: Breaker, clock: HandClock) -> float:
    """Wait for the next try and let it fail; how long that was."""
    rest_s = breaker.wait_s()
    clock.advance(rest_s)
    breaker.ill("503", tried=breaker.enter())
    return rest_s


def test_a_few_failures_with_answers_between_them_change_nothing(breaker: Breaker) -> None:
    """Only what fails in a row is an illness."""
    for _ in range(3):
        for _ in range(IN_A_ROW - 1):
            breaker.ill("503", tried=False)
        breaker.well()
    assert breaker.wait_s() == 0
    assert not breaker.enter()


def test_bulk_rests_and_health_turns_red(breaker: Breaker, vitals: Vitals) -> None:
    """The reason of the last failure is what operators read."""
    fall_ill(breaker)
    assert breaker.wait_s() == FIRST_REST_S
    assert vitals.troubles() == {"provider": "503"}


def test_one_tries_and_the_others_wait(breaker: Breaker, clock: HandClock) -> None:
    """Until it is known how the try went, no second one starts."""
    fall_ill(breaker)
    clock.advance(FIRST_REST_S)
    assert breaker.wait_s() == 0
    assert breaker.enter()
    assert breaker.wait_s() > 0
    breaker.unused()
    assert breaker.wait_s() == 0


def test_rests_grow_up_to_a_limit(breaker: Breaker, clock: HandClock) -> None:
    """However long the illness lasts, it is noticed within a minute that it is over."""
    fall_ill(breaker)
    rests = [fail_to_try(breaker, clock) for _ in range(6)]
    assert rests == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_requests_that_were_under_way_do_not_prolong_the_rest(breaker: Breaker) -> None:
    """A dozen that time out together are one illness."""
    fall_ill(breaker)
    fall_ill(breaker)
    assert breaker.wait_s() == FIRST_REST_S


def test_any_answer_ends_the_rest(breaker: Breaker, vitals: Vitals) -> None:
    """A code that was accepted shows it as well as the one that tries."""
    fall_ill(breaker)
    breaker.well()
    assert breaker.wait_s() == 0
    assert vitals.troubles() == {}


def test_a_relapse_rests_for_longer_than_the_first_time(breaker: Breaker, clock: HandClock) -> None:
    """Who answers once a minute is not well; after some time of health it begins anew."""
    fall_ill(breaker)
    breaker.well()
    fall_ill(breaker)
    assert breaker.wait_s() == 2 * FIRST_REST_S
    breaker.well()
    clock.advance(LONGEST_REST_S)
    fall_ill(breaker)
    assert breaker.wait_s() == FIRST_REST_S


def test_with_nothing_to_send_health_does_not_stay_red(breaker: Breaker, vitals: Vitals, clock: HandClock) -> None:
    """Nobody is there to try; the next failure is enough to rest again."""
    fall_ill(breaker)
    breaker.idle()
    assert vitals.troubles()
    clock.advance(FIRST_REST_S)
    breaker.idle()
    assert vitals.troubles() == {}
    breaker.ill("503", tried=False)
    assert breaker.wait_s() > 0
