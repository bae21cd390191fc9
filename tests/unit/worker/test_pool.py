"""How claimed jobs begin: codes at once, everything else in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from flowstate_daemon.base.event_loop import CHUNK_SIZE, UrgentPriority
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.mail.kinds import URGENT_PRIORITY
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import DEFAULTS, Job
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.worker.completer import JobCompleter, JobLogger
from flowstate_daemon.worker.executor import ProcessorPool
from flowstate_daemon.worker.in_flight import InFlightJobs, JobRun
from flowstate_daemon.worker.results import RetryPolicy
from tests.support.clock import FakeClock

SIZE = 60


class Floor:
    """A pool whose runs note their beginning and then wait for ever; its settler is given nothing to write."""

    def __init__(self) -> None:
        clock = FakeClock()
        context = ServiceContext(HealthRegistry(clock), Metrics(), clock)
        bull = BullQueue(Connection("redis://127.0.0.1:1", client_name="test"), Keys("test"), clock, token="test/1")
        self.inflight = InFlightJobs(SIZE)
        way = UrgentPriority(clock)
        heartbeat = context.health.register
        completer = JobCompleter(bull, self.inflight, JobLogger(context), way, heartbeat(JobCompleter.name))
        self.begun: list[str] = []
        self.pool = ProcessorPool(
            self._begin, self.inflight, completer, way, heartbeat(ProcessorPool.name), RetryPolicy(), size=SIZE
        )

    async def _begin(self, run: JobRun) -> None:
        self.begun.append(run.job.id)
        await asyncio.Event().wait()

    def claim(self, name: str, *, priority: int) -> None:
        job = Job(name, "welcome", b"{}", DEFAULTS, 0, 0, priority, b"[]")
        self.pool.submit(self.inflight.add(job, 0.0))

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
    floor.claim("code", priority=URGENT_PRIORITY)
    await floor.until(51)
    assert floor.begun.index("code") <= 2 * CHUNK_SIZE


async def test_all_of_a_claim_begin_in_their_order(floor: Floor) -> None:
    """Pieces change when they begin, not which goes first."""
    for number in range(50):
        floor.claim(f"{number}", priority=5)
    await floor.until(50)
    assert floor.begun == [f"{number}" for number in range(50)]
