"""What the calendar's rooms hand to each other: a slot, and what a builder makes of it. Pure.

A slot is one mail of one kind to one person on one local date; with `per_task`, for one task. It ends sent, skipped,
expired or failed, exactly once, whatever happens to daemons and stores meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, TypeAlias
from urllib.parse import quote
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Slot:
    """One place in the calendar. `due_at` is aware; `item` is a task's id, or empty for all tasks together."""

    kind: str
    user_id: str
    local_date: date
    due_at: datetime
    zone: ZoneInfo
    item: str = ""


@dataclass(frozen=True, slots=True)
class MailContext:
    """What a builder has to say: the context of the mail as it goes onto the wire, and its language if any is known."""

    context: Mapping[str, Any] = field(repr=False)
    locale: str | None = None


@dataclass(frozen=True, slots=True)
class Nothing:
    """A builder has nothing to say, and why: `nothing due tomorrow`."""

    reason: str


Built: TypeAlias = MailContext | Nothing


@dataclass(frozen=True, slots=True)
class Links:
    """Where the buttons of scheduled mails lead; `frontend_url` comes without a slash at its end."""

    frontend_url: str

    def task(self, task_id: str) -> str:
        return f"{self.frontend_url}/tasks/{quote(task_id, safe='', errors='replace')}"

    @property
    def tasks(self) -> str:
        return f"{self.frontend_url}/tasks"

    @property
    def overdue(self) -> str:
        return f"{self.frontend_url}/tasks?filter=overdue"

    @property
    def analytics(self) -> str:
        return f"{self.frontend_url}/analytics"

    @property
    def settings(self) -> str:
        return f"{self.frontend_url}/settings/notifications"


Build: TypeAlias = Callable[[Any, Any, Slot, Links], Built]
