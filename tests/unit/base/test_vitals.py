"""A pulse means progress: what turns stale, what only suffers, what may be silent."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.vitals import Vitals
from tests.support.clock import HandClock


@pytest.fixture
def time() -> HandClock:
    return HandClock()


def test_a_loop_without_progress_is_stuck(time: HandClock) -> None:
    """Silence longer than the limit is seen, and one beat ends it."""
    vitals = Vitals(time)
    fetcher, settler = vitals.pulse("fetcher"), vitals.pulse("settler", stale_after_s=60)
    time.advance(25.0)
    assert vitals.stuck() == []
    time.advance(0.1)
    assert vitals.stuck() == ["fetcher"]
    fetcher.beat()
    assert vitals.stuck() == []
    assert settler.age_s == pytest.approx(25.1)


def test_time_on_the_wall_does_not_make_a_loop_stuck(time: HandClock) -> None:
    """An operator who sets the clock does not restart the daemon."""
    vitals = Vitals(time)
    vitals.pulse("fetcher")
    time.jump(86_400)
    assert vitals.stuck() == []
    assert vitals.uptime_s == 0


def test_a_resting_loop_may_be_silent(time: HandClock) -> None:
    """A loop with nothing under way is not stuck, however long that lasts; its next beat ends the rest."""
    vitals = Vitals(time)
    pulse = vitals.pulse("senders")
    pulse.rest()
    time.advance(3_600)
    assert vitals.stuck() == []
    pulse.beat()
    time.advance(26)
    assert vitals.stuck() == ["senders"]


def test_a_suffering_loop_is_in_trouble_but_not_stuck(time: HandClock) -> None:
    """An outage is told by name until the loop makes progress again."""
    vitals = Vitals(time)
    pulse = vitals.pulse("promoter")
    time.advance(24)
    pulse.suffer("Redis: away")
    time.advance(24)
    assert vitals.stuck() == []
    assert vitals.troubles() == {"promoter": "Redis: away"}
    pulse.beat()
    assert vitals.troubles() == {}


def test_conditions_last_until_they_are_cleared(time: HandClock) -> None:
    """A closed lane is a trouble of the house, not of one loop."""
    vitals = Vitals(time)
    vitals.raise_condition("lane", "the key is refused")
    assert vitals.troubles() == {"lane": "the key is refused"}
    vitals.clear_condition("lane")
    vitals.clear_condition("lane")
    assert vitals.troubles() == {}


def test_two_loops_cannot_share_a_name(time: HandClock) -> None:
    """The second would take the first's place and leave it unwatched."""
    vitals = Vitals(time)
    vitals.pulse("fetcher")
    with pytest.raises(ValueError, match="fetcher"):
        vitals.pulse("fetcher")


class Ferry(Service):
    """A service whose turns are scripted: an Outage is raised, None passes."""

    name = "ferry"
    seen: asyncio.Event

    async def turn(self) -> None:
        if self.script:
            outage = self.script.pop(0)
            if outage is not None:
                raise outage
        self.seen.set()
        await self.pause(60)

    def __init__(self, vitals: Vitals, script: list[Outage | None]) -> None:
        super().__init__(vitals.pulse("ferry"))
        self.script = script
        self.seen = asyncio.Event()


async def test_a_service_outlives_outages_and_rests_at_its_end(time: HandClock) -> None:
    """It runs on after two outages; once stopped, a long drain does not make it stuck."""
    vitals = Vitals(time)
    ferry = Ferry(vitals, [Outage("Redis: away"), Outage("Redis: loading")])
    task = asyncio.create_task(ferry.run())
    async with asyncio.timeout(5):
        await ferry.seen.wait()
        assert vitals.troubles() == {"ferry": "Redis: loading"}
        ferry.stop()
        await task
    assert vitals.troubles() == {}
    time.advance(600)
    assert vitals.stuck() == []
