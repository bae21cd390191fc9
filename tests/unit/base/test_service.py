"""The run loop of services and how it stops."""

from __future__ import annotations

import asyncio

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.service import Service
from tests.support.clock import FakeClock


async def test_stop_when_work_swallows_a_cancellation() -> None:
    """The work is cancelled again, because `wait_for` in Python 3.11 may lose the first cancellation."""
    service = Service(HealthRegistry(Clock()).register("deaf"))
    swallowed = asyncio.Event()

    async def deaf_once() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.Event().wait()

    service.stop()
    async with asyncio.timeout(5):
        assert await service.run_until_stopped(deaf_once()) is None
    assert swallowed.is_set()


async def test_service_is_watched_from_its_first_run() -> None:
    """Before `run()` it is not stale, since the daemon may wait long for its stores; afterwards a hang is detected."""
    time = FakeClock()
    health = HealthRegistry(time)
    begun = asyncio.Event()

    class Hanging(Service):
        name = "hanging"

        async def run_once(self) -> None:
            begun.set()
            await self.sleep(60)

    service = Hanging(health.register("hanging"))
    time.advance(3_600)
    assert health.stale_services() == []
    task = asyncio.create_task(service.run())
    await begun.wait()
    time.advance(26)
    assert health.stale_services() == ["hanging"]
    service.stop()
    await task
