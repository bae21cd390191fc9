"""Bulk gives way to codes between its pieces, and never for long."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.work.right_of_way import ON_ITS_WAY_S, ONTO_THE_WIRE_S, PIECE, RightOfWay
from tests.support.clock import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def way(clock: HandClock) -> RightOfWay:
    return RightOfWay(clock)


async def turns(way: RightOfWay) -> int:
    """How many turns of the loop giving way takes."""
    waiting = asyncio.ensure_future(way.give_way())
    count = 0
    async with asyncio.timeout(5):
        while not waiting.done():
            await asyncio.sleep(0)
            count += 1
    return count


async def test_without_codes_it_costs_one_turn(way: RightOfWay) -> None:
    """The loop looks up once, and bulk goes on."""
    assert await turns(way) <= 3


async def test_bulk_waits_until_the_code_is_on_the_wire(way: RightOfWay, clock: HandClock) -> None:
    """From its claim until its request has had the time to be written, a code has the loop for itself."""
    way.claimed("7")
    waiting = asyncio.ensure_future(way.give_way())
    await asyncio.sleep(0)
    way.leaving("7")
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(ONTO_THE_WIRE_S)
    await waiting
    assert await turns(way) <= 3


async def test_one_code_that_leaves_does_not_take_the_right_of_another(way: RightOfWay, clock: HandClock) -> None:
    """Each code has its own."""
    way.claimed("7")
    way.claimed("8")
    way.leaving("7")
    clock.advance(ONTO_THE_WIRE_S)
    assert await turns(way) > 3


async def test_a_code_that_never_leaves_loses_its_right(way: RightOfWay, clock: HandClock) -> None:
    """It was skipped, or waits for the provider: nothing has to be returned."""
    way.claimed("7")
    clock.advance(ON_ITS_WAY_S)
    assert await turns(way) <= 3


async def test_bulk_never_stands_still(way: RightOfWay) -> None:
    """However many codes come, bulk goes on after a moment: here the codes' time never runs out."""
    way.claimed("7")
    assert await turns(way) > 3


async def test_mails_leave_pieces_in_order(way: RightOfWay) -> None:
    """Every mail once, in order, and others get their turn in between."""
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(other())
    assert [mail async for mail in way.in_pieces(range(3 * PIECE))] == list(range(3 * PIECE))
    beside.cancel()
    assert others >= 3


async def test_bulk_that_leaves_gets_no_right(way: RightOfWay) -> None:
    """Only what was claimed as a code has any."""
    way.leaving("9")
    assert await turns(way) <= 3
