"""A pulse means progress: what turns stale, what only suffers, what may be silent."""

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


def test_a_loop_without_progress_is_stuck(time: FakeClock) -> None:
    """Silence longer than the limit is seen, and one beat ends it."""
    health = HealthRegistry(time)
    fetcher, completer = health.register("fetcher"), health.register("settler", stale_after_s=60)
    time.advance(25.0)
    assert health.stale_services() == []
    time.advance(0.1)
    assert health.stale_services() == ["fetcher"]
    fetcher.beat()
    assert health.stale_services() == []
    assert completer.age_s == pytest.approx(25.1)


def test_time_on_the_wall_does_not_make_a_loop_stuck(time: FakeClock) -> None:
    """An operator who sets the clock does not restart the daemon."""
    health = HealthRegistry(time)
    health.register("fetcher")
    time.jump(86_400)
    assert health.stale_services() == []
    assert health.uptime_s == 0


def test_a_resting_loop_may_be_silent(time: FakeClock) -> None:
    """A loop with nothing under way is not stuck, however long that lasts; its next beat ends the rest."""
    health = HealthRegistry(time)
    heartbeat = health.register("senders")
    heartbeat.idle()
    time.advance(3_600)
    assert health.stale_services() == []
    heartbeat.beat()
    time.advance(26)
    assert health.stale_services() == ["senders"]


def test_a_suffering_loop_is_in_trouble_but_not_stuck(time: FakeClock) -> None:
    """An outage is told by name until the loop makes progress again."""
    health = HealthRegistry(time)
    heartbeat = health.register("promoter")
    time.advance(24)
    heartbeat.report_error("Redis: away")
    time.advance(24)
    assert health.stale_services() == []
    assert health.problems() == {"promoter": "Redis: away"}
    heartbeat.beat()
    assert health.problems() == {}


def test_conditions_last_until_they_are_cleared(time: FakeClock) -> None:
    """A closed lane is a trouble of the house, not of one loop."""
    health = HealthRegistry(time)
    health.set_condition("lane", "the key is refused")
    assert health.problems() == {"lane": "the key is refused"}
    health.clear_condition("lane")
    health.clear_condition("lane")
    assert health.problems() == {}


def test_two_loops_cannot_share_a_name(time: FakeClock) -> None:
    """The second would take the first's place and leave it unwatched."""
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


async def test_a_service_outlives_outages_and_rests_at_its_end(time: FakeClock) -> None:
    """It runs on after two outages; once stopped, a long drain does not make it stuck."""
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
