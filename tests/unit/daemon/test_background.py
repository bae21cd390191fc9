"""The services beside the worker, at the end of the daemon."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.service import Service
from flowstate_daemon.daemon.daemon import run_in_background
from tests.support.waiting_service import WaitingService

ANSWER_S = 5.0  # of a store that answers late


def waiting_service(lost_cancellations: int) -> WaitingService:
    return WaitingService(HealthRegistry(Clock()).register("waiting"), lost_cancellations, answer_s=ANSWER_S)


class Failing(Service):
    name = "failing"

    async def run_once(self) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("lost_cancellations", [0, 1, 3])
async def test_services_that_wait_for_a_store_do_not_delay_the_end(lost_cancellations: int) -> None:
    """They hold nothing: the shutdown timeout is for emails, and Docker kills soon after it."""
    services = [waiting_service(lost_cancellations), waiting_service(0)]
    async with run_in_background(services):
        for service in services:
            await service.begun.wait()
    assert all(service.ended for service in services)


async def test_error_of_a_service_is_raised_although_another_one_waits() -> None:
    """A bug is not hidden by an outage."""
    waiting = waiting_service(0)
    failing = Failing(HealthRegistry(Clock()).register("failing"))
    with pytest.raises(ZeroDivisionError):
        async with run_in_background([waiting, failing]):
            await waiting.begun.wait()
    assert waiting.ended
