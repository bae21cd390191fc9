"""A migrated database without users, helpers to add some, and a scheduler on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.app_tables import AppTables
from tests.support.clock import FakeClock
from tests.support.scheduler import SchedulerHarness, scheduler_harness


@pytest.fixture
async def migrated_url(database_url: str) -> str:
    """A database for one test with the application's tables and ours."""
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool).apply()
    return database_url


@pytest.fixture
async def app(migrated_url: str) -> AsyncIterator[AppTables]:
    """Writes the application's tables, as the NestJS backend does."""
    connection = await asyncpg.connect(migrated_url)
    yield AppTables(connection)
    await connection.close()


@pytest.fixture
async def harness(
    migrated_url: str, connection: Connection, keys: Keys, clock: FakeClock
) -> AsyncIterator[SchedulerHarness]:
    """The scheduler of one daemon. It is Monday, 09:00 in Paris."""
    async with scheduler_harness(migrated_url, connection, keys, clock) as harness:
        yield harness
