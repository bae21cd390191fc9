"""Filters in the address of a page, parsed with a clear error for each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.text import storable
from flowstate_daemon.base.time_zones import parse_instant
from flowstate_daemon.database.mail_list import OUTCOME_NAMES, OutcomeFilter
from flowstate_daemon.queue.filters import JobFilter
from flowstate_daemon.web.ages import AGE, age_ms

QUEUE_STATES = ("wait", "active", "delayed", "paused", "failed", "completed")
MAX_TEXT = 200
MAX_DIGITS = 9


@dataclass(frozen=True, slots=True)
class PageFilter:
    """The filter of a list. `state` is a state of the queue or an outcome of the ledger; "" is every outcome.

    `newer_than` and `older_than` are ages as they were written, such as `2h`.
    """

    state: str = ""
    kind: str = ""
    recipient: str = ""
    reason: str = ""
    newer_than: str = ""
    older_than: str = ""

    @property
    def is_queue(self) -> bool:
        return self.state in QUEUE_STATES

    def query(self, **changes: Any) -> dict[str, str]:
        """The parameters of an address with this filter; those without a value are left out."""
        fields = {name: getattr(self, name) for name in self.__slots__} | changes
        return {name: str(value) for name, value in fields.items() if value not in ("", None)}

    def job_filter(self, now_ms: int) -> JobFilter:
        return JobFilter(
            kinds=(self.kind,) if self.kind else (),
            recipient=self.recipient,
            reason=self.reason,
            after=now_ms - age_ms(self.newer_than) if self.newer_than else None,
            before=now_ms - age_ms(self.older_than) if self.older_than else None,
        )

    def outcome_filter(self, now: datetime) -> OutcomeFilter:
        return OutcomeFilter(
            kinds=(self.kind,) if self.kind else (),
            outcomes=(self.state,) if self.state else (),
            address=self.recipient,
            reason=self.reason,
            since=now - timedelta(milliseconds=age_ms(self.newer_than)) if self.newer_than else None,
            until=now - timedelta(milliseconds=age_ms(self.older_than)) if self.older_than else None,
        )


def parse_filter(query: Mapping[str, str]) -> PageFilter:
    """Raises InvalidDataError with the parameter and what is expected."""
    values = {name: storable(query.get(name, "").strip(), MAX_TEXT) for name in PageFilter.__slots__}
    if values["state"] not in ("", *QUEUE_STATES, *OUTCOME_NAMES):
        raise InvalidDataError(f"state: expected one of {', '.join((*QUEUE_STATES, *OUTCOME_NAMES))}")
    for name in ("newer_than", "older_than"):
        if values[name] and not AGE.fullmatch(values[name]):
            raise InvalidDataError(f"{name}: expected an age such as 30s, 15min, 2h, 7d")
    return PageFilter(**values)


def parse_position(text: str) -> int:
    """The position of a page in a list of jobs; 0 for anything else than a number."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else 0


def parse_at(text: str) -> datetime | None:
    """A time in ISO 8601; UTC without a zone. None for "". Raises InvalidDataError."""
    try:
        return parse_instant(text) if text else None
    except ValueError:
        raise InvalidDataError("at: expected a time such as 2026-11-29T09:00") from None
