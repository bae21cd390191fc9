"""How claimed jobs begin: codes at once, everything else in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from flowstate_daemon.base.instruments import Instruments
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.vitals import Vitals
from flowstate_daemon.mail.catalogue import URGENT
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.job import DEFAULTS, Job
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.work.fate import RetryRules
from flowstate_daemon.work.inflight import InFlight, Run
from flowstate_daemon.work.pool import Pool
from flowstate_daemon.work.report import Reporter
from flowstate_daemon.work.right_of_way import PIECE, RightOfWay
from flowstate_daemon.work.settler import Settler
from tests.support.clock import HandClock

SIZE = 60


class Floor:
    """A pool whose runs note their beginning and then wait for ever; its settler is given nothing to write."""

    def __init__(self) -> None:
        clock = HandClock()
        instruments = Instruments(Vitals(clock), Metrics(), clock)
        bull = Bull(Connection("redis://127.0.0.1:1", client_name="test"), Keys("test"), clock, token="test/1")
        self.inflight = InFlight(SIZE)
        way = RightOfWay(clock)
        pulse = instruments.vitals.pulse
        settler = Settler(bull, self.inflight, Reporter(instruments), way, pulse("settler"))
        self.begun: list[str] = []
        self.pool = Pool(self._begin, self.inflight, settler, way, pulse("senders"), RetryRules(), size=SIZE)

    async def _begin(self, run: Run) -> None:
        self.begun.append(run.job.id)
        await asyncio.Event().wait()

    def claim(self, name: str, *, priority: int) -> None:
        job = Job(name, "welcome", b"{}", DEFAULTS, 0, 0, priority, b"[]")
        self.pool.hand_over(self.inflight.take_in(job, 0.0))

    async def until(self, count: int) -> None:
        """Let the loop turn until so many runs have begun."""
        async with asyncio.timeout(5):
            while len(self.begun) < count:
                await asyncio.sleep(0)


@pytest.fixture
async def floor() -> AsyncIterator[Floor]:
    floor = Floor()
    running = asyncio.create_task(floor.pool.run())
    yield floor
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_code_does_not_wait_until_a_claim_of_bulk_has_begun(floor: Floor) -> None:
    """Of fifty reminders claimed before it, no more than two pieces begin before the code."""
    for number in range(50):
        floor.claim(f"bulk-{number}", priority=5)
    await floor.until(1)
    floor.claim("code", priority=URGENT)
    await floor.until(51)
    assert floor.begun.index("code") <= 2 * PIECE


async def test_all_of_a_claim_begin_in_their_order(floor: Floor) -> None:
    """Pieces change when they begin, not which goes first."""
    for number in range(50):
        floor.claim(f"{number}", priority=5)
    await floor.until(50)
    assert floor.begun == [f"{number}" for number in range(50)]
