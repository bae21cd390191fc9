"""Reads the ledger: the emails to an address, with their attempts, the decisions about them, and provider events.

`flowstate-daemon explain` and the web API use it. It never writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

import asyncpg

from flowstate_daemon.base.address import normalise_address
from flowstate_daemon.database.pool import schema_connection
from flowstate_daemon.database.queries import sql
from flowstate_daemon.mail.policy import Decision

MAX_MAILS = 100


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: its outcome, its time, and the decisions that led to it."""

    attempt: int
    outcome: str
    at: datetime
    reason: str | None
    provider_id: str | None
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class ProviderEventRow:
    """One event that the provider reported."""

    type: str
    at: datetime
    reason: str | None


@dataclass(frozen=True, slots=True)
class MailRecord:
    """One email: the outcome of its last attempt, its delivery state, and all attempts and events in order.

    `state` is the furthest of sent, delivery_delayed, delivered, opened and clicked; `flags` holds those of bounced,
    complained, failed and suppressed that were reported, in addition to the state.
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
    """Explains why an address got an email, or none."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def explain(self, address: str, count: int = MAX_MAILS) -> list[MailRecord]:
        """The last emails to an address, newest first. Raises StoreUnavailableError."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("list_attempts"), normalise_address(address), count)
            return await build_records(connection, rows)


async def build_records(connection: asyncpg.Connection, rows: Sequence[Any]) -> list[MailRecord]:
    """The emails of these attempts, which are grouped by email, with what the provider reported about them."""
    ids = sorted({row["provider_id"] for row in rows if row["provider_id"]})
    received = await connection.fetch(sql("list_mail_events"), ids) if ids else []
    statuses = await connection.fetch(sql("get_mail_status"), ids) if ids else []
    events: dict[str, list[ProviderEventRow]] = defaultdict(list)
    for row in received:
        events[row["provider_id"]].append(ProviderEventRow(row["type"], row["at"], row["reason"]))
    by_id = {row["provider_id"]: row for row in statuses}
    return [_record(list(attempts), events, by_id) for _, attempts in groupby(rows, key=lambda row: row["mail"])]


def _record(rows: Sequence[Any], events: dict[str, list[ProviderEventRow]], statuses: dict[str, Any]) -> MailRecord:
    last = rows[-1]
    ids = list(dict.fromkeys(row["provider_id"] for row in rows if row["provider_id"]))
    known = [statuses[key] for key in ids if key in statuses]
    return MailRecord(
        kind=last["kind"],
        job_id=last["job_id"],
        outcome=last["outcome"],
        at=last["at"],
        state=next((row["state"] for row in reversed(known) if row["state"]), None),
        flags=tuple(sorted({flag for row in known for flag in row["flags"]})),
        attempts=tuple(_attempt(row) for row in rows),
        events=tuple(_in_order(event for key in ids for event in events.get(key, []))),
    )


def _attempt(row: Any) -> Attempt:
    decisions = tuple(Decision(**decision) for decision in row["decisions"])
    return Attempt(row["attempt"], row["outcome"], row["at"], row["reason"], row["provider_id"], decisions)


def _in_order(events: Iterable[ProviderEventRow]) -> list[ProviderEventRow]:
    return sorted(events, key=lambda event: event.at)
