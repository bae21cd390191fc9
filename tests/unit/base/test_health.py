"""Health by heartbeats: stale, failing and idle services."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.service import Service
from tests.support.clock import FakeClock


@pytest.fixture
def time() -> FakeClock:
    return FakeClock()


def test_service_is_stale_without_progress(time: FakeClock) -> None:
    """No progress for longer than the limit is detected, and one heartbeat ends it."""
    health = HealthRegistry(time)
    fetcher, completer = health.register("fetcher"), health.register("settler", stale_after_s=60)
    time.advance(25.0)
    assert health.stale_services() == []
    time.advance(0.1)
    assert health.stale_services() == ["fetcher"]
    fetcher.beat()
    assert health.stale_services() == []
    assert completer.age_s == pytest.approx(25.1)


def test_service_is_not_stale_when_wall_clock_jumps(time: FakeClock) -> None:
    """Setting the clock does not restart the daemon."""
    health = HealthRegistry(time)
    health.register("fetcher")
    time.jump(86_400)
    assert health.stale_services() == []
    assert health.uptime_s == 0


def test_service_is_not_stale_when_idle(time: FakeClock) -> None:
    """An idle service is never stale; its next heartbeat ends the idle state."""
    health = HealthRegistry(time)
    heartbeat = health.register("senders")
    heartbeat.idle()
    time.advance(3_600)
    assert health.stale_services() == []
    heartbeat.beat()
    time.advance(26)
    assert health.stale_services() == ["senders"]


def test_service_with_error_is_a_problem_but_not_stale(time: FakeClock) -> None:
    """An outage is reported with the service's name until it makes progress again."""
    health = HealthRegistry(time)
    heartbeat = health.register("promoter")
    time.advance(24)
    heartbeat.report_error("Redis: away")
    time.advance(24)
    assert health.stale_services() == []
    assert health.problems() == {"promoter": "Redis: away"}
    heartbeat.beat()
    assert health.problems() == {}


def test_condition_lasts_until_cleared(time: FakeClock) -> None:
    """A refused account is a problem of the daemon, not of one service."""
    health = HealthRegistry(time)
    health.set_condition("account", "the key is refused")
    assert health.problems() == {"account": "the key is refused"}
    health.clear_condition("account")
    health.clear_condition("account")
    assert health.problems() == {}


def test_register_when_name_is_taken(time: FakeClock) -> None:
    """The second service would replace the first, which would no longer be watched."""
    health = HealthRegistry(time)
    health.register("fetcher")
    with pytest.raises(ValueError, match="fetcher"):
        health.register("fetcher")


class Ferry(Service):
    """A service whose turns are scripted: an Outage is raised, None passes."""

    name = "ferry"
    seen: asyncio.Event

    async def run_once(self) -> None:
        if self.script:
            outage = self.script.pop(0)
            if outage is not None:
                raise outage
        self.seen.set()
        await self.sleep(60)

    def __init__(self, health: HealthRegistry, script: list[StoreUnavailableError | None]) -> None:
        super().__init__(health.register("ferry"))
        self.script = script
        self.seen = asyncio.Event()


async def test_service_survives_outages_and_is_idle_when_stopped(time: FakeClock) -> None:
    """It continues after two outages; once stopped, a long drain does not make it stale."""
    health = HealthRegistry(time)
    ferry = Ferry(health, [StoreUnavailableError("Redis: away"), StoreUnavailableError("Redis: loading")])
    task = asyncio.create_task(ferry.run())
    async with asyncio.timeout(5):
        await ferry.seen.wait()
        assert health.problems() == {"ferry": "Redis: loading"}
        ferry.stop()
        await task
    assert health.problems() == {}
    time.advance(600)
    assert health.stale_services() == []
