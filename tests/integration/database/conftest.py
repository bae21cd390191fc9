"""A migrated database for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from tests.support.clock import FakeClock


@pytest.fixture
async def bare_pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool on a database that has the application's tables and none of ours."""
    async with open_pool(clean_dsn(database_url)) as pool:
        yield pool


@pytest.fixture
async def pool(bare_pool: asyncpg.Pool) -> asyncpg.Pool:
    """A pool on a migrated database."""
    await Migrator(bare_pool).apply()
    return bare_pool


@pytest.fixture
def ledger(pool: asyncpg.Pool, clock: FakeClock) -> Ledger:
    return Ledger(pool, clock)
