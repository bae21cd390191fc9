"""A client of an HTTP server with given routes, a migrated database, and a database that is unreachable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from aiohttp import ClientSession, web

from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.dev.embedded import free_port
from flowstate_daemon.web.server import ErrorPage, HttpServer


@asynccontextmanager
async def serve(
    routes: Iterable[web.AbstractRouteDef], error_page: ErrorPage | None = None
) -> AsyncIterator[ClientSession]:
    """A client of an HTTP server with these routes, on a free port, inside the block."""
    server = HttpServer(list(routes), host="127.0.0.1", port=0, error_page=error_page)
    await server.open()
    try:
        async with ClientSession(f"http://127.0.0.1:{server.bound_port}") as client:
            yield client
    finally:
        await server.close()


@pytest.fixture
async def unreachable_pool() -> AsyncIterator[asyncpg.Pool]:
    """A pool on a port where nothing listens."""
    async with open_pool(clean_dsn(f"postgresql://nobody@127.0.0.1:{free_port()}/x")) as pool:
        yield pool
