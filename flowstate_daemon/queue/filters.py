"""Filters of jobs: which jobs an operator looks at or changes. The comparison runs in Redis, in `job_filter.lua`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

WILDCARD = "*"
EXAMINE_BATCH = 1000  # jobs that one script call compares: 2 to 4 ms of server time


class JobFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Every member that is set must match; without any, all jobs match.

    `kinds` are names of jobs. `recipient` and `reason` must be contained in the address and in the reason of a failure,
    whatever their case; a `*` in the reason stands for any text. `after` and `before` are Unix ms: when the job
    finished, else was last started, else was added.
    """

    kinds: Sequence[str] = ()
    recipient: str = ""
    reason: str = ""
    after: int | None = None
    before: int | None = None

    @property
    def matches_all(self) -> bool:
        return self == EVERYTHING

    def encode(self) -> bytes:
        """The filter as the scripts expect it."""
        if self.matches_all:
            return b""
        lowered = msgspec.structs.replace(self, recipient=self.recipient.lower(), reason=self.reason.lower())
        return msgspec.json.encode(lowered)

    def describe(self) -> str:
        """The filter in words, for the audit and for messages; "" when all jobs match."""
        parts = [
            f"kind {' or '.join(self.kinds)}" if self.kinds else "",
            f"recipient contains {self.recipient!r}" if self.recipient else "",
            f"reason contains {self.reason!r}" if self.reason else "",
            f"newer than {format_ms(self.after)}" if self.after is not None else "",
            f"older than {format_ms(self.before)}" if self.before is not None else "",
        ]
        return ", ".join(part for part in parts if part)


EVERYTHING = JobFilter()


def format_ms(instant_ms: int) -> str:
    """A time as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(instant_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
