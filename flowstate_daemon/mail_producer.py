"""The only door into the queue for mails that this daemon makes itself.

Validates a request exactly as a worker would, so that nothing enters that could only fail, and gives each job
its priority, attempts, backoff and retention. The command line calls it; later the calendar and the API do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from flowstate_daemon.base.errors import InvalidDataError, PermanentError
from flowstate_daemon.mail.kinds import KINDS, MailRequest, parse_request
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import REMOVE, AddResult, Backoff, NewJob

JOB_ID = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9._-]{4,128}")
MAX_PRIORITY = 2_097_152  # Bull's own bound
MAX_DELAY_MS = 365 * 24 * 3600 * 1000


class InvalidMailError(PermanentError):
    """The request cannot become a job; the reason says what to change."""


@dataclass(frozen=True, slots=True)
class NewMail:
    """What a caller asks for. `priority` 1 is most urgent; None takes the kind's own. `delay_ms` counts from now.

    `locale` is the mail's language; without it, that of the person, who may have chosen none.
    """

    kind: str
    to: str
    context: Mapping[str, Any]
    priority: int | None = None
    delay_ms: int = 0
    job_id: str | None = None
    locale: str | None = None


class MailProducer:
    """Turns orders into jobs of the queue."""

    def __init__(self, bull: BullQueue, *, attempts: int, backoff_ms: int) -> None:
        """`attempts` counts all tries, as in Bull; `backoff_ms` is the base of the exponential delays."""
        self._bull = bull
        self._attempts = attempts
        self._backoff = Backoff("exponential", backoff_ms)

    async def enqueue(self, order: NewMail) -> AddResult:
        """Validate and enqueue one mail. Raises Refused or Outage."""
        return (await self.enqueue_many([order]))[0]

    async def enqueue_many(self, orders: Sequence[NewMail]) -> list[AddResult]:
        """Validate all, then enqueue all; a single bad order refuses the whole call before anything is written."""
        return await self._bull.add_many([self._job(order) for order in orders])

    def _job(self, order: NewMail) -> NewJob:
        self._check(order)
        data = encode_data(order)
        parse_order(order, data)
        return NewJob(
            name=order.kind,
            data=data,
            priority=KINDS[order.kind].priority if order.priority is None else order.priority,
            delay_ms=order.delay_ms,
            attempts=self._attempts,
            backoff=self._backoff,
            remove_on_complete=REMOVE,
            job_id=order.job_id,
        )

    @staticmethod
    def _check(order: NewMail) -> None:
        if order.kind not in KINDS:
            raise InvalidMailError(
                f"there is no kind of mail called {order.kind[:100]!r}; known are {', '.join(sorted(KINDS))}"
            )
        if order.priority is not None and not 1 <= order.priority <= MAX_PRIORITY:
            raise InvalidMailError(f"priority must be between 1 (most urgent) and {MAX_PRIORITY}")
        if not 0 <= order.delay_ms <= MAX_DELAY_MS:
            raise InvalidMailError("delay must be between 0 and one year, in milliseconds")
        if order.job_id is not None and not JOB_ID.fullmatch(order.job_id):
            raise InvalidMailError(
                "a job id has 4 to 128 letters, digits, dots, dashes or underscores, one letter at least"
            )


def encode_data(order: NewMail) -> dict[str, Any]:
    """A job's data as it stands in the queue."""
    data: dict[str, Any] = {"type": order.kind, "to": order.to, "context": dict(order.context)}
    return data if order.locale is None else {**data, "locale": order.locale}


def parse_order(order: NewMail, data: Mapping[str, Any] | None = None) -> MailRequest:
    """The mail that a worker would read out of the order's job. Raises Refused."""
    try:
        return parse_request(order.kind, msgspec.json.encode(encode_data(order) if data is None else data))
    except (InvalidDataError, msgspec.MsgspecError, TypeError, UnicodeEncodeError, RecursionError) as error:
        reason = error.reason if isinstance(error, InvalidDataError) else str(error)
        raise InvalidMailError(f"this {order.kind} cannot be sent: {reason}") from error
