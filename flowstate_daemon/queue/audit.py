"""The audit log of the queue: what operators do, who, how many, when. A list in Redis of the newest entries.

Actions on suppressions need Postgres only and leave their trace there, see `database/recipients.py`.
"""

from __future__ import annotations

import msgspec
import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys

log = structlog.get_logger()

MAX_ENTRIES = 10_000
# The actions that are counted by name; others, as of another version, are counted together.
ACTIONS = (
    *("queue retry", "queue remove", "queue clean", "queue promote", "queue update", "queue pause", "queue resume"),
    *("provider retry", "schedule run", "unsubscribed remove", "addresses revealed", "job revealed", "forget"),
)
OTHER_ACTION = "other"


class OperatorAction(msgspec.Struct, frozen=True):
    """One action; `at` is Unix ms, `count` how many jobs or addresses it changed."""

    at: int
    actor: str
    action: str
    target: str
    count: int


class AuditLog:
    """Records the actions of one operator, and reads those of all."""

    def __init__(self, connection: Connection, keys: Keys, clock: Clock, *, actor: str) -> None:
        self._connection = connection
        self._key = keys.own("audit")
        self._counts_key = keys.own("audit-counts")
        self._clock = clock
        self.actor = actor

    async def record(self, action: str, target: str, count: int) -> None:
        """Record an action that has been done. If Redis has just become unreachable, a warning says so."""
        entry = OperatorAction(self._clock.now_ms(), self.actor, action, target, count)
        try:
            await self._connection.execute("RPUSH", self._key, msgspec.json.encode(entry))
            await self._connection.execute("LTRIM", self._key, -MAX_ENTRIES, -1)
            counted = action if action in ACTIONS else OTHER_ACTION
            await self._connection.execute("HINCRBY", self._counts_key, counted, 1)
        except StoreUnavailableError as outage:
            log.warning(
                "action_not_recorded", actor=self.actor, action=action, target=target, count=count, reason=outage.reason
            )

    async def newest(self, count: int) -> list[OperatorAction]:
        """The newest actions, newest first."""
        entries = await self._connection.execute("LRANGE", self._key, -count, -1)
        actions = []
        for entry in reversed(entries):
            try:
                actions.append(msgspec.json.decode(entry, type=OperatorAction))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # written by something else
        return actions


async def count_actions(connection: Connection, keys: Keys) -> dict[str, int]:
    """How many actions of each name there have been on this queue, whoever did them; also those with none."""
    counts = dict.fromkeys((*ACTIONS, OTHER_ACTION), 0)
    for name, count in (await connection.execute("HGETALL", keys.own("audit-counts"))).items():
        action, text = name.decode(errors="replace"), count.decode(errors="replace")
        if text.isascii() and text.isdecimal():
            counts[action if action in counts else OTHER_ACTION] += int(text)
    return counts
