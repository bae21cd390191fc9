"""How a slot that never became a mail stands in the ledger: with the reason, under its person's address. Pure.

Slots that became mails are written down by the engine, like all mails.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from flowstate_daemon.database.outcome import Decision, Outcome, said
from flowstate_daemon.database.schema import normalised
from flowstate_daemon.mail.policy import Step

NO_TRY = 0


class Opened(Protocol):
    """A slot, as feeder and reconciler know it."""

    @property
    def kind(self) -> str: ...
    @property
    def job_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Ended:
    """A slot that ends here, and why. `to` is empty for people who are gone."""

    slot: Opened
    to: str = field(repr=False)
    outcome: Literal["skipped", "failed"]
    why: Step


def outcome_of(ended: Ended, now: datetime) -> Outcome:
    """The ledger's entry, which also ends the slot."""
    step = ended.why
    return Outcome(
        key=f"calendar:{ended.slot.job_id}:{NO_TRY}",
        at=int(now.timestamp() * 1000),
        job_id=ended.slot.job_id,
        kind=ended.slot.kind,
        to=normalised(ended.to),
        attempt=NO_TRY,
        outcome=ended.outcome,
        reason=said(step.why),
        chain=(Decision(step.step, step.verdict, said(step.why)),),
    )
