"""What the daemon reads of the application's tables, and the words for what is missing there.

`application.py` asks when a query was refused, `cli check` before anything is. Only the catalogue is looked at, which
every role may read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from flowstate_daemon.database.queries import sql

READ: Mapping[str, tuple[str, ...]] = {
    "users": ("id", "email", "fullName", "isEmailVerified", "preferences", "deletedAt"),
    "tasks": (
        *("id", "userId", "title", "isCompleted", "dueDate", "priority", "estimatedDuration", "projectId"),
        *("createdAt", "deletedAt"),
    ),
    "projects": ("id", "name"),
    "focus_sessions": ("userId", "taskId", "plannedDuration", "actualDuration", "startTime", "focusRating"),
}
# Which of them each kind of mail stands on.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "task-reminder": ("users", "tasks", "projects"),
    "overdue-summary": ("users", "tasks"),
    "focus-report": ("users", "tasks", "focus_sessions"),
}


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that is not there or may not be read, and what mends it. `table` None: all of them."""

    finding: str
    remedy: str
    table: str | None = None

    def __str__(self) -> str:
        return f"{self.finding}; {self.remedy}"


async def find_lacks(connection: asyncpg.Connection, schema: str, tables: Iterable[str] = READ) -> list[Lack]:
    """What keeps this role from reading these tables of the application; empty when nothing does."""
    asked = [(table, column) for table in tables for column in READ[table]]
    arguments = (schema, [table for table, _ in asked], [column for _, column in asked])
    return judge_rights(schema, await connection.fetch(sql("tell_rights"), *arguments))


def judge_rights(schema: str, rows: Sequence[Mapping[str, Any]]) -> list[Lack]:
    """The lacks behind what the catalogue says, the widest first, each once. Pure."""
    role = quoted(rows[0]["role"]) if rows else ""
    if not all(row["has_schema"] for row in rows):
        return [Lack(f"there is no schema {schema}", "put the application's into DATABASE_URL: ?schema=…")]
    found: dict[str, Lack] = {}
    if not all(row["may_enter"] for row in rows):
        grant = f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {role}"
        found["schema"] = Lack(f"{role} may not use the schema {schema}", grant)
    for row in rows:
        name, column = row["table_name"], row["column_name"]
        table = f"{schema}.{name}"
        if not row["has_table"]:
            found[table] = Lack(f"there is no table {table}", "run the application's migrations", name)
        elif not row["has_column"]:
            remedy = "run the application's migrations, or install the daemon's version that fits them"
            found[f"{table}.{column}"] = Lack(f'the table {table} has no column "{column}"', remedy, name)
        elif not row["may_read"]:
            grant = f"GRANT SELECT ON {quoted(schema)}.{quoted(name)} TO {role}"
            found[table] = Lack(f"{role} may not read the table {table}", grant, name)
    return list(found.values())


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it.

    >>> quoted('a"b')
    '"a""b"'
    """
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
