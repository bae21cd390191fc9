"""Whether emails may be sent: quota exceeded, account refused, probe, account restored."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.sending.provider_state import ACCEPTING, ProviderState
from flowstate_daemon.sending.send_gate import FAILURE_THRESHOLD, MIN_PROBE_INTERVAL_S, SendGate
from tests.support.clock import FakeClock


@pytest.fixture
def health(clock: FakeClock) -> HealthRegistry:
    return HealthRegistry(clock)


@pytest.fixture
def gate(health: HealthRegistry, clock: FakeClock) -> SendGate:
    return SendGate(health, Metrics(), clock)


def passes(gate: SendGate) -> bool:
    """Start a request if the gate allows it; returns whether it does."""
    if gate.wait_s() > 0:
        return False
    gate.start_request()
    return True


def test_open_gate_does_not_wait(gate: SendGate) -> None:
    """Nothing waits without a reason."""
    assert passes(gate)
    assert passes(gate)


def test_exceeded_quota_is_a_condition_until_bulk_is_accepted(gate: SendGate, health: HealthRegistry) -> None:
    """The gate stays open for codes, and the health shows why bulk emails wait."""
    gate.quota_exceeded("the daily quota is exceeded")
    assert health.problems() == {"quota": "the daily quota is exceeded"}
    assert passes(gate)
    gate.record_accepted()
    assert health.problems()
    gate.quota_restored()
    assert health.problems() == {}


def test_refused_account_is_a_condition_and_allows_one_probe(
    gate: SendGate, health: HealthRegistry, clock: FakeClock
) -> None:
    """After a while one request may try; the others wait for its result."""
    gate.block("the key is invalid")
    assert health.problems() == {"account": "the key is invalid; next try in 15 s"}
    assert gate.state() == ProviderState("refused", "the key is invalid", 15_000)
    assert not passes(gate)
    clock.advance(MIN_PROBE_INTERVAL_S + 0.001)
    assert passes(gate)
    assert not passes(gate)


def test_accepted_probe_opens_the_gate(gate: SendGate, health: HealthRegistry, clock: FakeClock) -> None:
    """The gate opens without an operator."""
    gate.block("the key is invalid")
    clock.advance(MIN_PROBE_INTERVAL_S + 0.001)
    assert passes(gate)
    gate.record_accepted()
    assert health.problems() == {}
    assert passes(gate)


def test_refused_probe_doubles_the_interval(gate: SendGate, clock: FakeClock) -> None:
    """Probes back off, so that an invalid key is not tried all the time."""
    gate.block("bad key")
    clock.advance(MIN_PROBE_INTERVAL_S + 0.001)
    assert passes(gate)
    gate.block("bad key")
    clock.advance(MIN_PROBE_INTERVAL_S + 0.001)
    assert not passes(gate)
    clock.advance(MIN_PROBE_INTERVAL_S + 0.001)
    assert passes(gate)


def test_cancelled_probe_allows_another(gate: SendGate, clock: FakeClock) -> None:
    """A network fault during the probe neither opens the gate nor keeps it blocked."""
    gate.block("bad key")
    clock.advance(MIN_PROBE_INTERVAL_S + 0.001)
    assert passes(gate)
    gate.cancel_probe()
    assert passes(gate)
    assert gate.refusal == "bad key"


def test_unclear_refusals_do_not_prolong_the_interval(gate: SendGate, clock: FakeClock) -> None:
    """The next email, which may well be accepted, waits a quarter of a minute at most."""
    for _ in range(5):
        gate.block("a firewall", unclear=True)
        assert gate.next_probe_s() == MIN_PROBE_INTERVAL_S
        clock.advance(MIN_PROBE_INTERVAL_S)
        assert passes(gate)


def test_state_names_the_worst_problem_with_its_reason_and_next_probe(gate: SendGate, clock: FakeClock) -> None:
    """One state for all places that show it."""
    assert gate.state() == ACCEPTING
    gate.quota_exceeded("the daily quota")
    assert gate.state() == ProviderState("quota_exceeded", "the daily quota")
    for _ in range(FAILURE_THRESHOLD):
        gate.circuit_breaker.record_failure("503", is_probe=False)
    assert gate.state() == ProviderState("circuit_open", "503", 5_000)
    gate.block("bad key")
    clock.advance(4)
    assert gate.state() == ProviderState("refused", "bad key", 11_000)
    clock.advance(60)
    assert gate.state().next_probe_ms == 0
    gate.record_accepted()
    gate.circuit_breaker.record_success()
    gate.quota_restored()
    assert gate.state() == ACCEPTING
