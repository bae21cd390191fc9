"""While no email waits, the daemon itself finds out whether the provider works again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending import send_gate
from flowstate_daemon.sending.rate_limiter import RateLimiter
from flowstate_daemon.sending.send_gate import FAILURE_THRESHOLD
from tests.support.dispatcher_harness import DispatcherHarness, wait_for_results
from tests.support.fake_resend import Answer, FakeResend, error
from tests.support.waiting import eventually

LIST = "GET /domains"


@pytest.fixture
async def harness(
    connection: Connection, keys: Keys, fake: FakeResend, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DispatcherHarness]:
    """A dispatcher that probes every few milliseconds, by the real clock."""
    for name in ("MIN_OPEN_S", "MAX_OPEN_S", "MIN_PROBE_INTERVAL_S", "MAX_PROBE_INTERVAL_S"):
        monkeypatch.setattr(send_gate, name, 0.05)
    async with DispatcherHarness(connection, keys, fake, gate_clock=Clock()) as harness:  # type: ignore[arg-type]
        yield harness


async def state_of(harness: DispatcherHarness) -> tuple[str, str]:
    shared = await RateLimiter(harness.connection, harness.keys, Clock()).state()
    return shared.state, "".join(problem.reason for problem in shared.problems)


async def fail_until_open(harness: DispatcherHarness) -> None:
    for job in await harness.jobs(FAILURE_THRESHOLD):
        await wait_for_results([harness.post(job)])
    await eventually(lambda: harness.gate.circuit_breaker.is_open, "the circuit is open")


@pytest.mark.parametrize("answer", [Answer(503, ""), Answer(drop=True, status=500), Answer(500, "<html>")])
async def test_failing_provider_stays_red_until_it_responds(
    harness: DispatcherHarness, fake: FakeResend, answer: Answer
) -> None:
    """With an empty queue too: no email is needed to see that the provider works again."""
    fake.script(answer, times=None)
    await fail_until_open(harness)
    await eventually(lambda: fake.requests[LIST] >= 3, "probes")
    assert set(harness.health.problems()) == {"provider"}
    assert (await state_of(harness))[0] == harness.gate.state().state == "circuit_open"
    assert harness.metrics.registry.get_sample_value("flowstate_provider_circuit_open") == 1
    assert "; next try " in harness.health.problems()["provider"]
    fake.unscript()
    probes = fake.requests[LIST]
    await eventually(lambda: not harness.health.problems(), "ready")
    assert fake.requests[LIST] - probes <= 2
    await eventually(lambda: _is(harness, "accepting"), "the recovery is published")
    assert fake.accepted == []


async def test_refused_key_is_noticed_as_restored(harness: DispatcherHarness, fake: FakeResend) -> None:
    """The email that was refused is gone; the key is valid again."""
    fake.api_key = "re_Another0_abcdefghijklmnop"
    [job] = await harness.jobs(1)
    task = harness.post(job)
    await eventually(lambda: harness.gate.refusal is not None, "refused")
    task.cancel()
    await eventually(lambda: fake.requests[LIST] >= 2, "probes")
    assert "account" in harness.health.problems()
    fake.api_key = "re_Fake0000_abcdefghijklmnop"
    await eventually(lambda: not harness.health.problems(), "ready")


async def test_refusal_that_the_probe_cannot_see_stays(harness: DispatcherHarness, fake: FakeResend) -> None:
    """The list of domains is allowed while the sender is refused: that says nothing about emails."""
    fake.script(error(422, "invalid_from_address"), when=lambda incoming: incoming.method == "POST", times=None)
    [job] = await harness.jobs(1)
    task = harness.post(job)
    await eventually(lambda: harness.gate.refusal is not None, "refused")
    task.cancel()
    await eventually(lambda: fake.requests[LIST] >= 3, "probes")
    assert "account" in harness.health.problems()


async def test_recovery_of_one_daemon_lets_the_others_try(
    harness: DispatcherHarness, fake: FakeResend, connection: Connection, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon whose next probe is minutes away does not wait for it."""
    monkeypatch.setattr(send_gate, "MIN_PROBE_INTERVAL_S", 300.0)
    monkeypatch.setattr(send_gate, "MAX_PROBE_INTERVAL_S", 300.0)
    async with DispatcherHarness(connection, keys, fake, instance="other", gate_clock=Clock()) as other:  # type: ignore[arg-type]
        fake.script(error(403, "invalid_api_key"), times=None)
        tasks = [harness.post((await harness.jobs(1))[0])]
        await eventually(lambda: harness.gate.refusal is not None, "one refused")
        tasks.append(other.post((await other.jobs(1))[0]))
        await eventually(lambda: other.gate.refusal is not None, "two refused")
        await eventually(lambda: _count(harness, 2), "both report it")
        fake.unscript()
        await wait_for_results(tasks)
        assert other.health.problems() == {}


async def _is(harness: DispatcherHarness, state: str) -> bool:
    return (await state_of(harness))[0] == state


async def _count(harness: DispatcherHarness, count: int) -> bool:
    return len((await RateLimiter(harness.connection, harness.keys, Clock()).state()).problems) == count
