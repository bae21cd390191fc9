"""Makes a database of Postgres refuse writes, as a hosted one does when its disk is full."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg


@asynccontextmanager
async def read_only(pool: asyncpg.Pool) -> AsyncIterator[None]:
    """The connections of the pool are refused writes inside the block."""
    await _set(pool, "ON")
    try:
        yield
    finally:
        await _set(pool, "OFF")


async def _set(pool: asyncpg.Pool, value: str) -> None:
    async with pool.acquire() as connection:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute("SET default_transaction_read_only = OFF")
        await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}')
    await pool.expire_connections()
