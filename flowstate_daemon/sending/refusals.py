"""Whether refusals of unknown cause concern every email or only those of one request. Pure.

The evidence is what happened to other emails: if nothing is accepted between several refusals, all emails are
concerned; an email that is refused although others were accepted since its first refusal is itself the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from flowstate_daemon.sending.stored_request import JobRef

MAX_REMEMBERED = 10_000
REFUSALS_BEFORE_FAILURE = 3
MIN_DELAY_MS = 2_000
MAX_DELAY_MS = 60_000


class Cause(Enum):
    """What a refusal concerns, as far as is known by now."""

    UNKNOWN = "one more refusal without an acceptance in between"
    ALL_MAILS = "as many in a row as are enough: the send gate closes"
    THESE_MAILS = "others were accepted since: the cause is among these emails"


@dataclass(slots=True)
class Refused:
    """One email that was refused: how many emails had been accepted before its first refusal, and how often it was."""

    accepted_before: int
    count: int = 0


class RefusalHistory:
    """The refusals of unknown cause, and how many requests were accepted."""

    def __init__(self) -> None:
        self._accepted = 0
        self._in_a_row = 0
        self._refused: dict[JobRef, Refused] = {}

    def record_accepted(self) -> None:
        """The provider accepted at least one email."""
        self._accepted += 1
        self._in_a_row = 0

    def record_refused(self, members: Sequence[JobRef], max_in_a_row: int) -> Cause:
        """A request with these emails was refused."""
        known = [self._refused.get(member) for member in members]
        only_these = all(refused is not None and refused.accepted_before < self._accepted for refused in known)
        for member in members:
            self._remember(member).count += 1
        if only_these:
            return Cause.THESE_MAILS
        self._in_a_row += 1
        return Cause.ALL_MAILS if self._in_a_row >= max_in_a_row else Cause.UNKNOWN

    def should_fail(self, member: JobRef) -> bool:
        """Whether the email was refused often enough to give it up, once it is known to be the cause."""
        refused = self._refused.get(member)
        return refused is not None and refused.count >= REFUSALS_BEFORE_FAILURE

    def delay_ms(self, member: JobRef) -> int:
        """How long to wait before the next try, which others may use in the meantime."""
        refused = self._refused.get(member)
        count = 1 if refused is None else min(refused.count, 10)
        return int(min(MIN_DELAY_MS * 2 ** max(count - 1, 0), MAX_DELAY_MS))

    def _remember(self, member: JobRef) -> Refused:
        if member not in self._refused and len(self._refused) >= MAX_REMEMBERED:
            del self._refused[next(iter(self._refused))]
        return self._refused.setdefault(member, Refused(self._accepted))
