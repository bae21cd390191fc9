"""The monitor of the event loop reports how late it was woken."""

from __future__ import annotations

import asyncio

from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.daemon.event_loop_monitor import EventLoopLagMonitor
from tests.support.clock import FakeClock


def measured(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("flowstate_event_loop_lag_seconds_count") or 0


async def test_lag_is_measured() -> None:
    """A run that took 0.75 s longer than its sleep has measured that lag."""
    time, metrics = FakeClock(), Metrics()
    monitor = EventLoopLagMonitor(metrics, HealthRegistry(time).register("event_loop_monitor"), time, every_s=0.25)
    turn = asyncio.create_task(monitor.run_once())
    await asyncio.sleep(0)
    time.advance(1.0)
    async with asyncio.timeout(5):
        await turn
    assert metrics.registry.get_sample_value("flowstate_event_loop_lag_seconds_sum") == 0.75


async def test_monitor_runs_and_stops() -> None:
    """It records progress; a stop neither waits for the interval nor counts as a measurement."""
    time, metrics = FakeClock(), Metrics()
    heartbeat = HealthRegistry(time).register("event_loop_monitor")
    monitor = EventLoopLagMonitor(metrics, heartbeat, time, every_s=0.001)
    task = asyncio.create_task(monitor.run())
    async with asyncio.timeout(5):
        while measured(metrics) < 2:
            await asyncio.sleep(0)
        monitor.stop()
        await task
    assert heartbeat.is_idle
    assert not heartbeat.stale
