"""Whether mails may leave: short of quota, closed, probed, open again."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.vitals import Vitals
from flowstate_daemon.work.lane import FIRST_PROBE_S, Lane
from tests.support.clock import HandClock


@pytest.fixture
def vitals(clock: HandClock) -> Vitals:
    return Vitals(clock)


@pytest.fixture
def lane(vitals: Vitals, clock: HandClock) -> Lane:
    return Lane(vitals, Metrics(), clock)


def passes(lane: Lane) -> bool:
    """Start a request, if that may be done now."""
    if lane.wait_s() > 0:
        return False
    lane.enter()
    return True


def test_an_open_lane_lets_everybody_through(lane: Lane) -> None:
    """Nothing waits without a reason."""
    assert passes(lane)
    assert passes(lane)


def test_a_used_up_quota_turns_health_red_until_bulk_is_accepted(lane: Lane, vitals: Vitals) -> None:
    """The lane stays open for codes, and the operator sees why nothing else leaves."""
    lane.short("the daily quota is used up")
    assert vitals.troubles() == {"quota": "the daily quota is used up"}
    assert passes(lane)
    lane.accepted()
    assert vitals.troubles()
    lane.plenty()
    assert vitals.troubles() == {}


def test_a_closed_lane_turns_health_red_and_lets_one_probe_through(
    lane: Lane, vitals: Vitals, clock: HandClock
) -> None:
    """After a while one request may try; the others wait for its answer."""
    lane.close("the key is invalid")
    assert vitals.troubles() == {"lane": "the key is invalid"}
    assert not passes(lane)
    clock.advance(FIRST_PROBE_S + 0.001)
    assert passes(lane)
    assert not passes(lane)


def test_an_accepted_probe_opens_the_lane(lane: Lane, vitals: Vitals, clock: HandClock) -> None:
    """The lane opens by itself."""
    lane.close("the key is invalid")
    clock.advance(FIRST_PROBE_S + 0.001)
    assert passes(lane)
    lane.accepted()
    assert vitals.troubles() == {}
    assert passes(lane)


def test_a_refused_probe_waits_longer(lane: Lane, clock: HandClock) -> None:
    """Probes back off, so that a dead key is not hammered."""
    lane.close("bad key")
    clock.advance(FIRST_PROBE_S + 0.001)
    assert passes(lane)
    lane.close("bad key")
    clock.advance(FIRST_PROBE_S + 0.001)
    assert not passes(lane)
    clock.advance(FIRST_PROBE_S + 0.001)
    assert passes(lane)


def test_a_probe_that_says_nothing_leaves_its_turn_to_the_next(lane: Lane, clock: HandClock) -> None:
    """A network fault during the probe neither opens the lane nor keeps it shut."""
    lane.close("bad key")
    clock.advance(FIRST_PROBE_S + 0.001)
    assert passes(lane)
    lane.unused()
    assert passes(lane)
    assert lane.closed == "bad key"
