"""Inserts rows into the application's tables, for tests that need other users than the sample data."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg


def stored(*parts: int) -> datetime:
    """An instant in UTC without a time zone, as the application stores it."""
    return datetime(*parts, tzinfo=UTC).replace(tzinfo=None)  # type: ignore[misc,arg-type]


class AppTables:
    """Writes rows as the NestJS backend does."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def user(self, user_id: str, preferences: Any = None, **columns: Any) -> str:
        values = {
            "id": user_id,
            "email": f"{user_id}@example.org",
            "password": "",
            "isEmailVerified": True,
            "preferences": None if preferences is None else json.dumps(preferences),
            "updatedAt": stored(2026, 1, 1),
            **columns,
        }
        await self._insert("users", values)
        return user_id

    async def task(self, user_id: str, title: str, due: datetime | str | None, **columns: Any) -> str:
        """`due` as text is parsed by Postgres: 'infinity', '0044-03-15 BC'."""
        key = columns.pop("id", str(uuid4()))
        instant = None if isinstance(due, str) else due
        values = {"id": key, "userId": user_id, "title": title, "dueDate": instant, "updatedAt": stored(2026, 1, 1)}
        await self._insert("tasks", {**values, **columns})
        if isinstance(due, str):
            await self.connection.execute(f"""UPDATE tasks SET "dueDate" = '{due}' WHERE id = $1""", key)
        return key

    async def session(self, user_id: str, start: datetime, planned: int = 25, **columns: Any) -> str:
        key = str(uuid4())
        values = {"id": key, "userId": user_id, "startTime": start, "plannedDuration": planned, **columns}
        await self._insert("focus_sessions", values)
        return key

    async def project(self, user_id: str, name: str) -> str:
        key = str(uuid4())
        await self._insert("projects", {"id": key, "userId": user_id, "name": name, "updatedAt": stored(2026, 1, 1)})
        return key

    async def _insert(self, table: str, values: dict[str, Any]) -> None:
        columns = ", ".join(f'"{name}"' for name in values)
        places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        await self.connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", *values.values())
