"""Connections to Postgres, and the translation of its errors.

An error that time or an operator can fix becomes a StoreUnavailableError with a remedy; an invalid address is a
ConfigError; any other error, such as invalid SQL, is a bug and is raised unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg
import msgspec
from asyncpg import exceptions as refused

from flowstate_daemon.base.errors import ConfigError, StoreUnavailableError
from flowstate_daemon.database.dsn import Dsn

POOL_SIZE = 8  # two for lookups of workers, four for the scheduler, two for the ledger
COMMAND_TIMEOUT_S = 30.0
CANCEL_TIMEOUT_S = 1.0  # for Postgres to confirm that it has cancelled a query; then the connection is dropped
CLOSE_S = 1.0
JSONB_VERSION = b"\x01"
POSTGRES_REMEDY = "check that Postgres is running and that DATABASE_URL is right"
UNREACHABLE = "is Postgres running, and is DATABASE_URL right?"
REMEDIES: tuple[tuple[type[Exception], str], ...] = (
    (refused.InvalidAuthorizationSpecificationError, "check the user and the password in DATABASE_URL"),
    (refused.InvalidCatalogNameError, "check the database's name in DATABASE_URL, or create it"),
    (refused.InsufficientPrivilegeError, "grant the daemon's role what it needs"),
    (refused.TooManyConnectionsError, "raise max_connections, or put connection_limit into DATABASE_URL"),
    (refused.InsufficientResourcesError, "Postgres is out of disk, memory or connections"),
    (refused.ReadOnlySQLTransactionError, "this is a replica; point DATABASE_URL at the primary"),
    (refused.QueryCanceledError, "Postgres was too slow: check its load"),
    (refused.OperatorInterventionError, "Postgres is starting or stopping and will be back"),
    (refused.TransactionRollbackError, "a concurrent transaction conflicted"),
    (refused.PostgresConnectionError, UNREACHABLE),
    (refused.PostgresSystemError, "Postgres has a file system error: see its log"),
    (refused.InternalClientError, UNREACHABLE),
    (TimeoutError, "Postgres did not answer in time: check its load and the network"),
    (OSError, UNREACHABLE),
)


def to_unavailable(error: Exception) -> StoreUnavailableError | None:
    """The StoreUnavailableError for an error of asyncpg or of the network, or None when the error is a bug."""
    for cls, remedy in REMEDIES:
        if isinstance(error, cls):
            return StoreUnavailableError(f"Postgres: {str(error) or type(error).__name__}; {remedy}")
    return None


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate errors of asyncpg and of the network inside the block."""
    try:
        yield
    except refused.ClientConfigurationError as error:
        raise ConfigError([f"DATABASE_URL: {error}"]) from error
    except (asyncpg.PostgresError, refused.InternalClientError, OSError) as error:
        unavailable = to_unavailable(error)
        if unavailable is None:
            raise
        try:
            raise unavailable from error
        finally:
            del unavailable  # this frame is in its traceback, and so would keep the emails of all frames in memory


def create_pool(dsn: Dsn, *, size: int = POOL_SIZE) -> asyncpg.Pool:
    """A pool that is not open yet; it connects on first use, so Postgres may be unreachable at start."""
    return asyncpg.create_pool(
        dsn.dsn,
        min_size=0,
        max_size=min(size, dsn.max_size or size),
        command_timeout=COMMAND_TIMEOUT_S,
        init=_register_json_codec,
        reset=_skip_reset,
        **dsn.connect,
    )


@asynccontextmanager
async def opened(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Pool]:
    """Open the pool inside the block."""
    with translate_errors():
        await pool
    try:
        yield pool
    finally:
        await _close(pool)


@asynccontextmanager
async def open_pool(dsn: Dsn, *, size: int = POOL_SIZE) -> AsyncIterator[asyncpg.Pool]:
    """Create a pool and open it inside the block."""
    async with opened(create_pool(dsn, size=size)) as pool:
        yield pool


@asynccontextmanager
async def acquire(pool: asyncpg.Pool, *, wait_s: float = COMMAND_TIMEOUT_S) -> AsyncIterator[asyncpg.Connection]:
    """A connection inside the block, with translated errors. Raises StoreUnavailableError."""
    with translate_errors():
        connection = await _acquire(pool, wait_s)
        try:
            yield connection
        except asyncpg.InterfaceError as error:
            # asyncpg raises this class for wrong use and for a lost connection: only the connection knows which.
            if _is_connection_lost(connection):
                raise StoreUnavailableError(f"Postgres: {error}; {UNREACHABLE}") from error
            raise
        finally:
            await _release(pool, connection)


async def _acquire(pool: asyncpg.Pool, wait_s: float) -> asyncpg.Connection:
    try:
        return await pool.acquire(timeout=wait_s)
    except asyncpg.InterfaceError as error:
        if pool.is_closing():
            raise StoreUnavailableError("Postgres: the daemon is stopping") from error
        raise


async def _release(pool: asyncpg.Pool, connection: asyncpg.Connection) -> None:
    """Give the connection back. asyncpg itself would wait 30 s for the answer of a Postgres that is frozen."""
    try:
        await pool.release(connection, timeout=CANCEL_TIMEOUT_S)
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return  # it was broken, and the pool has dropped it


def _is_connection_lost(connection: asyncpg.Connection) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True  # the pool has already taken it back


async def _register_json_codec(connection: asyncpg.Connection) -> None:
    """Encode and decode jsonb as Python objects instead of text."""
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: JSONB_VERSION + msgspec.json.encode(value),
        decoder=lambda raw: msgspec.json.decode(raw[len(JSONB_VERSION) :]),
        format="binary",
    )


async def _skip_reset(_connection: asyncpg.Connection) -> None:
    """Skip asyncpg's reset query: the daemon never changes session state."""


async def _close(pool: asyncpg.Pool) -> None:
    """Close gracefully, but terminate connections that hang."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await pool.close()
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        pool.terminate()


SCHEMA = "flowstate_daemon"
NOT_MIGRATED = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidSchemaNameError)


@asynccontextmanager
async def schema_connection(
    pool: asyncpg.Pool, *, wait_s: float = COMMAND_TIMEOUT_S
) -> AsyncIterator[asyncpg.Connection]:
    """A connection for our own tables. Raises StoreUnavailableError, also while the tables do not exist yet."""
    try:
        async with acquire(pool, wait_s=wait_s) as connection:
            yield connection
    except NOT_MIGRATED as error:
        raise StoreUnavailableError(f"Postgres: {error}; run: flowstate-daemon migrate") from error
