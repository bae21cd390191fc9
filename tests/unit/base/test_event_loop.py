"""Bulk work runs a few at a time, and lets codes overtake."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.base.event_loop import CHUNK_SIZE, TURN_S, BulkTurns, UrgentPriority
from tests.support.clock import FakeClock


class Workload:
    """Tasks that each want a turn, and how many of them workload in each turn of the event loop."""

    def __init__(self, clock: FakeClock, work_s: float = 0.0) -> None:
        """`work_s` is how long each of them runs."""
        self.urgent = UrgentPriority(clock)
        self._turns = BulkTurns(self.urgent, clock)
        self._clock = clock
        self._work_s = work_s
        self.numbers: list[int] = []
        self.turn = 0
        self.by_turn: dict[int, int] = {}

    async def work(self, number: int) -> None:
        await self._turns.wait()
        self._clock.advance(self._work_s)
        self.numbers.append(number)
        self.by_turn[self.turn] = self.by_turn.get(self.turn, 0) + 1

    async def count_turns(self, until: int) -> None:
        while len(self.numbers) < until:
            await asyncio.sleep(0)
            self.turn += 1


async def test_bulk_work_runs_a_few_at_a_time_and_in_order() -> None:
    """However many tasks are ready at once; and again after everything was done."""
    workload = Workload(FakeClock())
    for last in (23, 46):
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            for number in range(len(workload.numbers), last):
                group.create_task(workload.work(number))
            group.create_task(workload.count_turns(last))
    assert workload.numbers == list(range(46))
    assert max(workload.by_turn.values()) <= CHUNK_SIZE
    assert len(workload.by_turn) >= 46 / CHUNK_SIZE


async def test_cancelled_task_holds_up_no_other() -> None:
    """Whether it was waiting, or already had its turn."""
    workload = Workload(FakeClock())
    tasks = [asyncio.create_task(workload.work(number)) for number in range(4 * CHUNK_SIZE)]
    await asyncio.sleep(0)  # the first ones have run, the others wait
    for number in range(CHUNK_SIZE, 3 * CHUNK_SIZE):
        tasks[number].cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert workload.numbers == [*range(CHUNK_SIZE), *range(3 * CHUNK_SIZE, 4 * CHUNK_SIZE)]


async def test_bulk_work_waits_while_a_code_is_being_sent() -> None:
    """Only what had its turn before the code was claimed runs; the rest follows when the code has its request."""
    clock = FakeClock()
    workload = Workload(clock)
    urgent = workload.urgent
    urgent.started("code")
    tasks = [asyncio.create_task(workload.work(number)) for number in range(2 * CHUNK_SIZE)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(workload.numbers) == CHUNK_SIZE
    urgent.finished("code")
    clock.advance(1)
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks)
    assert len(workload.numbers) == 2 * CHUNK_SIZE


@pytest.mark.parametrize(("work_s", "most"), [(TURN_S / 10, CHUNK_SIZE), (TURN_S / 2, 2), (TURN_S, 1), (1.0, 1)])
async def test_slow_work_runs_fewer_at_a_time(work_s: float, most: int) -> None:
    """At least one in each turn, in the same order: a code waits for a turn, not for five long emails."""
    workload = Workload(FakeClock(), work_s)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for number in range(23):
            group.create_task(workload.work(number))
        group.create_task(workload.count_turns(23))
    assert workload.numbers == list(range(23))
    assert max(workload.by_turn.values()) == most


async def test_slow_work_that_is_cancelled_holds_up_no_other() -> None:
    """Those whose turn had no time left for them are cancelled like the others."""
    workload = Workload(FakeClock(), TURN_S)
    tasks = [asyncio.create_task(workload.work(number)) for number in range(2 * CHUNK_SIZE)]
    await asyncio.sleep(0)  # the first one has run, four were late, and five wait
    for number in (1, 3, CHUNK_SIZE):
        tasks[number].cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert workload.numbers == [0, 2, 4, *range(CHUNK_SIZE + 1, 2 * CHUNK_SIZE)]


async def test_turns_go_on_after_their_task_was_cancelled() -> None:
    """Whoever comes next starts it again, also for those who wait."""
    workload = Workload(FakeClock())
    tasks = [asyncio.create_task(workload.work(number)) for number in range(2 * CHUNK_SIZE)]
    await asyncio.sleep(0)
    [giver] = [task for task in asyncio.all_tasks() if task.get_name() == "bulk_turns"]
    giver.cancel()
    await asyncio.wait([giver])
    assert len(workload.numbers) == CHUNK_SIZE
    async with asyncio.timeout(5):
        await workload.work(2 * CHUNK_SIZE)
        await asyncio.gather(*tasks)
    assert workload.numbers == list(range(2 * CHUNK_SIZE + 1))
