"""Reads the application's users, tasks and focus sessions, for many users at a time.

The scheduler reads them just before it builds emails. Nothing here decides who gets an email, and nothing is written.
Each method is one query, two for the weekly focus report and for users by address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

from flowstate_daemon.database.app_database import AppDatabase

MAX_USERS_PER_QUERY = 500
MAX_DUE_TASKS = 50
MAX_OVERDUE_TASKS = 10
MAX_FOCUS_TASKS = 3
WEEK = timedelta(days=7)
LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*")
# The key of each kind in the application's notification preferences.
NOTIFICATIONS: Mapping[str, str] = {
    "task-reminder": "taskReminders",
    "overdue-summary": "overdueSummary",
    "focus-report": "focusReport",
}


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """An interval of one user's data, `ends_at` exclusive; `task_id` limits it to one task. Instants are aware."""

    user_id: str
    begins_at: datetime
    ends_at: datetime
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    task_id: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """A user as the application stores them. `language` and `zone` are unchecked, None when not set."""

    user_id: str
    email: str = field(repr=False)
    full_name: str | None = field(repr=False)
    verified: bool
    deleted: bool
    language: str | None
    zone: str | None
    enabled_notifications: frozenset[str]


@dataclass(frozen=True, slots=True)
class Task:
    """One task; an empty title is None."""

    id: str
    title: str | None = field(repr=False)
    project: str | None = field(default=None, repr=False)
    priority: int | None = None
    minutes: int | None = None
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TaskList:
    """The first few of `total` tasks. Two lists of overdue tasks with one `fingerprint` are the same."""

    total: int
    items: tuple[Task, ...]
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Focus:
    """Totals of sessions; `ratings` is the sum of the ratings of the `rated` sessions."""

    sessions: int = 0
    minutes: int = 0
    rated: int = 0
    ratings: int = 0

    def __add__(self, other: Focus) -> Focus:
        return Focus(
            self.sessions + other.sessions,
            self.minutes + other.minutes,
            self.rated + other.rated,
            self.ratings + other.ratings,
        )


NO_FOCUS = Focus()


@dataclass(frozen=True, slots=True)
class FocusByTask:
    """Minutes of one task. `task_id` None: those of all sessions without a task."""

    task_id: str | None
    title: str | None = field(repr=False)
    minutes: int = 0


@dataclass(frozen=True, slots=True)
class FocusWeek:
    """Totals of a week, of the week before it, of its days by ISO weekday (1 is Monday), and its top tasks."""

    week: Focus
    before: Focus
    days: Mapping[int, Focus]
    top: tuple[FocusByTask, ...]


class AppData:
    """Reads data of up to MAX_USERS_PER_QUERY users at a time; users without data are missing in the results.

    All methods raise StoreUnavailableError; AppTablesUnavailableError names what a query cannot read.
    """

    def __init__(self, database: AppDatabase) -> None:
        self._database = database

    async def users(self, ids: Sequence[str]) -> dict[str, User]:
        """Users by id, deleted ones included; unknown ids are missing."""
        rows = await self._fetch("get_users", ("users",), list(ids), list(NOTIFICATIONS.values()))
        return {row["user_id"]: _user(row) for row in rows}

    async def users_with(self, addresses: Sequence[str]) -> list[User]:
        """The users with one of these addresses, in exactly these spellings; deleted users included."""
        rows = await self._fetch("find_users", ("users",), list(addresses))
        return list((await self.users([row["user_id"] for row in rows])).values())

    async def tasks_due(self, windows: Sequence[TimeWindow], limit: int = MAX_DUE_TASKS) -> dict[TimeWindow, TaskList]:
        """Open tasks due inside each window, the earliest first."""
        columns = zip(*((w.user_id, w.begins_at, w.ends_at, w.task_id) for w in windows), strict=True)
        rows = await self._fetch("list_due_tasks", ("tasks", "projects"), *map(list, columns), limit) if windows else []
        return {windows[number - 1]: _tasks(group) for number, group in groupby(rows, key=lambda row: row["number"])}

    async def tasks_overdue(self, windows: Sequence[TimeWindow], limit: int = MAX_OVERDUE_TASKS) -> dict[str, TaskList]:
        """Open tasks due before each window's end, by user, the oldest first; the total counts all of them."""
        ends = [window.ends_at for window in windows]
        rows = await self._fetch("list_overdue_tasks", ("tasks", "projects"), _ids(windows), ends, limit)
        return {user_id: _tasks(group) for user_id, group in groupby(rows, key=lambda row: row["user_id"])}

    async def focus_weeks(self, windows: Sequence[TimeWindow], limit: int = MAX_FOCUS_TASKS) -> dict[str, FocusWeek]:
        """Totals of sessions begun inside each window, by user, and in the week before it."""
        boundaries = {window.user_id: week_boundaries(window) for window in windows}
        ids = [user_id for user_id, instants in boundaries.items() for _ in instants]
        instants = [instant for list_ in boundaries.values() for instant in list_]
        tables = ("focus_sessions", "tasks")
        days = await self._fetch("list_focus_by_day", tables, ids, instants)
        begins, ends = [window.begins_at for window in windows], [window.ends_at for window in windows]
        top = await self._fetch("list_focus_by_task", tables, _ids(windows), begins, ends, limit)
        tops = {user_id: list(rows) for user_id, rows in groupby(top, key=lambda row: row["user_id"])}
        by_id = {window.user_id: window for window in windows}
        return {
            user_id: _focus_week(by_id[user_id], rows, tops.get(user_id, []))
            for user_id, rows in groupby(days, key=lambda row: row["user_id"])
        }

    async def _fetch(self, name: str, tables: Iterable[str], *arguments: Any) -> list[Any]:
        async with self._database.connection(tables) as connection:
            return list(await connection.fetch(self._database.sql(name), *arguments))


def week_boundaries(window: TimeWindow) -> list[datetime]:
    """The boundaries of a window's intervals: the week before it, then one interval for each local day."""
    boundaries = [_days_before(window.begins_at, window.zone, WEEK), window.begins_at]
    day = window.begins_at.astimezone(window.zone).date() + timedelta(days=1)
    while (midnight := start_of_day(day, window.zone)) < window.ends_at:
        boundaries.append(midnight)
        day += timedelta(days=1)
    return [*boundaries, window.ends_at]


def start_of_day(day: date, zone: ZoneInfo) -> datetime:
    """The instant at which a local day begins; where midnight does not exist, the first instant after it."""
    return datetime.combine(day, time.min, zone).astimezone(UTC)


def _days_before(instant: datetime, zone: ZoneInfo, span: timedelta) -> datetime:
    """The same local time some days earlier, also across clock changes."""
    return (instant.astimezone(zone) - span).astimezone(UTC)


def _ids(windows: Iterable[TimeWindow]) -> list[str]:
    return [window.user_id for window in windows]


def _user(row: Any) -> User:
    language, refused = row["language"], set(row["refused"])
    return User(
        user_id=row["user_id"],
        email=row["email"] or "",
        full_name=row["full_name"],
        verified=row["verified"],
        deleted=row["deleted"],
        language=language if language is not None and LANGUAGE.fullmatch(language) else None,
        zone=row["zone"] or None,
        enabled_notifications=frozenset(kind for kind, name in NOTIFICATIONS.items() if name not in refused),
    )


def _tasks(rows: Iterable[Any]) -> TaskList:
    found = list(rows)
    return TaskList(found[0]["total"], tuple(_task(dict(row)) for row in found), found[0].get("fingerprint") or "")


def _task(row: dict[str, Any]) -> Task:
    due_at = row.get("due_at")
    return Task(
        id=row["id"],
        title=row["title"] or None,
        project=row.get("project"),
        priority=row.get("priority"),
        minutes=row.get("minutes"),
        due_at=None if due_at is None else due_at.replace(tzinfo=UTC),
    )


def _focus_week(window: TimeWindow, rows: Iterable[Any], top: Iterable[Any]) -> FocusWeek:
    """Interval 1 is the week before; a weekday that begins and ends the week has two intervals."""
    week = before = NO_FOCUS
    days: dict[int, Focus] = {}
    first = window.begins_at.astimezone(window.zone).date()
    for row in rows:
        focus = Focus(row["sessions"], row["minutes"], row["rated"], row["ratings"])
        if row["interval_number"] == 1:
            before = focus
            continue
        week += focus
        weekday = (first + timedelta(days=row["interval_number"] - 2)).isoweekday()
        days[weekday] = days.get(weekday, NO_FOCUS) + focus
    return FocusWeek(
        week, before, days, tuple(FocusByTask(r["task_id"], r["title"] or None, r["minutes"]) for r in top)
    )
