"""Stores what recipients choose: the table `preferences`, and with it the kinds in `unsubscribes`.

The preference page and the API change it. `recipients.py` reads it before each email, `planning.py` when it plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from flowstate_daemon.base.address import normalise_address, unicode_spelling
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.text import storable
from flowstate_daemon.database.ledger import MAX_WORD_LENGTH
from flowstate_daemon.database.pool import schema_connection
from flowstate_daemon.database.queries import sql
from flowstate_daemon.mail.policy import RecipientStatus
from flowstate_daemon.mail.preferences import NO_PREFERENCES, Preferences
from flowstate_daemon.mail.pseudonyms import Pseudonyms


@dataclass(frozen=True, slots=True)
class RecipientSettings:
    """Everything that a recipient can set. `unsubscribed` may contain ALL_KINDS beside single kinds."""

    preferences: Preferences = NO_PREFERENCES
    unsubscribed: frozenset[str] = frozenset()
    suppressed: frozenset[str] = field(default=frozenset(), compare=False)


def read_preferences(row: Mapping[str, Any]) -> Preferences:
    """The preferences in a row that may have NULL everywhere."""
    return Preferences(
        language=row["language"],
        time_zone=row["time_zone"],
        morning_hour=row["morning_hour"],
        overdue_summary=row["overdue"],
        paused_until=row["paused_until"],
        enabled_kinds=frozenset(row["enabled_kinds"] or ()),
    )


def read_status(rows: Sequence[Mapping[str, Any]]) -> RecipientStatus:
    """The status in the rows of one recipient: that of the address, and those of its pseudonyms."""
    chosen = next((row for row in rows if row["enabled_kinds"] is not None), rows[0])
    return RecipientStatus(
        frozenset(reason for row in rows for reason in row["suppressed"]),
        frozenset(kind for row in rows for kind in row["unsubscribed"]),
        preferences=read_preferences(chosen),
    )


class PreferenceStore:
    """Reads and writes the settings of one recipient. All methods raise StoreUnavailableError.

    What a forgotten recipient has unsubscribed from is stored under a pseudonym of the address, and counts here too.
    """

    def __init__(self, pool: asyncpg.Pool, clock: Clock, pseudonyms: Pseudonyms | None = None) -> None:
        self._pool = pool
        self._clock = clock
        self._pseudonyms = pseudonyms or Pseudonyms()

    async def load(self, address: str) -> RecipientSettings:
        """The settings as they are now."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("get_recipient_status"), self._stored(normalise_address(address)))
        status = read_status(rows)
        return RecipientSettings(status.preferences, status.unsubscribed, status.suppressed)

    async def save(self, address: str, settings: RecipientSettings, *, actor: str | None = None) -> None:
        """Replace everything that the recipient can set, in one transaction; a suppression stays as it is.

        A change by a program or an operator names the `actor`, for the audit log.
        """
        key, chosen, now = normalise_address(address), settings.preferences, self._clock.now()
        kinds = sorted(storable(kind, MAX_WORD_LENGTH) for kind in settings.unsubscribed)
        async with schema_connection(self._pool) as connection, connection.transaction():
            await connection.execute(
                sql("save_preferences"),
                key,
                unicode_spelling(key),
                chosen.language,
                chosen.time_zone,
                chosen.morning_hour,
                chosen.overdue_summary,
                chosen.paused_until,
                sorted(chosen.enabled_kinds),
                now,
            )
            await connection.execute(sql("replace_unsubscribes"), self._stored(key), kinds, now, key)
            if actor is not None:
                who = storable(actor, MAX_WORD_LENGTH)
                await connection.execute(sql("record_operator_action"), now, who, "preferences set", key, 1)

    def _stored(self, key: str) -> list[str]:
        return [key, *self._pseudonyms.of(key)]
