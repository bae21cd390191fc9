"""Bulk gives way to codes between its pieces, and never for long."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.base.event_loop import CHUNK_SIZE, URGENT_TIMEOUT_S, WRITE_GRACE_S, UrgentPriority
from tests.support.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def way(clock: FakeClock) -> UrgentPriority:
    return UrgentPriority(clock)


async def turns(way: UrgentPriority) -> int:
    """How many turns of the loop giving way takes."""
    waiting = asyncio.ensure_future(way.yield_to_urgent())
    count = 0
    async with asyncio.timeout(5):
        while not waiting.done():
            await asyncio.sleep(0)
            count += 1
    return count


async def test_without_codes_it_costs_one_turn(way: UrgentPriority) -> None:
    """The loop looks up once, and bulk goes on."""
    assert await turns(way) <= 3


async def test_bulk_waits_until_the_code_is_on_the_wire(way: UrgentPriority, clock: FakeClock) -> None:
    """From its claim until its request has had the time to be written, a code has the loop for itself."""
    way.started("7")
    waiting = asyncio.ensure_future(way.yield_to_urgent())
    await asyncio.sleep(0)
    way.finished("7")
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(WRITE_GRACE_S)
    await waiting
    assert await turns(way) <= 3


async def test_one_code_that_leaves_does_not_take_the_right_of_another(way: UrgentPriority, clock: FakeClock) -> None:
    """Each code has its own."""
    way.started("7")
    way.started("8")
    way.finished("7")
    clock.advance(WRITE_GRACE_S)
    assert await turns(way) > 3


async def test_a_code_that_never_leaves_loses_its_right(way: UrgentPriority, clock: FakeClock) -> None:
    """It was skipped, or waits for the provider: nothing has to be returned."""
    way.started("7")
    clock.advance(URGENT_TIMEOUT_S)
    assert await turns(way) <= 3


async def test_bulk_never_stands_still(way: UrgentPriority) -> None:
    """However many codes come, bulk goes on after a moment: here the codes' time never runs out."""
    way.started("7")
    assert await turns(way) > 3


async def test_mails_leave_pieces_in_order(way: UrgentPriority) -> None:
    """Every mail once, in order, and others get their turn in between."""
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(other())
    assert [mail async for mail in way.chunked(range(3 * CHUNK_SIZE))] == list(range(3 * CHUNK_SIZE))
    beside.cancel()
    assert others >= 3


async def test_bulk_that_leaves_gets_no_right(way: UrgentPriority) -> None:
    """Only what was claimed as a code has any."""
    way.finished("9")
    assert await turns(way) <= 3
