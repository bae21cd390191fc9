"""Adds emails that this daemon creates itself to the queue.

Validates a request exactly as a worker does, so that no job is added that could only fail, and sets each job's
priority, attempts, backoff and retention. The command line, the API and the scheduler's enqueuer use it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from flowstate_daemon.base.errors import InvalidDataError, PermanentError
from flowstate_daemon.mail.kind_spec import MAX_PRIORITY
from flowstate_daemon.mail.kinds import KINDS, Kind, MailRequest, parse_request
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import REMOVE, AddResult, Backoff, NewJob

if TYPE_CHECKING:  # it needs packages of the extra `otel`
    from flowstate_daemon.base.tracing import Tracing

JOB_ID = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9._-]{4,128}")
MAX_DELAY_MS = 365 * 24 * 3600 * 1000
ORIGIN = "flowstate-daemon"  # in the data of jobs that an operator or a program adds through this daemon


class InvalidMailError(PermanentError):
    """The email cannot be enqueued; the reason says what to change."""


@dataclass(frozen=True, slots=True)
class NewMail:
    """An email to enqueue. `priority` 1 is the most urgent; None means that of the kind. `delay_ms` counts from now.

    `locale` is the language of the email; None means the recipient's choice, else the default. `origin` distinguishes
    an operator's job from one that the backend's cron jobs made. `traceparent` (W3C) is the trace that it belongs to,
    if this process traces emails; it may be invalid, and then it counts as None.
    """

    kind: str
    to: str
    context: Mapping[str, Any]
    priority: int | None = None
    delay_ms: int = 0
    job_id: str | None = None
    locale: str | None = None
    origin: str | None = None
    traceparent: str | None = None


class MailProducer:
    """Adds new emails to the queue as jobs."""

    def __init__(
        self,
        bull: BullQueue,
        *,
        attempts: int,
        backoff_ms: int,
        kinds: Mapping[str, Kind] = KINDS,
        tracing: Tracing | None = None,
    ) -> None:
        """`attempts` includes the first one, as in Bull; `backoff_ms` is the base of the exponential backoff."""
        self.kinds = kinds  # a reload replaces them
        self.tracing = tracing  # the command `enqueue` sets it
        self._bull = bull
        self._attempts = attempts
        self._backoff = Backoff("exponential", backoff_ms)

    async def enqueue(self, new: NewMail) -> AddResult:
        """Validate and enqueue one email. Raises InvalidMailError or StoreUnavailableError."""
        return (await self.enqueue_many([new]))[0]

    async def enqueue_many(
        self, mails: Sequence[NewMail], *, timestamp: int | None = None, once_ms: int | None = None
    ) -> list[AddResult]:
        """Validate all, then enqueue all; one invalid email refuses the whole call before anything is written.

        `timestamp` (Unix ms) is when the jobs count as added; now unless given. With `once_ms`, a job id is accepted
        once in that time, also when its job has been sent and deleted meanwhile.
        """
        jobs = [self._job(new, timestamp, once_ms) for new in mails]
        if self.tracing is None:
            return await self._bull.add_many(jobs)
        with self.tracing.enqueueing([new.kind for new in mails], [new.traceparent for new in mails]) as traces:
            traced = [
                replace(job, data=job.data | {"traceparent": trace.traceparent})
                for job, trace in zip(jobs, traces, strict=True)
            ]
            added = await self._bull.add_many(traced)
            for trace, result in zip(traces, added, strict=True):
                trace.added(result.id, result.outcome)
        return added

    def validate(self, mails: Sequence[NewMail]) -> None:
        """Raises InvalidMailError unless all of them can be enqueued."""
        for new in mails:
            self._job(new)

    def _job(self, new: NewMail, timestamp: int | None = None, once_ms: int | None = None) -> NewJob:
        self._check(new)
        data = encode_data(new)
        parse_new_mail(new, data, self.kinds)
        return NewJob(
            name=new.kind,
            data=data,
            priority=self.kinds[new.kind].priority if new.priority is None else new.priority,
            delay_ms=new.delay_ms,
            attempts=self._attempts,
            backoff=self._backoff,
            remove_on_complete=REMOVE,
            job_id=new.job_id,
            timestamp=timestamp,
            debounce_id=None if once_ms is None else new.job_id,
            debounce_ms=once_ms,
        )

    def _check(self, new: NewMail) -> None:
        if new.kind not in self.kinds:
            known = ", ".join(sorted(self.kinds))
            raise InvalidMailError(f"unknown kind of email {new.kind[:100]!r}; known kinds: {known}")
        if new.priority is not None and not 1 <= new.priority <= MAX_PRIORITY:
            raise InvalidMailError(f"priority must be between 1 (most urgent) and {MAX_PRIORITY}")
        if not 0 <= new.delay_ms <= MAX_DELAY_MS:
            raise InvalidMailError("delay must be between 0 and one year, in milliseconds")
        if new.job_id is not None and not JOB_ID.fullmatch(new.job_id):
            raise InvalidMailError(
                "a job id has 4 to 128 letters, digits, dots, dashes or underscores, one letter at least"
            )


def encode_data(new: NewMail) -> dict[str, Any]:
    """The data of the job."""
    data: dict[str, Any] = {"type": new.kind, "to": new.to, "context": dict(new.context)}
    optional = {"locale": new.locale, "origin": new.origin}
    return data | {name: value for name, value in optional.items() if value is not None}


def parse_new_mail(
    new: NewMail, data: Mapping[str, Any] | None = None, kinds: Mapping[str, Kind] = KINDS
) -> MailRequest:
    """The request that a worker would parse from the job. Raises InvalidMailError."""
    try:
        return parse_request(new.kind, msgspec.json.encode(encode_data(new) if data is None else data), kinds)
    except (InvalidDataError, msgspec.MsgspecError, TypeError, UnicodeEncodeError, RecursionError) as error:
        reason = error.reason if isinstance(error, InvalidDataError) else str(error)
        raise InvalidMailError(f"this {new.kind} cannot be sent: {reason}") from error
