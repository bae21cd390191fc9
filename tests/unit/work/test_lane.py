"""Whether mails may leave: slowed, closed, probed, open again."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.vitals import Vitals
from flowstate_daemon.work import lane as lane_module
from flowstate_daemon.work.lane import FIRST_PROBE_S, Lane
from tests.support.clock import HandClock


@pytest.fixture
def vitals(clock: HandClock) -> Vitals:
    return Vitals(clock)


@pytest.fixture
def lane(vitals: Vitals, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> Lane:
    monkeypatch.setattr(lane_module, "LOOK_AGAIN_S", 0.001)
    return Lane(vitals, Metrics(), clock)


async def passes(lane: Lane) -> bool:
    """Whether the right to start a request is given now."""
    try:
        async with asyncio.timeout(0.05):
            await lane.passage()
    except TimeoutError:
        return False
    return True


async def test_an_open_lane_lets_everybody_through(lane: Lane) -> None:
    """Nothing waits without a reason."""
    assert await passes(lane)
    assert await passes(lane)


async def test_a_slowed_lane_opens_when_its_time_has_come(lane: Lane, clock: HandClock) -> None:
    """Nobody starts a request before `retry-after` is over."""
    lane.slow(2000)
    assert not await passes(lane)
    clock.advance(2.001)
    assert await passes(lane)


async def test_a_closed_lane_turns_health_red_and_lets_one_probe_through(
    lane: Lane, vitals: Vitals, clock: HandClock
) -> None:
    """After a while one request may try; the others wait for its answer."""
    lane.close("the key is invalid")
    assert vitals.troubles() == {"lane": "the key is invalid"}
    assert not await passes(lane)
    clock.advance(FIRST_PROBE_S + 0.001)
    assert await passes(lane)
    assert not await passes(lane)


async def test_who_waits_for_the_lane_is_not_stuck(lane: Lane, vitals: Vitals, clock: HandClock) -> None:
    """A refused key must not make a supervisor restart the daemon for as long as jobs are in hand."""
    senders = vitals.pulse("senders")
    lane.while_waiting(senders.beat)
    lane.close("the key is invalid")
    clock.advance(14)
    assert not await passes(lane)
    clock.advance(14)
    assert vitals.stuck() == []


async def test_an_accepted_probe_opens_the_lane(lane: Lane, vitals: Vitals, clock: HandClock) -> None:
    """The lane opens by itself."""
    lane.close("the key is invalid")
    clock.advance(FIRST_PROBE_S + 0.001)
    assert await passes(lane)
    lane.accepted()
    assert vitals.troubles() == {}
    assert await passes(lane)


async def test_a_refused_probe_waits_longer(lane: Lane, clock: HandClock) -> None:
    """Probes back off, so that a dead key is not hammered."""
    lane.close("bad key")
    clock.advance(FIRST_PROBE_S + 0.001)
    assert await passes(lane)
    lane.close("bad key")
    clock.advance(FIRST_PROBE_S + 0.001)
    assert not await passes(lane)
    clock.advance(FIRST_PROBE_S + 0.001)
    assert await passes(lane)


async def test_a_probe_that_says_nothing_leaves_its_turn_to_the_next(lane: Lane, clock: HandClock) -> None:
    """A network fault during the probe neither opens the lane nor keeps it shut."""
    lane.close("bad key")
    clock.advance(FIRST_PROBE_S + 0.001)
    assert await passes(lane)
    lane.unused()
    assert await passes(lane)
    assert lane.closed == "bad key"


async def test_a_long_rest_is_told_once(lane: Lane) -> None:
    """An operator who wonders why nothing leaves finds one line, not one for each sender."""
    with capture_logs() as lines:
        lane.slow(200)
        lane.slow(30_000)
        lane.slow(30_000)
    assert [line["event"] for line in lines] == ["lane_slow"]
