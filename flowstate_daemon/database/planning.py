"""The calendar's planning in Postgres: where people live, what was planned when, and the slots of an occasion.

An occasion is one kind's hour on one local date in one zone. The planner asks, and runs by hand. One statement writes
the slots of all people concerned; nobody is loaded into memory, and any number of daemons may plan the same at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, TypeAlias

from flowstate_daemon.database.application import Application
from flowstate_daemon.database.queries import sql
from flowstate_daemon.database.schema import at_schema

Source: TypeAlias = Literal["clock", "hand", "forced"]

PLAN_S = 600.0  # a million people take seconds, and whoever plans the same beside us waits for them
PLACE = "{candidates}"
# Among the names of zones, but nobody lives there: the first is whatever clock this machine happens to show.
NO_PLACES = frozenset({"localtime", "Factory"})
# How people with something to say are found, and which tables of the application that takes.
CANDIDATES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "task-reminder": ("find_due", ("users", "tasks")),
    "overdue-summary": ("find_overdue", ("users", "tasks")),
    "focus-report": ("find_focus", ("users", "focus_sessions")),
}


@dataclass(frozen=True, slots=True)
class Occasion:
    """When a kind is due in one zone, from when on it is too late, and the window of its facts. Instants are aware."""

    zone: str
    local_date: date
    due_at: datetime
    expires_at: datetime
    begins_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody with something to say on one of the occasions asked about."""

    occasion: Occasion
    user_id: str
    item: str


@dataclass(frozen=True, slots=True)
class Planned:
    """What one planning has brought: tasks or sessions found, for how many people, and slots that are new."""

    found: int = 0
    people: int = 0
    slots: int = 0


@dataclass(frozen=True, slots=True)
class RoundTold:
    """The last round of a kind in a zone, with the number of its slots by state."""

    kind: str
    zone: str
    local_date: date
    due_at: datetime
    planned_at: datetime
    notices: int
    states: Mapping[str, int]


class Planning:
    """Writes the tables `rounds` and `notices`. `zones` are all that exist, `home` that of people who have none."""

    def __init__(self, application: Application, zones: Sequence[str], home: str) -> None:
        self._application = application
        self._pool = application.pool
        self._known = sorted({*zones} - NO_PLACES)
        self._home = home

    async def zones(self) -> list[str]:
        """Where people live, the zone of all others included. Raises Outage; Unreadable names what is missing."""
        async with self._application.reading(("users",)) as connection:
            rows = await connection.fetch(self._application.sql("list_zones"), self._known, timeout=PLAN_S)
        return sorted({self._home, *(row["zone"] for row in rows)})

    async def last_rounds(self, now: datetime) -> dict[tuple[str, str], datetime]:
        """When each kind was last due and planned, by kind and zone."""
        async with at_schema(self._pool) as connection:
            rows = await connection.fetch(sql("last_rounds"), now)
        return {(row["kind"], row["zone"]): row["due_at"] for row in rows}

    async def plan(self, kind: str, occasions: Sequence[Occasion], *, per_task: bool, now: datetime) -> Planned:
        """Plan what nobody has planned yet of these occasions, all or nothing. Raises Outage, Unreadable."""
        async with self._application.reading(CANDIDATES[kind][1]) as connection, connection.transaction():
            opened = await connection.fetch(
                sql("open_rounds"),
                kind,
                [occasion.zone for occasion in occasions],
                [occasion.local_date for occasion in occasions],
                [occasion.due_at for occasion in occasions],
                now,
                timeout=PLAN_S,
            )
            ours = {(row["zone"], row["local_date"]) for row in opened}
            left = [occasion for occasion in occasions if (occasion.zone, occasion.local_date) in ours]
            if not left:
                return Planned()
            return await self._write(connection, kind, left, per_task, "clock", now)

    async def plan_by_hand(self, kind: str, occasions: Sequence[Occasion], *, per_task: bool, now: datetime) -> Planned:
        """Plan these occasions besides the rounds of the clock; whoever has a slot on that local date gets no other."""
        async with self._application.reading(CANDIDATES[kind][1]) as connection:
            return await self._write(connection, kind, occasions, per_task, "hand", now)

    async def renew(self, kind: str, candidates: Sequence[Candidate], now: datetime) -> int:
        """Open slots that have ended once more: their mails go out again. Returns how many."""
        if not candidates:
            return 0
        occasion = candidates[0].occasion
        async with at_schema(self._pool) as connection:
            people, items = [one.user_id for one in candidates], [one.item for one in candidates]
            dates = [one.occasion.local_date for one in candidates]
            instants = (occasion.due_at, occasion.expires_at, now)
            return int(await connection.fetchval(sql("renew_notices"), kind, people, items, dates, *instants))

    async def candidates(
        self, kind: str, occasions: Sequence[Occasion], *, per_task: bool, after: Candidate | None, count: int
    ) -> list[Candidate]:
        """One page of the people for whom there is something to say; the next one begins `after` the last of this."""
        place = (after.user_id, after.item) if after else ("", "")
        zones = [occasion.zone for occasion in occasions]
        begins, ends = [one.begins_at for one in occasions], [one.ends_at for one in occasions]
        async with self._application.reading(CANDIDATES[kind][1]) as connection:
            text = self._text("find_candidates", kind)
            asked = (max(ends), min(begins), zones, begins, ends, self._known, self._home, per_task, *place, count)
            rows = await connection.fetch(text, *asked, timeout=PLAN_S)
        return [Candidate(occasions[row["number"] - 1], row["user_id"], row["item"]) for row in rows]

    async def standing(self, kind: str, candidates: Sequence[Candidate]) -> dict[tuple[str, str], str]:
        """What keeps a run by hand from these candidates, by person and item: the slots that they have already."""
        people, items = [one.user_id for one in candidates], [one.item for one in candidates]
        dates = [one.occasion.local_date for one in candidates]
        async with at_schema(self._pool) as connection:
            rows = await connection.fetch(sql("tell_slots"), kind, people, items, dates)
        return {(row["user_id"], row["item"]): _standing(row["state"], row["reason"]) for row in rows}

    async def tell(self, since: datetime) -> list[RoundTold]:
        """The last rounds that were planned since then, with what became of their slots."""
        async with at_schema(self._pool) as connection:
            rows = await connection.fetch(sql("tell_rounds"), since)
        told: dict[tuple[str, str], dict[str, Any]] = {}
        for row in rows:
            fields = dict(row)
            state, count = fields.pop("state"), fields.pop("count")
            one = told.setdefault((row["kind"], row["zone"]), {**fields, "states": {}})
            if state is not None:
                one["states"][state] = count
        return [RoundTold(**one) for one in told.values()]

    def _text(self, name: str, kind: str) -> str:
        finding = self._application.sql(CANDIDATES[kind][0])
        return self._application.sql(name).replace(PLACE, finding)

    async def _write(
        self, connection: Any, kind: str, occasions: Sequence[Occasion], per_task: bool, source: Source, now: datetime
    ) -> Planned:
        columns = zip(
            *((o.zone, o.local_date, o.due_at, o.expires_at, o.begins_at, o.ends_at) for o in occasions), strict=True
        )
        row = await connection.fetchrow(
            self._text("plan_notices", kind),
            max(occasion.ends_at for occasion in occasions),
            min(occasion.begins_at for occasion in occasions),
            kind,
            *map(list, columns),
            self._known,
            self._home,
            per_task,
            source,
            now,
            timeout=PLAN_S,
        )
        return Planned(row["found"], row["people"], row["planned"])


def _standing(state: str, reason: str | None) -> str:
    return f"already {state} for that date" + (f": {reason}" if reason else "")
