"""What waits on the bus: parcels, one mail each, and loads, the mails of one request. Plain data and pure functions.

A sender makes a parcel and awaits its fate; the bus puts parcels into loads; the carrier takes a load to the provider.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from flowstate_daemon.base.errors import FlowstateError, MailExpired, StaleDecisionError
from flowstate_daemon.delivery.gateway import Rejected, Result
from flowstate_daemon.mail.message import Accepted, Email
from flowstate_daemon.queue.job import Job
from flowstate_daemon.sending.request_store import StoredRequest

JobRef = tuple[str, int]
OUTCOME_UNKNOWN = (
    "parked: the request that held this mail is no longer known, and it may have been sent; "
    "look it up at the provider, then retry or remove the job"
)

EXPIRED_REASON = "the code ran out before it could leave"
# What was held up for longer is judged anew: its person may have unsubscribed meanwhile, or its hour be over.
DECISION_MAX_AGE_S = 60.0


@dataclass(slots=True, eq=False)
class OutgoingMail:
    """One mail on its way; `fate` is what its sender awaits, and done when nobody waits for it any more.

    `build_email` renders the mail: at once for a new job, and only when it is needed for a job that was sealed before.
    """

    job: Job
    priority: int
    urgent: bool
    build_email: Callable[[], Email]
    expires_at: int | None = None
    stored_request_id: str | None = None
    sequence: int | None = None
    queued_at: float = 0.0  # monotonic seconds, as `left_at`: since when it waits, and since when no more
    sent_at: float | None = None
    result: asyncio.Future[Accepted] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _mail: Email | None = None
    _written: bytes | None = None

    @property
    def job_ref(self) -> JobRef:
        """How the mail's job is named in an envelope."""
        return self.job.id, self.job.timestamp

    def expired(self, now_ms: int) -> bool:
        return self.expires_at is not None and now_ms >= self.expires_at

    @property
    def done(self) -> bool:
        return self.result.done()

    @property
    def mail(self) -> Email:
        return self._mail or self.render()

    def render(self) -> Email:
        """Make the mail now, in the sender's time instead of the bus's."""
        self._mail = self.build_email()
        return self._mail

    def encoded(self, write: Callable[[Email], bytes]) -> bytes:
        """The mail as its part of a request, made once. Raises Final."""
        if self._written is None:
            self._written = write(self.mail)
        return self._written

    def accept(self, accepted: Accepted) -> None:
        if not self.result.done():
            self.result.set_result(accepted)

    def fail(self, error: BaseException) -> None:
        if not self.result.done():
            self.result.set_exception(error)


@dataclass(slots=True, eq=False)
class Batch:
    """The mails of one request, sealed or not yet.

    `doubtful`: an earlier try may have reached the provider. `tries`: it shows whether the provider is well again.
    """

    mails: list[OutgoingMail]
    stored_request: StoredRequest | None = None
    maybe_delivered: bool = False
    is_probe: bool = False
    waits: int = 0

    @property
    def pending(self) -> list[OutgoingMail]:
        """Those that somebody still waits for."""
        return [mail for mail in self.mails if not mail.done]

    @property
    def urgent(self) -> bool:
        """Is there a code in it?"""
        return any(mail.urgent for mail in self.pending)

    @property
    def complete(self) -> bool:
        """Is every member of the sealed request still in our hands?"""
        return self.stored_request is not None and len(self.pending) == len(self.stored_request.members)

    def fail(self, error: FlowstateError) -> None:
        for mail in self.mails:
            mail.fail(error)


def expire_stale(mails: Sequence[OutgoingMail], now_ms: int, *, held_at: float) -> None:
    """End codes that have run out, and hand back what was judged long before `held_at`, when none were let through.

    A slow provider is no reason to judge anew: where mails always wait for long, nobody's turn would ever come.
    """
    for mail in mails:
        if mail.expired(now_ms):
            mail.fail(MailExpired(EXPIRED_REASON))
        elif not mail.urgent and held_at - mail.queued_at > DECISION_MAX_AGE_S:
            mail.fail(StaleDecisionError("no mails could leave for so long that it must be judged anew"))


def idempotency_key(path: str, body: bytes, members: Sequence[JobRef]) -> str:
    """The same for the same mails of the same jobs, and for no others.

    Not a random name: a Redis that has forgotten its last second, or an answer that was lost, leads to the same
    request being sealed anew, which the provider then knows. Bull's ids restart after `obliterate`, so a job needs its
    timestamp beside its id.
    """
    digest = hashlib.sha256(msgspec.json.encode([path, members]))
    digest.update(body)
    return f"flowstate-{digest.hexdigest()[:48]}"


def encode_results(results: Sequence[Result]) -> bytes:
    """The provider's answer as it is kept with an envelope."""
    return msgspec.json.encode(list(results))


def decode_results(answer: bytes) -> tuple[Result, ...]:
    rows = msgspec.json.decode(answer, type=list[dict[str, str]])
    return tuple(Rejected(row["reason"]) if "reason" in row else Accepted(**row) for row in rows)
