"""Whether mails may leave: short of quota, closed, probed, open again."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.sending.send_gate import MIN_PROBE_INTERVAL_S, SendGate
from tests.support.clock import FakeClock


@pytest.fixture
def health(clock: FakeClock) -> HealthRegistry:
    return HealthRegistry(clock)


@pytest.fixture
def gate(health: HealthRegistry, clock: FakeClock) -> SendGate:
    return SendGate(health, Metrics(), clock)


def passes(gate: SendGate) -> bool:
    """Start a request, if that may be done now."""
    if gate.wait_s() > 0:
        return False
    gate.start_request()
    return True


def test_an_open_lane_lets_everybody_through(gate: SendGate) -> None:
    """Nothing waits without a reason."""
    assert passes(gate)
    assert passes(gate)


def test_a_used_up_quota_turns_health_red_until_bulk_is_accepted(gate: SendGate, health: HealthRegistry) -> None:
    """The lane stays open for codes, and the operator sees why nothing else leaves."""
    gate.quota_exceeded("the daily quota is used up")
    assert health.problems() == {"quota": "the daily quota is used up"}
    assert passes(gate)
    gate.record_accepted()
    assert health.problems()
    gate.quota_restored()
    assert health.problems() == {}


def test_a_closed_lane_turns_health_red_and_lets_one_probe_through(
    gate: SendGate, health: HealthRegistry, clock: FakeClock
) -> None:
    """After a while one request may try; the others wait for its answer."""
    gate.block("the key is invalid")
    assert health.problems() == {"account": "the key is invalid"}
    assert not passes(gate)
    clock.advance(MIN_PROBE_INTERVAL_S + 0.001)
    assert passes(gate)
    assert not passes(gate)


def test_an_accepted_probe_opens_the_lane(gate: SendGate, health: HealthRegistry, clock: FakeClock) -> None:
    """The provider retrys by itself."""
    gate.block("the key is invalid")
    clock.advance(MIN_PROBE_INTERVAL_S + 0.001)
    assert passes(gate)
    gate.record_accepted()
    assert health.problems() == {}
    assert passes(gate)


def test_a_refused_probe_waits_longer(gate: SendGate, clock: FakeClock) -> None:
    """Probes back off, so that a dead key is not hammered."""
    gate.block("bad key")
    clock.advance(MIN_PROBE_INTERVAL_S + 0.001)
    assert passes(gate)
    gate.block("bad key")
    clock.advance(MIN_PROBE_INTERVAL_S + 0.001)
    assert not passes(gate)
    clock.advance(MIN_PROBE_INTERVAL_S + 0.001)
    assert passes(gate)


def test_a_probe_that_says_nothing_leaves_its_turn_to_the_next(gate: SendGate, clock: FakeClock) -> None:
    """A network fault during the probe neither opens the lane nor keeps it shut."""
    gate.block("bad key")
    clock.advance(MIN_PROBE_INTERVAL_S + 0.001)
    assert passes(gate)
    gate.cancel_probe()
    assert passes(gate)
    assert gate.refusal == "bad key"
