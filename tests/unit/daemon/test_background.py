"""The services beside the worker, at the end of the daemon."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.service import Service
from flowstate_daemon.daemon.daemon import run_in_background

ANSWER_S = 5.0  # of a store that answers late


class Waiting(Service):
    """A pass waits for a store that does not answer, and may lose a cancellation as `wait_for` does."""

    name = "waiting"

    def __init__(self, lost_cancellations: int) -> None:
        super().__init__(HealthRegistry(Clock()).register("waiting"))
        self.begun = asyncio.Event()
        self.ended = False
        self._lost = lost_cancellations

    async def run_once(self) -> None:
        self.begun.set()
        while True:
            try:
                await asyncio.wait_for(asyncio.Event().wait(), ANSWER_S)
            except TimeoutError:
                return
            except asyncio.CancelledError:
                if not self._lost:
                    self.ended = True
                    raise
                self._lost -= 1


class Failing(Service):
    name = "failing"

    async def run_once(self) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("lost_cancellations", [0, 1, 3])
async def test_services_that_wait_for_a_store_do_not_delay_the_end(lost_cancellations: int) -> None:
    """They hold nothing: the shutdown timeout is for emails, and Docker kills soon after it."""
    services = [Waiting(lost_cancellations), Waiting(0)]
    async with run_in_background(services):
        for service in services:
            await service.begun.wait()
    assert all(service.ended for service in services)


async def test_error_of_a_service_is_raised_although_another_one_waits() -> None:
    """A bug is not hidden by an outage."""
    waiting = Waiting(0)
    failing = Failing(HealthRegistry(Clock()).register("failing"))
    with pytest.raises(ZeroDivisionError):
        async with run_in_background([waiting, failing]):
            await waiting.begun.wait()
    assert waiting.ended
