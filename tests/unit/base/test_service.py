"""The shape of a loop: what stopping it takes."""

from __future__ import annotations

import asyncio

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.vitals import Vitals


async def test_work_that_swallows_a_cancellation_is_cancelled_again() -> None:
    """A stop is not held up by work whose library loses the first cancellation, as `wait_for` does in Python 3.11."""
    service = Service(Vitals(Clock()).pulse("deaf"))
    swallowed = asyncio.Event()

    async def deaf_once() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.Event().wait()

    service.stop()
    async with asyncio.timeout(5):
        assert await service.unless_stopped(deaf_once()) is None
    assert swallowed.is_set()
