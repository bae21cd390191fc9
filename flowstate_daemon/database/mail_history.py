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

from flowstate_daemon.database.pool import normalise_address, schema_connection
from flowstate_daemon.database.queries import sql
from flowstate_daemon.mail.policy import Decision

MAX_MAILS = 100


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: how it ended, when, and the decisions before."""

    attempt: int
    outcome: str
    at: datetime
    reason: str | None
    provider_id: str | None
    chain: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class ProviderEventRow:
    """One event that the provider reported."""

    type: str
    at: datetime
    reason: str | None


@dataclass(frozen=True, slots=True)
class MailRecord:
    """One mail: the outcome of its last try, how far the provider brought it, what went badly, and all of it in order.

    `state` is the furthest of sent, delivery_delayed, delivered, opened or clicked; `marks` are of bounced,
    complained, failed, suppressed and stand beside it.
    """

    kind: str
    job_id: str
    outcome: str
    at: datetime
    state: str | None
    flags: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    events: tuple[ProviderEventRow, ...]


class MailHistory:
    """Answers why somebody got a mail, or none."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def explain(self, address: str, count: int = MAX_MAILS) -> list[MailRecord]:
        """The last mails to an address, newest first. Raises Outage."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("list_attempts"), normalise_address(address), count)
            ids = sorted({row["provider_id"] for row in rows if row["provider_id"]})
            received = await connection.fetch(sql("list_mail_events"), ids) if ids else []
            standings = await connection.fetch(sql("get_mail_status"), ids) if ids else []
        events: dict[str, list[ProviderEventRow]] = defaultdict(list)
        for row in received:
            events[row["provider_id"]].append(ProviderEventRow(row["type"], row["at"], row["reason"]))
        by_id = {row["provider_id"]: row for row in standings}
        return [_record(list(attempts), events, by_id) for _, attempts in groupby(rows, key=lambda row: row["mail"])]


def _record(rows: Sequence[Any], events: dict[str, list[ProviderEventRow]], standings: dict[str, Any]) -> MailRecord:
    last = rows[-1]
    ids = list(dict.fromkeys(row["provider_id"] for row in rows if row["provider_id"]))
    known = [standings[key] for key in ids if key in standings]
    return MailRecord(
        kind=last["kind"],
        job_id=last["job_id"],
        outcome=last["outcome"],
        at=last["at"],
        state=next((row["state"] for row in reversed(known) if row["state"]), None),
        flags=tuple(sorted({mark for row in known for mark in row["flags"]})),
        attempts=tuple(_try(row) for row in rows),
        events=tuple(_in_order(event for key in ids for event in events.get(key, []))),
    )


def _try(row: Any) -> Attempt:
    chain = tuple(Decision(**decision) for decision in row["chain"])
    return Attempt(row["attempt"], row["outcome"], row["at"], row["reason"], row["provider_id"], chain)


def _in_order(events: Iterable[ProviderEventRow]) -> list[ProviderEventRow]:
    return sorted(events, key=lambda event: event.at)
