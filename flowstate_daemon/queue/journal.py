"""Outcomes on their way from the settling scripts to the ledger: a list in Redis, oldest first.

The scripts `finish`, `retry` and `fail` append to it in the same call that ends a run. The ledger writer peeks, stores
and drops; several may do so at once, and whatever one has dropped the others pass over.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts


class Journal:
    """The reading end of the journal; every call raises Outage when Redis is away."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._key = keys.own("journal")
        self._scripts = Scripts(connection)

    async def peek(self, count: int) -> list[bytes]:
        """The oldest entries, at most so many; they stay where they are."""
        found: list[bytes] = await self._connection.execute("LRANGE", self._key, 0, count - 1) if count > 0 else []
        return found

    async def drop(self, entries: Sequence[bytes]) -> int:
        """Remove exactly these from the head, as far as they are still there; returns how many."""
        return int(await self._scripts.run("journal_drop", [self._key], entries)) if entries else 0

    async def length(self) -> int:
        return int(await self._connection.execute("LLEN", self._key))
