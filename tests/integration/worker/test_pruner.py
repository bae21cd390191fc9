"""The pruner deletes old outcomes from the ledger."""

from __future__ import annotations

import asyncio

from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import acquire, open_pool
from flowstate_daemon.worker.ledger_services import INITIAL_DELAY_S, Pruner
from tests.support.clock import START, FakeClock
from tests.support.ledger_entries import outcome
from tests.support.waiting import eventually


async def test_outcomes_older_than_the_retention_are_deleted(database_url: str, clock: FakeClock) -> None:
    """Not at startup, but soon after it."""
    day_ms = 86_400_000
    start_ms = int(START.timestamp() * 1000)
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool).apply()
        ledger = Ledger(pool, clock)
        await ledger.write([outcome(number, at=start_ms - number * day_ms) for number in range(10)])
        pruner = Pruner(ledger, HealthRegistry(clock).register("pruner"), clock, retention_days=5)

        async def left() -> int:
            async with acquire(pool) as connection:
                return int(await connection.fetchval("SELECT count(*) FROM flowstate_daemon.mails"))

        async def is_pruned() -> bool:
            return await left() == 5

        clock.advance(INITIAL_DELAY_S - 1)
        early = asyncio.create_task(pruner.run_once())
        assert await left() == 10
        clock.advance(2)
        await early
        running = asyncio.create_task(pruner.run())
        await eventually(is_pruned, "pruned")
        pruner.stop()
        await running
