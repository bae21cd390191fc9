"""How claimed jobs start: codes at once, bulk emails in chunks."""

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
from flowstate_daemon.worker.executor import MAX_CHUNK_BYTES, ProcessorPool
from flowstate_daemon.worker.in_flight import AbortReason, InFlightJobs, JobRun
from flowstate_daemon.worker.results import RetryPolicy
from tests.support.clock import FakeClock

SIZE = 60


class PoolHarness:
    """A pool whose handler records the start of each run and then waits for ever."""

    def __init__(self) -> None:
        clock = FakeClock()
        context = ServiceContext(HealthRegistry(clock), Metrics(), clock)
        bull = BullQueue(Connection("redis://127.0.0.1:1", client_name="test"), Keys("test"), clock, token="test/1")
        self.in_flight = InFlightJobs(SIZE)
        priority = UrgentPriority(clock)
        heartbeat = context.health.register
        completer = JobCompleter(bull, self.in_flight, JobLogger(context), priority, heartbeat(JobCompleter.name))
        self.started: list[str] = []
        self.pool = ProcessorPool(
            self._handle, self.in_flight, completer, priority, heartbeat(ProcessorPool.name), RetryPolicy(), size=SIZE
        )

    async def _handle(self, run: JobRun) -> None:
        self.started.append(run.job.id)
        await asyncio.Event().wait()

    def claim(self, name: str, *, priority: int, data: bytes = b"{}") -> None:
        job = Job(name, "welcome", data, DEFAULTS, 0, 0, priority, b"[]")
        self.pool.submit(self.in_flight.add(job, 0.0))

    async def until(self, count: int) -> None:
        """Run the event loop until so many runs have started."""
        async with asyncio.timeout(5):
            while len(self.started) < count:
                await asyncio.sleep(0)


@pytest.fixture
async def harness() -> AsyncIterator[PoolHarness]:
    harness = PoolHarness()
    running = asyncio.create_task(harness.pool.run())
    yield harness
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_code_starts_before_claimed_bulk(harness: PoolHarness) -> None:
    """Of fifty reminders claimed before a code, at most two chunks start before it."""
    for number in range(50):
        harness.claim(f"bulk-{number}", priority=5)
    await harness.until(1)
    harness.claim("code", priority=URGENT_PRIORITY)
    await harness.until(51)
    assert harness.started.index("code") <= 2 * CHUNK_SIZE


@pytest.mark.parametrize("size", [MAX_CHUNK_BYTES, 10 * MAX_CHUNK_BYTES])
async def test_code_starts_before_claimed_bulk_with_long_data(harness: PoolHarness, size: int) -> None:
    """To parse the lists of five long summaries would take as long as a hundred usual emails: they start one by one."""
    for number in range(50):
        harness.claim(f"bulk-{number}", priority=5, data=bytes(size))
    await harness.until(1)
    harness.claim("code", priority=URGENT_PRIORITY)
    await harness.until(51)
    assert harness.started.index("code") <= 2
    assert harness.started[-1] == "bulk-49"


async def test_bulk_starts_in_order_of_the_claim(harness: PoolHarness) -> None:
    """Chunks change when runs start, not their order."""
    for number in range(50):
        harness.claim(f"{number}", priority=5)
    await harness.until(50)
    assert harness.started == [f"{number}" for number in range(50)]


@pytest.mark.parametrize("reason", AbortReason)
async def test_pool_ends_although_a_run_is_aborted_at_the_same_moment(reason: AbortReason) -> None:
    """Both cancel the same task: the end of the pool must not be taken for the end of the run."""
    harness = PoolHarness()
    running = asyncio.create_task(harness.pool.run())
    harness.claim("7", priority=5)
    await harness.until(1)
    running.cancel()
    await asyncio.sleep(0)  # now the pool cancels its coroutines
    harness.in_flight.abort(["7"], reason)
    await asyncio.wait((running,), timeout=2)
    assert running.cancelled()
