"""The schema of our own: how this room's files reach it, and what all its tables agree on.

The application owns `public`; nothing here ever names it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.database.pool import COMMAND_TIMEOUT_S, borrowed

SCHEMA = "flowstate_daemon"
LONGEST_ADDRESS = 320
NOT_MIGRATED = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InvalidSchemaNameError)


@asynccontextmanager
async def at_schema(pool: asyncpg.Pool, *, wait_s: float = COMMAND_TIMEOUT_S) -> AsyncIterator[asyncpg.Connection]:
    """A connection for work on our tables. Raises Outage, also while the tables are not there yet."""
    try:
        async with borrowed(pool, wait_s=wait_s) as connection:
            yield connection
    except NOT_MIGRATED as error:
        raise Outage(f"Postgres: {error}; run: flowstate-daemon migrate") from error


def normalised(address: str) -> str:
    """The one spelling under which an address is stored and looked up."""
    return storable(address.strip().lower(), LONGEST_ADDRESS)


def storable(text: str, longest: int) -> str:
    """Text as Postgres takes it: no NUL, no half of a surrogate pair, not longer than that."""
    text = text[:longest].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
