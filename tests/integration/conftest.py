"""A Redis behind a proxy that breaks its connections, and a migrated database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from tests.support.redis_topologies import ProxiedRedis, proxied_redis


@pytest.fixture(params=["plain", "tls"])
async def target(request: pytest.FixtureRequest, valkey_url: str, tmp_path: Path) -> AsyncIterator[ProxiedRedis]:
    async with proxied_redis(valkey_url, tmp_path, tls=request.param == "tls") as target:
        yield target


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool on the test's own database, with the tables of the daemon."""
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool).apply()
        yield pool
