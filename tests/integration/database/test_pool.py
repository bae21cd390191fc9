"""Connections to a real Postgres: reachable, unreachable, restarting, and refused for reasons an operator can fix."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from flowstate_daemon.base.errors import ConfigError, StoreUnavailableError
from flowstate_daemon.database import pool as pool_module
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.pool import acquire, open_pool
from flowstate_daemon.dev.embedded import NON_DURABLE_SETTINGS, EmbeddedPostgres, free_port


async def ask(pool: asyncpg.Pool, query: str, *arguments: object) -> object:
    async with acquire(pool) as connection:
        return await connection.fetchval(query, *arguments)


async def reach(url: str) -> object:
    async with open_pool(clean_dsn(url), size=1) as pool:
        return await ask(pool, "SELECT 1")


async def test_prisma_parameters_are_removed(postgres_url: str) -> None:
    """The server would reject them."""
    assert await reach(f"{postgres_url}&schema=public&connection_limit=5&pgbouncer=true") == 1


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (("/postgres?", "/nowhere?"), "check the database's name"),
        (("postgres@", "nobody_known@"), "check the user and the password"),
    ],
)
async def test_refused_connection_raises_store_unavailable_with_remedy(
    postgres_url: str, change: tuple[str, str], remedy: str
) -> None:
    """What an operator can fix does not end the daemon, and the reason says how to fix it."""
    with pytest.raises(StoreUnavailableError, match=remedy):
        await reach(postgres_url.replace(*change))


async def test_closed_port_raises_store_unavailable() -> None:
    """The reason names the closed port."""
    with pytest.raises(StoreUnavailableError, match="is Postgres running"):
        await reach(f"postgresql://u:geheim@127.0.0.1:{free_port()}/d")


async def test_silent_server_raises_store_unavailable_in_time() -> None:
    """A port that accepts and stays silent costs the connect timeout, no more."""
    served = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await served.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(StoreUnavailableError, match="in time"):
            await reach(f"postgresql://u@127.0.0.1:{port}/d?connect_timeout=1&sslmode=disable")
    finally:
        served.set()
        server.close()
        await server.wait_closed()


async def test_invalid_parameter_raises_config_error(postgres_url: str) -> None:
    """Waiting would not help against an sslmode that does not exist."""
    with pytest.raises(ConfigError, match="sslmode"):
        await reach(f"{postgres_url}&sslmode=perhaps")


async def test_jsonb_is_converted_to_objects(database_url: str) -> None:
    """Preferences of any shape are read as Python objects."""
    async with open_pool(clean_dsn(database_url)) as pool:
        for value in ({"timezone": "Europe/Paris", "deep": [1, None, True]}, [], "text", 7, None):
            assert await ask(pool, "SELECT $1::jsonb", value) == value


async def test_invalid_sql_is_not_translated(database_url: str) -> None:
    """A bug ends the daemon instead of being retried for ever."""
    async with open_pool(clean_dsn(database_url)) as pool:
        with pytest.raises(asyncpg.PostgresSyntaxError):
            await ask(pool, "SELEKT 1")
        with pytest.raises(asyncpg.InterfaceError):
            await ask(pool, "SELECT 1", "one argument too many")


async def test_pool_survives_a_restart_of_postgres() -> None:
    """It opens while Postgres is down, raises StoreUnavailableError until it is up, and recovers by itself."""
    async with EmbeddedPostgres(settings=NON_DURABLE_SETTINGS) as daemon:
        await daemon.stop()
        async with open_pool(clean_dsn(daemon.url()), size=2) as pool:
            for end in (daemon.stop, daemon.kill):
                await end()
                with pytest.raises(StoreUnavailableError):
                    await ask(pool, "SELECT 1")
                await daemon.start()
                assert await ask(pool, "SELECT 1") == 1


async def test_lost_connection_raises_store_unavailable(database_url: str) -> None:
    """A connection cut by an administrator raises at once, and again when it is used."""

    async def cut_and_use(pool: asyncpg.Pool, administrator: asyncpg.Connection, *, twice: bool) -> None:
        async with acquire(pool) as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            await administrator.execute("SELECT pg_terminate_backend($1, 5000)", pid)
            if twice:
                with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
                    await connection.fetchval("SELECT 1")
            await connection.fetchval("SELECT 1")

    async with open_pool(clean_dsn(database_url), size=2) as pool, acquire(pool) as administrator:
        for twice in (False, True):
            with pytest.raises(StoreUnavailableError):
                await cut_and_use(pool, administrator, twice=twice)


async def test_busy_connection_does_not_block_close(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing waits CLOSE_S for a long query, and then terminates it."""
    monkeypatch.setattr(pool_module, "CLOSE_S", 0.2)
    async with open_pool(clean_dsn(database_url)) as pool:
        begun = asyncio.Event()

        async def hang() -> None:
            async with acquire(pool) as connection:
                begun.set()
                await connection.fetchval("SELECT pg_sleep(600)")

        hanging = asyncio.create_task(hang())
        await begun.wait()
    with pytest.raises(StoreUnavailableError):
        await hanging
