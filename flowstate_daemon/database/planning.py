"""The calendar's planning in Postgres: where people live, what was planned when, and the slots of an occasion.

An occasion is one kind's hour on one local date in one zone. The planner asks, and runs by hand. One statement writes
the slots of all people concerned; nobody is loaded into memory, and any number of daemons may plan the same at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, TypeAlias

from flowstate_daemon.database.app_database import AppDatabase
from flowstate_daemon.database.pool import schema_connection
from flowstate_daemon.database.queries import sql

Source: TypeAlias = Literal["clock", "hand", "forced"]

PLAN_TIMEOUT_S = 600.0  # a million people take seconds, and whoever plans the same beside us waits for them
CANDIDATES_PLACEHOLDER = "{candidates}"
# Among the names of zones, but nobody lives there: the first is whatever clock this machine happens to show.
NON_ZONES = frozenset({"localtime", "Factory"})
# How people with something to say are found, and which tables of the application that takes.
CANDIDATES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "task-reminder": ("find_task_reminder_recipients", ("users", "tasks")),
    "overdue-summary": ("find_overdue_summary_recipients", ("users", "tasks")),
    "focus-report": ("find_focus_report_recipients", ("users", "focus_sessions")),
}


@dataclass(frozen=True, slots=True)
class Occurrence:
    """When a kind is due in one zone, from when on it is too late, and the window of its facts. Instants are aware."""

    zone: str
    local_date: date
    due_at: datetime
    expires_at: datetime
    begins_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Recipient:
    """Somebody with something to say on one of the occasions asked about."""

    occurrence: Occurrence
    user_id: str
    task_id: str


@dataclass(frozen=True, slots=True)
class PlanResult:
    """What one planning has brought: tasks or sessions found, for how many people, and slots that are new."""

    found: int = 0
    recipients: int = 0
    scheduled: int = 0


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The last round of a kind in a zone, with the number of its slots by state."""

    kind: str
    zone: str
    local_date: date
    due_at: datetime
    planned_at: datetime
    scheduled_mails: int
    states: Mapping[str, int]


class Planning:
    """Writes the tables `rounds` and `notices`. `zones` are all that exist, `home` that of people who have none."""

    def __init__(self, application: AppDatabase, zones: Sequence[str], home: str) -> None:
        self._application = application
        self._pool = application.pool
        self._known = sorted({*zones} - NON_ZONES)
        self._home = home

    async def zones(self) -> list[str]:
        """Where people live, the zone of all others included. Raises Outage; Unreadable names what is missing."""
        async with self._application.connection(("users",)) as connection:
            rows = await connection.fetch(self._application.sql("list_zones"), self._known, timeout=PLAN_TIMEOUT_S)
        return sorted({self._home, *(row["zone"] for row in rows)})

    async def last_runs(self, now: datetime) -> dict[tuple[str, str], datetime]:
        """When each kind was last due and planned, by kind and zone."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("list_last_runs"), now)
        return {(row["kind"], row["zone"]): row["due_at"] for row in rows}

    async def plan(self, kind: str, occurrences: Sequence[Occurrence], *, per_task: bool, now: datetime) -> PlanResult:
        """Plan what nobody has planned yet of these occasions, all or nothing. Raises Outage, Unreadable."""
        async with self._application.connection(CANDIDATES[kind][1]) as connection, connection.transaction():
            opened = await connection.fetch(
                sql("insert_runs"),
                kind,
                [occurrence.zone for occurrence in occurrences],
                [occurrence.local_date for occurrence in occurrences],
                [occurrence.due_at for occurrence in occurrences],
                now,
                timeout=PLAN_TIMEOUT_S,
            )
            own = {(row["zone"], row["local_date"]) for row in opened}
            left = [occurrence for occurrence in occurrences if (occurrence.zone, occurrence.local_date) in own]
            if not left:
                return PlanResult()
            return await self._write(connection, kind, left, per_task, "clock", now)

    async def plan_manual(
        self, kind: str, occurrences: Sequence[Occurrence], *, per_task: bool, now: datetime
    ) -> PlanResult:
        """Plan these occasions besides the rounds of the clock; whoever has a slot on that local date gets no other."""
        async with self._application.connection(CANDIDATES[kind][1]) as connection:
            return await self._write(connection, kind, occurrences, per_task, "hand", now)

    async def reopen(self, kind: str, candidates: Sequence[Recipient], now: datetime) -> int:
        """Open slots that have ended once more: their mails go out again. Returns how many."""
        if not candidates:
            return 0
        occurrence = candidates[0].occurrence
        async with schema_connection(self._pool) as connection:
            recipients, items = [one.user_id for one in candidates], [one.task_id for one in candidates]
            dates = [one.occurrence.local_date for one in candidates]
            instants = (occurrence.due_at, occurrence.expires_at, now)
            return int(
                await connection.fetchval(sql("reopen_scheduled_mails"), kind, recipients, items, dates, *instants)
            )

    async def recipients(
        self, kind: str, occurrences: Sequence[Occurrence], *, per_task: bool, after: Recipient | None, count: int
    ) -> list[Recipient]:
        """One page of the people for whom there is something to say; the next one begins `after` the last of this."""
        place = (after.user_id, after.task_id) if after else ("", "")
        zones = [occurrence.zone for occurrence in occurrences]
        begins, ends = [one.begins_at for one in occurrences], [one.ends_at for one in occurrences]
        async with self._application.connection(CANDIDATES[kind][1]) as connection:
            text = self._text("list_recipients", kind)
            asked = (max(ends), min(begins), zones, begins, ends, self._known, self._home, per_task, *place, count)
            rows = await connection.fetch(text, *asked, timeout=PLAN_TIMEOUT_S)
        return [Recipient(occurrences[row["number"] - 1], row["user_id"], row["task_id"]) for row in rows]

    async def existing_states(self, kind: str, candidates: Sequence[Recipient]) -> dict[tuple[str, str], str]:
        """What keeps a run by hand from these candidates, by person and item: the slots that they have already."""
        recipients, items = [one.user_id for one in candidates], [one.task_id for one in candidates]
        dates = [one.occurrence.local_date for one in candidates]
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("get_scheduled_states"), kind, recipients, items, dates)
        return {(row["user_id"], row["task_id"]): _standing(row["state"], row["reason"]) for row in rows}

    async def recent_runs(self, since: datetime) -> list[RunSummary]:
        """The last rounds that were planned since then, with what became of their slots."""
        async with schema_connection(self._pool) as connection:
            rows = await connection.fetch(sql("list_schedule_runs"), since)
        output: dict[tuple[str, str], dict[str, Any]] = {}
        for row in rows:
            fields = dict(row)
            state, count = fields.pop("state"), fields.pop("count")
            one = output.setdefault((row["kind"], row["zone"]), {**fields, "states": {}})
            if state is not None:
                one["states"][state] = count
        return [RunSummary(**one) for one in output.values()]

    def _text(self, name: str, kind: str) -> str:
        finding = self._application.sql(CANDIDATES[kind][0])
        return self._application.sql(name).replace(CANDIDATES_PLACEHOLDER, finding)

    async def _write(
        self,
        connection: Any,
        kind: str,
        occurrences: Sequence[Occurrence],
        per_task: bool,
        source: Source,
        now: datetime,
    ) -> PlanResult:
        columns = zip(
            *((o.zone, o.local_date, o.due_at, o.expires_at, o.begins_at, o.ends_at) for o in occurrences), strict=True
        )
        row = await connection.fetchrow(
            self._text("insert_scheduled_mails", kind),
            max(occurrence.ends_at for occurrence in occurrences),
            min(occurrence.begins_at for occurrence in occurrences),
            kind,
            *map(list, columns),
            self._known,
            self._home,
            per_task,
            source,
            now,
            timeout=PLAN_TIMEOUT_S,
        )
        return PlanResult(row["found"], row["people"], row["planned"])


def _standing(state: str, reason: str | None) -> str:
    return f"already {state} for that date" + (f": {reason}" if reason else "")
