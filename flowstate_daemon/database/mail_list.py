"""Lists and counts of the ledger, for operators. `mail_history.py` explains the emails of one address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal, get_args

import asyncpg

from flowstate_daemon.base.address import normalise_address
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.text import storable
from flowstate_daemon.database.mail_history import MailRecord, build_records
from flowstate_daemon.database.pool import schema_connection
from flowstate_daemon.database.queries import sql

QUERY_TIMEOUT_S = 10.0
MAX_FILTER_LENGTH = 200
EXAMINE_BATCH = 10_000  # rows that one query looks at: about 15 ms
PAGE_BUDGET_S = 0.1  # the first byte of a page is sent within 200 ms
SCOPE = "{scope}"
OutcomeName = Literal["sent", "skipped", "expired", "failed", "retried", "removed"]
OUTCOME_NAMES: tuple[OutcomeName, ...] = get_args(OutcomeName)
OF_ADDRESS, UNSENT = "AND address = $3::text", "AND outcome <> 'sent'"


@dataclass(frozen=True, slots=True)
class OutcomeFilter:
    """Every member that is set must match. `reason` must be contained in the reason, whatever its case."""

    kinds: Sequence[str] = ()
    outcomes: Sequence[str] = ()
    address: str = field(default="", repr=False)
    reason: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """One outcome of one attempt. `mail` identifies the email in the ledger."""

    key: str
    mail: str
    at: datetime
    address: str = field(repr=False)
    kind: str
    job_id: str
    attempt: int
    outcome: str
    provider_id: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class LedgerPosition:
    """A row of the ledger, for the page that begins after it."""

    at: datetime
    key: str
    outcome: str


@dataclass(frozen=True, slots=True)
class OutcomePage:
    """Some matching outcomes; `following` continues after them, None at the end.

    When `is_partial`, time ran out before the page was full; all newer than `following` were examined.
    """

    rows: tuple[OutcomeRow, ...]
    following: LedgerPosition | None = None
    is_partial: bool = False


@dataclass(frozen=True, slots=True)
class EventCount:
    """How many events of one type were reported; `newest_at` is the provider's time of the newest."""

    type: str
    count: int
    newest_at: datetime


@dataclass(frozen=True, slots=True)
class ScheduledCount:
    """How many scheduled emails of one kind, zone and local date are in a state for a reason."""

    kind: str
    zone: str
    local_date: date
    state: str
    reason: str | None
    count: int
    due_at: datetime


class MailList:
    """Reads the ledger across addresses. Methods raise StoreUnavailableError; a slow query is one."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def page(
        self,
        wanted: OutcomeFilter,
        count: int,
        after: LedgerPosition | None = None,
        *,
        budget_s: float = PAGE_BUDGET_S,
    ) -> OutcomePage:
        """The newest outcomes that match, after a position. After `budget_s` it returns what it has found so far."""
        query = sql("list_outcomes").replace(SCOPE, scope_of(wanted))
        needs_search = bool(wanted.kinds or wanted.outcomes or wanted.reason)
        deadline = self._clock.monotonic() + budget_s
        found: list[OutcomeRow] = []
        async with schema_connection(self._pool) as connection:
            while True:
                most = EXAMINE_BATCH if needs_search else count - len(found)
                arguments = filter_arguments(wanted, after, count - len(found), most)
                rows = await connection.fetch(query, *arguments, timeout=QUERY_TIMEOUT_S)
                found += [build_row(row) for row in rows if row["matches"]]
                if not rows:
                    return OutcomePage(tuple(found))
                last = rows[-1]
                after = LedgerPosition(last["at"], last["key"], last["outcome"])
                if last["number"] == last["examined"] < most:
                    return OutcomePage(tuple(found))
                is_full = len(found) >= count
                if is_full or self._clock.monotonic() > deadline:
                    return OutcomePage(tuple(found), after, is_partial=not is_full)

    async def mail(self, mail: str) -> tuple[str, MailRecord] | None:
        """One email with its address, attempts and events; None when the ledger does not have it."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("list_mail_attempts"), mail, timeout=QUERY_TIMEOUT_S)
            records = await build_records(connection, rows)
        return (rows[0]["address"], records[0]) if rows else None

    async def events_since(self, since: datetime) -> list[EventCount]:
        """What the provider has reported, by type."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("count_provider_events"), since, timeout=QUERY_TIMEOUT_S)
        return [EventCount(**row) for row in rows]

    async def outcomes_since(self, since: datetime) -> Mapping[str, int]:
        """How many attempts had each outcome."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("count_outcomes"), since, timeout=QUERY_TIMEOUT_S)
        return {row["outcome"]: row["count"] for row in rows}

    async def scheduled(self, since: datetime, until: datetime) -> list[ScheduledCount]:
        """What became of the scheduled emails that were due in that time."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("count_scheduled_mails"), since, until, timeout=QUERY_TIMEOUT_S)
        return [ScheduledCount(**row) for row in rows]


def scope_of(wanted: OutcomeFilter) -> str:
    """The condition that an index serves and that leaves the fewest rows to examine. Pure."""
    if wanted.address:
        return OF_ADDRESS
    return UNSENT if wanted.outcomes and "sent" not in wanted.outcomes else ""


def filter_arguments(wanted: OutcomeFilter, after: LedgerPosition | None, count: int, most: int) -> tuple[Any, ...]:
    """The parameters of `list_outcomes`. Pure."""
    return (
        list(wanted.kinds) or None,
        list(wanted.outcomes) or None,
        normalise_address(wanted.address) if wanted.address else None,
        storable(wanted.reason, MAX_FILTER_LENGTH) or None,
        wanted.since,
        wanted.until,
        after.at if after else None,
        after.key if after else "",
        after.outcome if after else "",
        count,
        most,
    )


def build_row(row: Mapping[str, Any]) -> OutcomeRow:
    return OutcomeRow(**{name: row[name] for name in OutcomeRow.__slots__})
