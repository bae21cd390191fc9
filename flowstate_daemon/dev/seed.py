"""Fills an embedded database: the application's tables, and the sample people of `people.py`.

`flowstate-daemon dev` and the tests call it. The same `now` always writes the same rows. It replaces its own people
and touches nobody else's, so that seeding twice, or by mistake somewhere else, does no harm.
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


def stable_id(*place: object) -> str:
    """The id of a row: the same on every machine."""
    return str(uuid5(NAMESPACE_URL, "/".join((DOMAIN, *map(str, place)))))


async def seed_database(server: str, database: str, now: datetime) -> int:
    """Make the database on the server unless it is there, and its tables and people. Returns how many people."""
    async with _connected(server) as connection:
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
            await connection.execute(f'CREATE DATABASE "{database}"')
    url = urlsplit(server)._replace(path=f"/{database}").geturl()
    await create_tables(url)
    await add_users(url, now)
    return len(SAMPLE_USERS)


async def create_tables(url: str) -> None:
    """Make the application's tables where they are missing."""
    statements = files(__package__).joinpath("flowstate_tables.sql").read_text(encoding="utf-8")
    async with _connected(url) as connection:
        await connection.execute(statements)


async def add_users(url: str, now: datetime, recipients: Sequence[SampleUser] = SAMPLE_USERS) -> None:
    """Write the people as of `now`, in place of what an earlier call wrote about them."""
    rows: dict[str, list[Row]] = {table: [] for table in COLUMNS}
    for recipient in recipients:
        for table, written in user_rows(recipient, now).items():
            rows[table].extend(written)
    async with _connected(url) as connection, connection.transaction():
        await connection.execute("DELETE FROM users WHERE id = ANY($1)", [row[0] for row in rows["users"]])
        for table, columns in COLUMNS.items():
            await connection.copy_records_to_table(table, columns=columns.split(), records=rows[table])


def user_rows(recipient: SampleUser, now: datetime) -> dict[str, Iterable[Row]]:
    """All that is stored about one person. Pure."""
    return {
        "users": [_user(recipient, _utc(now))],
        "projects": _projects(recipient, now),
        "project_members": _memberships(recipient, now),
        "goals": _goals(recipient, now),
        "habits": _habits(recipient, now),
        "tasks": _tasks(recipient, now),
        "focus_sessions": _sessions(recipient, now),
    }


def _user(recipient: SampleUser, now: datetime) -> Row:
    preferences = None if recipient.preferences is None else json.dumps(recipient.preferences)
    joined, left = now - timedelta(days=90), now - timedelta(days=1) if recipient.deleted else None
    key, address = stable_id(recipient.name), email_of(recipient.name)
    return key, address, "no password", recipient.full_name, recipient.verified, preferences, joined, now, left


def _projects(recipient: SampleUser, now: datetime) -> Iterable[Row]:
    at, deadline = _utc(now), _local(recipient, now, 30, DUE_TIME)
    for name in recipient.projects:
        yield (
            stable_id(recipient.name, "project", name),
            stable_id(recipient.name),
            name,
            f"About {name}",
            deadline,
            0.4,
            at,
            at,
        )


def _memberships(recipient: SampleUser, now: datetime) -> Iterable[Row]:
    for name in recipient.projects:
        project = stable_id(recipient.name, "project", name)
        yield stable_id(recipient.name, "member", name), project, stable_id(recipient.name), "owner", _utc(now)


def _goals(recipient: SampleUser, now: datetime) -> Iterable[Row]:
    at, target = _utc(now), _local(recipient, now, 60, DUE_TIME)
    for name in recipient.projects:
        owner, project = stable_id(recipient.name), stable_id(recipient.name, "project", name)
        yield stable_id(recipient.name, "goal", name), owner, project, f"Finish {name}", "project", target, 0.5, at, at


def _habits(recipient: SampleUser, now: datetime) -> Iterable[Row]:
    at, schedule = _utc(now), json.dumps({"days": WEEKDAYS, "time": "07:30"})
    for name, streak in (recipient.habits or {}).items():
        yield (
            stable_id(recipient.name, "habit", name),
            stable_id(recipient.name),
            None,
            name,
            schedule,
            streak,
            streak + 5,
            at,
            at,
        )


def _tasks(recipient: SampleUser, now: datetime) -> Iterable[Row]:
    at = _utc(now)
    for task in recipient.tasks:
        due = None if task.due_in is None else _local(recipient, now, task.due_in, DUE_TIME)
        project = stable_id(recipient.name, "project", task.project) if task.project else None
        key, owner, gone = (
            stable_id(recipient.name, "task", task.title),
            stable_id(recipient.name),
            at if task.deleted else None,
        )
        tags = [task.project.lower()] if task.project else []
        yield key, owner, task.title, task.done, due, task.priority, tags, at, at, gone, project, task.minutes


def _sessions(recipient: SampleUser, now: datetime) -> Iterable[Row]:
    for number, session in enumerate(recipient.sessions):
        start = _local(recipient, now, -session.days_ago, FOCUS_TIME)
        end = None if session.actual is None else start + timedelta(minutes=session.actual)
        key, owner = stable_id(recipient.name, "session", number), stable_id(recipient.name)
        task = stable_id(recipient.name, "task", session.task) if session.task else None
        yield key, owner, task, session.planned, session.actual, start, end, session.rating, start


def _utc(instant: datetime) -> datetime:
    """As the application stores it: UTC without a zone."""
    return instant.astimezone(UTC).replace(tzinfo=None)


def _local(recipient: SampleUser, now: datetime, days: int, at: time) -> datetime:
    """A time of the day where the person lives, `days` from their today."""
    zone = ZoneInfo(recipient.zone)
    day = now.astimezone(zone).date() + timedelta(days=days)
    return _utc(datetime.combine(day, at, zone))


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
