"""Connections to FlowState's Postgres, and the border where its errors get a fate.

What waiting or an operator can mend becomes an Outage that says how; a wrong address is a ConfigError; anything else,
such as SQL that the server does not understand, is a bug of ours and stays what it is.
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

POOL_SIZE = 8  # two loops that read for senders, four of the calendar, two that write
COMMAND_TIMEOUT_S = 30.0
CLOSE_S = 5.0
JSONB_VERSION = b"\x01"
UNREACHABLE = "is Postgres running, and is DATABASE_URL right?"
REMEDIES: tuple[tuple[type[Exception], str], ...] = (
    (refused.InvalidAuthorizationSpecificationError, "check the user and the password in DATABASE_URL"),
    (refused.InvalidCatalogNameError, "check the database's name in DATABASE_URL, or create it"),
    (refused.InsufficientPrivilegeError, "grant the daemon's role what it needs"),
    (refused.TooManyConnectionsError, "raise max_connections, or put connection_limit into DATABASE_URL"),
    (refused.InsufficientResourcesError, "Postgres is out of disk, memory or connections"),
    (refused.ReadOnlySQLTransactionError, "this is a replica; point DATABASE_URL at the primary"),
    (refused.QueryCanceledError, "Postgres was too slow: look at its load"),
    (refused.OperatorInterventionError, "Postgres is starting or stopping and will be back"),
    (refused.TransactionRollbackError, "another transaction was in the way"),
    (refused.PostgresConnectionError, UNREACHABLE),
    (refused.PostgresSystemError, "Postgres has trouble with its files: see its log"),
    (refused.InternalClientError, UNREACHABLE),
    (TimeoutError, "Postgres did not answer in time: look at its load and at the network"),
    (OSError, UNREACHABLE),
)


def to_unavailable(error: Exception) -> StoreUnavailableError | None:
    """The outage behind an error of asyncpg or of the network, or None when it is a bug of ours."""
    for cls, remedy in REMEDIES:
        if isinstance(error, cls):
            return StoreUnavailableError(f"Postgres: {str(error) or type(error).__name__}; {remedy}")
    return None


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate what asyncpg and the network raise inside the block."""
    try:
        yield
    except refused.ClientConfigurationError as error:
        raise ConfigError([f"DATABASE_URL: {error}"]) from error
    except (asyncpg.PostgresError, refused.InternalClientError, OSError) as error:
        outage = to_unavailable(error)
        if outage is None:
            raise
        raise outage from error


def create_pool(dsn: Dsn, *, size: int = POOL_SIZE) -> asyncpg.Pool:
    """A pool that is still to be opened; it connects when it is first needed, so Postgres may be away at the start."""
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
    """The pool, usable for the length of the block."""
    with translate_errors():
        await pool
    try:
        yield pool
    finally:
        await _close(pool)


@asynccontextmanager
async def open_pool(dsn: Dsn, *, size: int = POOL_SIZE) -> AsyncIterator[asyncpg.Pool]:
    """Both at once."""
    async with opened(create_pool(dsn, size=size)) as pool:
        yield pool


@asynccontextmanager
async def acquire(pool: asyncpg.Pool, *, wait_s: float = COMMAND_TIMEOUT_S) -> AsyncIterator[asyncpg.Connection]:
    """A connection for the length of the block, inside which every outage is called one. Raises Outage."""
    with translate_errors():
        async with pool.acquire(timeout=wait_s) as connection:
            try:
                yield connection
            except asyncpg.InterfaceError as error:
                # The same class says "used wrongly" and "lost a moment ago": the connection knows which it was.
                if _on_connection_lost(connection):
                    raise StoreUnavailableError(f"Postgres: {error}; {UNREACHABLE}") from error
                raise


def _on_connection_lost(connection: asyncpg.Connection) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True  # the pool has taken it back already


async def _register_json_codec(connection: asyncpg.Connection) -> None:
    """Give jsonb as objects instead of text, in both directions."""
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: JSONB_VERSION + msgspec.json.encode(value),
        decoder=lambda raw: msgspec.json.decode(raw[len(JSONB_VERSION) :]),
        format="binary",
    )


async def _skip_reset(_connection: asyncpg.Connection) -> None:
    """Nobody here changes a session, so that there is nothing to put back: one question less each time."""


async def _close(pool: asyncpg.Pool) -> None:
    """Close in order, but do not wait for ever for a connection that hangs."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await pool.close()
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        pool.terminate()


SCHEMA = "flowstate_daemon"
MAX_ADDRESS_LENGTH = 320
NOT_MIGRATED = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidSchemaNameError)


@asynccontextmanager
async def schema_connection(
    pool: asyncpg.Pool, *, wait_s: float = COMMAND_TIMEOUT_S
) -> AsyncIterator[asyncpg.Connection]:
    """A connection for work on our tables. Raises Outage, also while the tables are not there yet."""
    try:
        async with acquire(pool, wait_s=wait_s) as connection:
            yield connection
    except NOT_MIGRATED as error:
        raise StoreUnavailableError(f"Postgres: {error}; run: flowstate-daemon migrate") from error


def normalise_address(address: str) -> str:
    """The one spelling under which an address is stored and looked up."""
    return clean_text(address.strip().lower(), MAX_ADDRESS_LENGTH)


def clean_text(text: str, longest: int) -> str:
    """Text as Postgres takes it: no NUL, no half of a surrogate pair, not longer than that."""
    text = text[:longest].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
