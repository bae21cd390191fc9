"""The journal: a Redis list of outcomes for the ledger, oldest first.

The scripts `complete`, `retry` and `fail` append to it in the call that settles a job. Ledger writers read entries,
store them and drop them. Several may do so at the same time: entries that one has dropped are skipped by the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts


class Journal:
    """Reads and drops entries. All methods raise StoreUnavailableError when Redis is unreachable."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._key = keys.own("journal")
        self._scripts = Scripts(connection)

    async def peek(self, count: int) -> list[bytes]:
        """The oldest entries, at most `count`; they stay in the journal."""
        entries: list[bytes] = await self._connection.execute("LRANGE", self._key, 0, count - 1) if count > 0 else []
        return entries

    async def newest(self, count: int, *, skip: int = 0) -> list[bytes]:
        """The newest entries, newest first, after the `skip` newest ones; they stay in the journal."""
        if count <= 0:
            return []
        entries: list[bytes] = await self._connection.execute("LRANGE", self._key, -skip - count, -skip - 1)
        return entries[::-1]

    async def drop(self, entries: Sequence[bytes]) -> int:
        """Remove these entries from the head, if they are still there; returns how many were removed."""
        return int(await self._scripts.run("journal_drop", [self._key], entries)) if entries else 0

    async def length(self) -> int:
        return int(await self._connection.execute("LLEN", self._key))
