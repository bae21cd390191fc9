"""What the calendar's rooms hand to each other: a slot, and what a builder makes of it. Pure.

A slot is one mail of one kind to one person on one local date; with `per_task`, for one task. It ends sent, skipped,
expired or failed, exactly once, whatever happens to daemons and stores meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal, TypeAlias
from urllib.parse import quote
from zoneinfo import ZoneInfo

from flowstate_daemon.database.ledger import Outcome, redact_and_trim
from flowstate_daemon.database.pool import normalise_address
from flowstate_daemon.database.scheduled_mails import OrphanedMail, ScheduledMail
from flowstate_daemon.mail.policy import Decision


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
class NothingToSend:
    """A builder has nothing to say, and why: `nothing due tomorrow`."""

    reason: str


BuildResult: TypeAlias = MailContext | NothingToSend


@dataclass(frozen=True, slots=True)
class AppLinks:
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


Builder: TypeAlias = Callable[[Any, Any, Slot, AppLinks], BuildResult]


NO_ATTEMPT = 0


@dataclass(frozen=True, slots=True)
class EndedWithoutMail:
    """A slot that ends here, and why. `to` is empty for people who are gone."""

    mail: ScheduledMail | OrphanedMail
    to: str = field(repr=False)
    outcome: Literal["skipped", "failed"]
    reason: Decision


def outcome_of(ended: EndedWithoutMail, now: datetime) -> Outcome:
    """The ledger's entry, which also ends the slot."""
    step = ended.reason
    return Outcome(
        key=f"calendar:{ended.mail.job_id}:{NO_ATTEMPT}",
        at=int(now.timestamp() * 1000),
        job_id=ended.mail.job_id,
        kind=ended.mail.kind,
        to=normalise_address(ended.to),
        attempt=NO_ATTEMPT,
        outcome=ended.outcome,
        reason=redact_and_trim(step.reason),
        chain=(Decision(step.check, step.result, redact_and_trim(step.reason)),),
    )
