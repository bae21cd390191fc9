"""The ledger's reading side: every mail of a person, with what was decided on its way and what the provider said.

`cli explain` asks, later also the web. Nothing here writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

import asyncpg

from flowstate_daemon.database.outcome import Decision
from flowstate_daemon.database.queries import sql
from flowstate_daemon.database.schema import at_schema, normalised

MOST = 100


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt: how it ended, when, and the decisions before."""

    attempt: int
    outcome: str
    at: datetime
    reason: str | None
    provider_id: str | None
    chain: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """One event that the provider reported."""

    type: str
    at: datetime
    reason: str | None


@dataclass(frozen=True, slots=True)
class MailStory:
    """One mail: the outcome of its last try, how far the provider brought it, what went badly, and all of it in order.

    `state` is the furthest of sent, delivery_delayed, delivered, opened or clicked; `marks` are of bounced,
    complained, failed, suppressed and stand beside it.
    """

    kind: str
    job_id: str
    outcome: str
    at: datetime
    state: str | None
    marks: tuple[str, ...]
    tries: tuple[Try, ...]
    events: tuple[Heard, ...]


class Stories:
    """Answers why somebody got a mail, or none."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def explain(self, address: str, count: int = MOST) -> list[MailStory]:
        """The last mails to an address, newest first. Raises Outage."""
        async with at_schema(self._pool) as connection:
            rows = await connection.fetch(sql("tell_tries"), normalised(address), count)
            ids = sorted({row["provider_id"] for row in rows if row["provider_id"]})
            heard = await connection.fetch(sql("tell_events"), ids) if ids else []
            standings = await connection.fetch(sql("tell_standings"), ids) if ids else []
        events: dict[str, list[Heard]] = defaultdict(list)
        for row in heard:
            events[row["provider_id"]].append(Heard(row["type"], row["at"], row["reason"]))
        by_id = {row["provider_id"]: row for row in standings}
        return [_story(list(tries), events, by_id) for _, tries in groupby(rows, key=lambda row: row["mail"])]


def _story(rows: Sequence[Any], events: dict[str, list[Heard]], standings: dict[str, Any]) -> MailStory:
    last = rows[-1]
    ids = list(dict.fromkeys(row["provider_id"] for row in rows if row["provider_id"]))
    known = [standings[key] for key in ids if key in standings]
    return MailStory(
        kind=last["kind"],
        job_id=last["job_id"],
        outcome=last["outcome"],
        at=last["at"],
        state=next((row["state"] for row in reversed(known) if row["state"]), None),
        marks=tuple(sorted({mark for row in known for mark in row["marks"]})),
        tries=tuple(_try(row) for row in rows),
        events=tuple(_in_order(event for key in ids for event in events.get(key, []))),
    )


def _try(row: Any) -> Try:
    chain = tuple(Decision(**decision) for decision in row["chain"])
    return Try(row["attempt"], row["outcome"], row["at"], row["reason"], row["provider_id"], chain)


def _in_order(events: Iterable[Heard]) -> list[Heard]:
    return sorted(events, key=lambda event: event.at)
