"""Bulk work yields to codes between chunks, for a bounded time."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.base.event_loop import CHUNK_SIZE, URGENT_TIMEOUT_S, WRITE_GRACE_S, UrgentPriority
from tests.support.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def priority(clock: FakeClock) -> UrgentPriority:
    return UrgentPriority(clock)


async def turns(priority: UrgentPriority) -> int:
    """How many iterations of the event loop yielding takes."""
    waiting = asyncio.ensure_future(priority.yield_to_urgent())
    count = 0
    async with asyncio.timeout(5):
        while not waiting.done():
            await asyncio.sleep(0)
            count += 1
    return count


async def test_yield_without_codes_takes_one_iteration(priority: UrgentPriority) -> None:
    """The event loop runs once, and bulk work continues."""
    assert await turns(priority) <= 3


async def test_bulk_waits_until_the_code_is_written(priority: UrgentPriority, clock: FakeClock) -> None:
    """From its claim until its request could be written to the socket, a code has priority on the event loop."""
    priority.started("7")
    waiting = asyncio.ensure_future(priority.yield_to_urgent())
    await asyncio.sleep(0)
    priority.finished("7")
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(WRITE_GRACE_S)
    await waiting
    assert await turns(priority) <= 3


async def test_finished_code_does_not_end_the_priority_of_another(priority: UrgentPriority, clock: FakeClock) -> None:
    """Each code has its own priority."""
    priority.started("7")
    priority.started("8")
    priority.finished("7")
    clock.advance(WRITE_GRACE_S)
    assert await turns(priority) > 3


async def test_priority_of_a_code_expires(priority: UrgentPriority, clock: FakeClock) -> None:
    """The code was skipped, or waits for the provider: nothing has to be released."""
    priority.started("7")
    clock.advance(URGENT_TIMEOUT_S)
    assert await turns(priority) <= 3


async def test_bulk_continues_however_many_codes_arrive(priority: UrgentPriority) -> None:
    """Here the priority of the code never expires."""
    priority.started("7")
    assert await turns(priority) > 3


async def test_chunked_keeps_the_order_and_yields(priority: UrgentPriority) -> None:
    """Every email once, in order, and other tasks run in between."""
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    assert [mail async for mail in priority.chunked(range(3 * CHUNK_SIZE))] == list(range(3 * CHUNK_SIZE))
    task.cancel()
    assert others >= 3


async def test_finishing_bulk_gives_no_priority(priority: UrgentPriority) -> None:
    """Only what was claimed as a code has priority."""
    priority.finished("9")
    assert await turns(priority) <= 3
