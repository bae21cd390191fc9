"""Emails that wait to be sent, and batches: the emails of one request. Plain data and pure functions.

A handler creates an OutgoingMail and awaits its `result`; the dispatcher groups emails into a Batch; the batch sender
sends the batch and resolves the results.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from flowstate_daemon.base.address import normalise_address
from flowstate_daemon.base.errors import FlowstateError, MailExpired, MailSkipped, StaleDecisionError
from flowstate_daemon.delivery.gateway import Rejected, Result
from flowstate_daemon.mail.message import Accepted, Email
from flowstate_daemon.queue.job import Job
from flowstate_daemon.sending.stored_request import JobRef, StoredRequest

if TYPE_CHECKING:  # it needs packages of the extra `otel`
    from flowstate_daemon.base.tracing import EmailTrace

OUTCOME_UNKNOWN = (
    "parked: the request that contained this email is no longer known, and the email may have been sent; "
    "look it up at the provider, then retry or remove the job"
)
SUPERSEDED_REASON = "superseded: a newer code for this address is sent with the same request"
EXPIRED_REASON = "it expired before it could be sent"
MAYBE_SENT = "{reason} (the email may have been sent)"
# A decision older than this is made again: since then the recipient may have unsubscribed, or a deadline have passed.
DECISION_MAX_AGE_S = 60.0


class OutgoingMail(msgspec.Struct, eq=False):
    """One email to be sent. The handler awaits `result`; a done result means that the email is not needed any more.

    `build_email` renders the email: at once for a new job, and only if needed for a job that has a stored request.
    """

    job: Job
    priority: int
    urgent: bool
    build_email: Callable[[], Email]
    expires_at: int | None = None
    stored_request_id: str | None = None
    sequence: int | None = None
    queued_at: float = 0.0  # monotonic seconds, as `sent_at`: between the two the email waited
    sent_at: float | None = None
    in_request: bool = False  # from the start of a request until its response is handled
    maybe_sent: bool = False  # whether the outcome of a request that contained it is unknown; in a request it is, too
    requests: int = 0  # how many requests have contained it
    detached_from: tuple[str, ...] = ()  # requests that this run has taken it out of; Redis may have lost that
    result: asyncio.Future[Accepted] = msgspec.field(default_factory=lambda: asyncio.get_running_loop().create_future())
    trace: EmailTrace | None = None
    _email: Email | None = None
    _encoded: bytes | None = None

    def __post_init__(self) -> None:
        self.requests = self.job.requests

    @property
    def job_ref(self) -> JobRef:
        """The job's name in a stored request."""
        return self.job.id, self.job.timestamp

    def expired(self, now_ms: int) -> bool:
        return self.expires_at is not None and now_ms >= self.expires_at

    @property
    def done(self) -> bool:
        return self.result.done()

    @property
    def email(self) -> Email:
        return self._email or self.render()

    def render(self) -> Email:
        """Render the email now. The handler calls this, so that the dispatcher's loop does not have to."""
        self._email = self.build_email()
        return self._email

    def encoded(self, encode: Callable[[Email], bytes]) -> bytes:
        """The email as its part of a request, encoded once. Raises PermanentError."""
        if self._encoded is None:
            self._encoded = encode(self.email)
        return self._encoded

    def accept(self, accepted: Accepted) -> None:
        if not self.result.done():
            self.result.set_result(accepted)

    def fail(self, error: BaseException) -> None:
        if isinstance(error, FlowstateError):
            error.drop_frames()
        if not self.result.done():
            self.result.set_exception(error)


@dataclass(slots=True, eq=False)
class Batch:
    """The emails of one request, which is stored before it is sent.

    `recorded`: this process has stored and recorded the request, or knows that it is. `maybe_delivered`: an earlier try
    may have reached the provider. `is_probe`: this request tests whether the provider works again while the circuit is
    open.
    """

    mails: list[OutgoingMail]
    stored_request: StoredRequest | None = None
    maybe_delivered: bool = False
    recorded: bool = False
    is_probe: bool = False
    waits: int = 0

    @property
    def pending(self) -> list[OutgoingMail]:
        """The emails whose result is still awaited."""
        return [mail for mail in self.mails if not mail.result.done()]

    @property
    def urgent(self) -> bool:
        """Whether the batch contains a code."""
        return any(mail.urgent for mail in self.pending)

    @property
    def complete(self) -> bool:
        """Whether this process still holds the job of every member of the stored request."""
        return self.stored_request is not None and len(self.pending) == len(self.stored_request.members)

    def fail(self, error: FlowstateError) -> None:
        for mail in self.mails:
            mail.fail(error)


def expired_error(*, maybe_sent: bool) -> MailExpired:
    return MailExpired(MAYBE_SENT.format(reason=EXPIRED_REASON) if maybe_sent else EXPIRED_REASON)


def expire_stale(mails: Sequence[OutgoingMail], now_ms: int, *, held_at: float) -> None:
    """Expire codes, and release emails whose decision was made long before `held_at`, when sending was last blocked.

    A slow provider alone does not make a decision stale: if emails always wait that long, none would ever be sent.
    """
    for mail in mails:
        if mail.expired(now_ms):
            mail.fail(expired_error(maybe_sent=False))
        elif not mail.urgent and held_at - mail.queued_at > DECISION_MAX_AGE_S:
            mail.fail(StaleDecisionError("sending was blocked for so long that the decision must be made again"))


def supersede_codes(mails: Sequence[OutgoingMail]) -> None:
    """Of several codes of one kind for one address only the newest is valid: skip the others."""
    newest: dict[tuple[str, str], OutgoingMail] = {}
    for mail in mails:
        if mail.done or not mail.email.has_code:
            continue
        key = mail.email.kind, normalise_address(mail.email.to)
        other = newest.setdefault(key, mail)
        if other is not mail:
            older, newest[key] = sorted((other, mail), key=_age)
            older.fail(MailSkipped(SUPERSEDED_REASON))


def _age(mail: OutgoingMail) -> tuple[int, int]:
    """The order in which the jobs were added."""
    return mail.job.created_ms, int(mail.job.id) if mail.job.id.isdecimal() else mail.sequence or 0


def idempotency_key(path: str, body: bytes, members: Sequence[JobRef]) -> str:
    """The same key for the same emails of the same jobs, and for no others.

    The key is not random: after Redis lost its last second, or after a lost response, the same request may be stored
    again, and the provider then recognizes it. Bull's ids restart after `obliterate`, so the timestamp belongs to it.
    """
    digest = hashlib.sha256(msgspec.json.encode([path, members]))
    digest.update(body)
    return f"flowstate-{digest.hexdigest()[:48]}"


def encode_results(results: Sequence[Result]) -> bytes:
    """The results of a request as they are kept with the stored request."""
    return msgspec.json.encode(list(results))


def decode_results(response: bytes) -> tuple[Result, ...]:
    rows = msgspec.json.decode(response, type=list[dict[str, str]])
    return tuple(Rejected(row["reason"]) if "reason" in row else Accepted(**row) for row in rows)
