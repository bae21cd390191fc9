"""What builders of scheduled emails return, and the ledger entry of one that ends without being sent. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from flowstate_daemon.base.address import normalise_address
from flowstate_daemon.database.app_data import User
from flowstate_daemon.database.ledger import Outcome, redact_and_trim
from flowstate_daemon.database.scheduled_mails import ScheduledMail
from flowstate_daemon.mail.app_links import AppLinks
from flowstate_daemon.mail.policy import Decision
from flowstate_daemon.mail_producer import NewMail

NO_ATTEMPT = 0


@dataclass(frozen=True, slots=True)
class NothingToSend:
    """A builder found nothing to send; the reason says why: `nothing due tomorrow`."""

    reason: str


BuildResult: TypeAlias = NewMail | NothingToSend
Builder: TypeAlias = Callable[[User, Any, ScheduledMail, AppLinks], BuildResult]


def new_mail(user: User, scheduled: ScheduledMail, context: Mapping[str, Any]) -> NewMail:
    """The email of a scheduled email, in the user's language, under the job id of its row."""
    return NewMail(scheduled.kind, user.email, context, job_id=scheduled.job_id or None, locale=user.language)


def ended_without_mail(
    scheduled: ScheduledMail, address: str, outcome: Literal["skipped", "failed"], decision: Decision, now: datetime
) -> Outcome:
    """The ledger entry that ends a scheduled email before any attempt. `address` is empty for a user who is gone."""
    reason = redact_and_trim(decision.reason)
    return Outcome(
        key=f"scheduler:{scheduled.job_id}:{NO_ATTEMPT}",
        at=int(now.timestamp() * 1000),
        job_id=scheduled.job_id,
        kind=scheduled.kind,
        to=normalise_address(address),
        attempt=NO_ATTEMPT,
        outcome=outcome,
        reason=reason,
        decisions=(Decision(decision.check, decision.result, reason),),
    )
