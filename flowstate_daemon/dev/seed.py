"""Creates the application's tables in an embedded database, and the sample users of `sample_data.py`.

The same `now` always writes the same rows. Only the sample users' own rows are replaced, so running it twice, or on
the wrong database, does no harm.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, time, timedelta
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5
from zoneinfo import ZoneInfo

import asyncpg

from flowstate_daemon.dev.sample_data import SAMPLE_USERS, SampleUser

DOMAIN = "flowstate.example"
DUE_TIME = time(17, 0)
FOCUS_TIME = time(10, 0)
WEEKDAYS = ["monday", "wednesday", "friday"]
COLUMNS = {
    "users": "id email password fullName isEmailVerified preferences createdAt updatedAt deletedAt",
    "projects": "id userId name description deadline progress createdAt updatedAt",
    "project_members": "id projectId userId role joinedAt",
    "goals": "id userId projectId title type targetDate progress createdAt updatedAt",
    "habits": "id userId goalId name schedule streakCurrent streakBest createdAt updatedAt",
    "tasks": "id userId title isCompleted dueDate priority tags createdAt updatedAt deletedAt projectId"
    " estimatedDuration",
    "focus_sessions": "id userId taskId plannedDuration actualDuration startTime endTime focusRating createdAt",
}
Row = tuple[Any, ...]


def email_of(name: str) -> str:
    return f"{name}@{DOMAIN}"


def stable_id(*path: object) -> str:
    """The id of a row, the same on every machine."""
    return str(uuid5(NAMESPACE_URL, "/".join((DOMAIN, *map(str, path)))))


async def seed_database(server: str, database: str, now: datetime) -> int:
    """Create the database if missing, its tables and the sample users; returns the number of users."""
    async with _connected(server) as connection:
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
            await connection.execute(f'CREATE DATABASE "{database}"')
    url = urlsplit(server)._replace(path=f"/{database}").geturl()
    await create_tables(url)
    await add_users(url, now)
    return len(SAMPLE_USERS)


async def create_tables(url: str) -> None:
    """Create the application's tables that are missing."""
    statements = files(__package__).joinpath("flowstate_tables.sql").read_text(encoding="utf-8")
    async with _connected(url) as connection:
        await connection.execute(statements)


async def add_users(url: str, now: datetime, users: Sequence[SampleUser] = SAMPLE_USERS) -> None:
    """Write the users as of `now`, replacing what an earlier call wrote about them."""
    rows: dict[str, list[Row]] = {table: [] for table in COLUMNS}
    for user in users:
        for table, user_table_rows in user_rows(user, now).items():
            rows[table].extend(user_table_rows)
    async with _connected(url) as connection, connection.transaction():
        await connection.execute("DELETE FROM users WHERE id = ANY($1)", [row[0] for row in rows["users"]])
        for table, columns in COLUMNS.items():
            await connection.copy_records_to_table(table, columns=columns.split(), records=rows[table])


def user_rows(user: SampleUser, now: datetime) -> dict[str, Iterable[Row]]:
    """All rows of one user, by table. Pure."""
    return {
        "users": [_user(user, _utc(now))],
        "projects": _projects(user, now),
        "project_members": _memberships(user, now),
        "goals": _goals(user, now),
        "habits": _habits(user, now),
        "tasks": _tasks(user, now),
        "focus_sessions": _sessions(user, now),
    }


def _user(user: SampleUser, now: datetime) -> Row:
    preferences = None if user.preferences is None else json.dumps(user.preferences)
    joined, deleted_at = now - timedelta(days=90), now - timedelta(days=1) if user.deleted else None
    key, address = stable_id(user.name), email_of(user.name)
    return key, address, "no password", user.full_name, user.verified, preferences, joined, now, deleted_at


def _projects(user: SampleUser, now: datetime) -> Iterable[Row]:
    at, deadline = _utc(now), _local(user, now, 30, DUE_TIME)
    for name in user.projects:
        yield (
            stable_id(user.name, "project", name),
            stable_id(user.name),
            name,
            f"About {name}",
            deadline,
            0.4,
            at,
            at,
        )


def _memberships(user: SampleUser, now: datetime) -> Iterable[Row]:
    for name in user.projects:
        project = stable_id(user.name, "project", name)
        yield stable_id(user.name, "member", name), project, stable_id(user.name), "owner", _utc(now)


def _goals(user: SampleUser, now: datetime) -> Iterable[Row]:
    at, target = _utc(now), _local(user, now, 60, DUE_TIME)
    for name in user.projects:
        owner, project = stable_id(user.name), stable_id(user.name, "project", name)
        yield stable_id(user.name, "goal", name), owner, project, f"Finish {name}", "project", target, 0.5, at, at


def _habits(user: SampleUser, now: datetime) -> Iterable[Row]:
    at, schedule = _utc(now), json.dumps({"days": WEEKDAYS, "time": "07:30"})
    for name, streak in (user.habits or {}).items():
        yield (
            stable_id(user.name, "habit", name),
            stable_id(user.name),
            None,
            name,
            schedule,
            streak,
            streak + 5,
            at,
            at,
        )


def _tasks(user: SampleUser, now: datetime) -> Iterable[Row]:
    at = _utc(now)
    for task in user.tasks:
        due = None if task.due_in is None else _local(user, now, task.due_in, DUE_TIME)
        project = stable_id(user.name, "project", task.project) if task.project else None
        key, owner, deleted_at = (
            stable_id(user.name, "task", task.title),
            stable_id(user.name),
            at if task.deleted else None,
        )
        tags = [task.project.lower()] if task.project else []
        yield key, owner, task.title, task.done, due, task.priority, tags, at, at, deleted_at, project, task.minutes


def _sessions(user: SampleUser, now: datetime) -> Iterable[Row]:
    for number, session in enumerate(user.sessions):
        start = _local(user, now, -session.days_ago, FOCUS_TIME)
        end = None if session.actual is None else start + timedelta(minutes=session.actual)
        key, owner = stable_id(user.name, "session", number), stable_id(user.name)
        task = stable_id(user.name, "task", session.task) if session.task else None
        yield key, owner, task, session.planned, session.actual, start, end, session.rating, start


def _utc(instant: datetime) -> datetime:
    """UTC without a time zone, as the application stores it."""
    return instant.astimezone(UTC).replace(tzinfo=None)


def _local(user: SampleUser, now: datetime, days: int, at: time) -> datetime:
    """A time of day in the user's time zone, `days` from today there."""
    zone = ZoneInfo(user.zone)
    day = now.astimezone(zone).date() + timedelta(days=days)
    return _utc(datetime.combine(day, at, zone))


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
