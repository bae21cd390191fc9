"""The lag meter reports how late it was woken, and beats while the event loop turns."""

from __future__ import annotations

import asyncio

from flowstate_daemon.base.lag import LagMeter
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.vitals import Vitals
from tests.support.clock import HandClock


def measured(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("flowstate_loop_lag_seconds_count") or 0


async def test_lateness_is_measured() -> None:
    """A turn that took 0.75 s longer than it slept for has met that much lag."""
    time, metrics = HandClock(), Metrics()
    meter = LagMeter(metrics, Vitals(time).pulse("lag_meter"), time, every_s=0.25)
    turn = asyncio.create_task(meter.turn())
    await asyncio.sleep(0)
    time.advance(1.0)
    async with asyncio.timeout(5):
        await turn
    assert metrics.registry.get_sample_value("flowstate_loop_lag_seconds_sum") == 0.75


async def test_the_meter_beats_and_stops_at_once() -> None:
    """It runs by itself, and a stop neither waits for the interval nor counts as a measurement."""
    time, metrics = HandClock(), Metrics()
    pulse = Vitals(time).pulse("lag_meter")
    meter = LagMeter(metrics, pulse, time, every_s=0.001)
    task = asyncio.create_task(meter.run())
    async with asyncio.timeout(5):
        while measured(metrics) < 2:
            await asyncio.sleep(0)
        meter.stop()
        await task
    assert pulse.resting
    assert not pulse.stale
