"""Finds and deletes what Postgres holds about one recipient: outcomes, provider events, choices, list entries.

Rows of `scheduled_mails` contain the application's user id and no address; they end with the retention time.
"""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg

from flowstate_daemon.base.address import FORGOTTEN, normalise_address, pattern_in_text
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.text import storable
from flowstate_daemon.database.ledger import MAX_WORD_LENGTH
from flowstate_daemon.database.pool import schema_connection
from flowstate_daemon.database.queries import sql
from flowstate_daemon.mail.pseudonyms import Pseudonyms

BATCH = 1_000
# In this order: the ids of emails lead to the provider's events.
BATCHED = {
    "provider_events": "forget_provider_events",
    "mails": "forget_mails",
    "journal_rejects": "forget_journal_rejects",
    "operator_actions": "forget_operator_actions",
    "preferences": "forget_preferences",
}
LISTS = {"suppressions": "forget_suppressions", "unsubscribes": "forget_unsubscribes"}
TABLES = (*BATCHED, *LISTS)


class RecipientForgetter:
    """Everything about one recipient in our schema. Every method raises StoreUnavailableError."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock, spellings: frozenset[str]) -> None:
        self._pool = pool
        self._clock = clock
        self._spellings = sorted(normalise_address(spelling) for spelling in spellings)
        self._text = pattern_in_text(map(_escaped, self._spellings))

    async def count(self) -> Mapping[str, int]:
        """How many rows of each table are about the recipient."""
        async with schema_connection(self._pool) as connection:
            row = await connection.fetchrow(sql("count_recipient"), self._spellings, self._text)
        return {table: row[table] for table in TABLES}

    async def delete(self, address: str, keep: Pseudonyms | None) -> Mapping[str, int]:
        """Delete it; returns how many rows. With `keep`, list entries stay under the pseudonym of the address."""
        deleted = {table: await self._delete_batches(name) for table, name in BATCHED.items()}
        pseudonyms = [] if keep is None else keep.of(normalise_address(address))
        async with schema_connection(self._pool) as connection, connection.transaction():
            for table, name in LISTS.items():
                pseudonym = pseudonyms[0] if pseudonyms else None
                deleted[table] = await connection.fetchval(sql(name), self._spellings, pseudonym)
        return deleted

    async def record(self, actor: str, count: int) -> None:
        """Record that an operator did this, without the address."""
        arguments = (self._clock.now(), storable(actor, MAX_WORD_LENGTH), "forget", FORGOTTEN, count)
        async with schema_connection(self._pool) as connection:
            await connection.execute(sql("record_operator_action"), *arguments)

    async def _delete_batches(self, name: str) -> int:
        deleted = 0
        async with schema_connection(self._pool) as connection:
            wanted = self._text if name == BATCHED["journal_rejects"] else self._spellings
            while count := int(await connection.fetchval(sql(name), wanted, BATCH)):
                deleted += count
        return deleted


def _escaped(text: str) -> str:
    """Text as `encode(…, 'escape')` shows its bytes: beyond ASCII a backslash and three octal digits."""
    return "".join(chr(byte) if byte < 0x80 else f"\\{byte:03o}" for byte in text.encode())  # noqa: PLR2004 - ASCII
