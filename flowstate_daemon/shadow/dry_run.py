"""What would become of a job if this daemon had it: read, decided and rendered in earnest, and then put aside.

The shadow asks. The way is the sender's (`work/sender.py`) up to the bus.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.mail.kinds import MailRequest, parse_request
from flowstate_daemon.mail.message import mask_address
from flowstate_daemon.mail.policy import UNKNOWN_RECIPIENT, decide
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.queue.job import Job
from flowstate_daemon.shadow.observer import JobEvent
from flowstate_daemon.worker.handler import with_locale
from flowstate_daemon.worker.lookups import RecipientLoader
from flowstate_daemon.worker.results import failure_reason

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Prediction:
    """What would be done with a job, and why; `to` is masked, `size` the bytes of the mail's HTML."""

    kind: str
    outcome: Literal["send", "skip", "expire", "fail"]
    reason: str | None = None
    to: str | None = None
    size: int = 0


class DryRun:
    """Judges jobs, changes nothing."""

    def __init__(self, renderer: Renderer, recipients: RecipientLoader | None, clock: Clock) -> None:
        """Without `people`, nothing is known that could stand against a mail."""
        self.renderer = renderer  # may be replaced while the house runs
        self._recipients = recipients
        self._clock = clock

    async def predict(self, job: Job) -> Prediction:
        """What this daemon would do if it had claimed the job now. Never raises but for a cancellation."""
        if job.invalid_reason is not None:
            return Prediction(job.name, "fail", job.invalid_reason)
        try:
            return await self._judged(job, parse_request(job.name, job.data))
        except FlowstateError as error:
            return Prediction(job.name, "fail", error.reason)
        except Exception as error:
            log.exception("handler_error", job_id=job.id, kind=job.name)
            return Prediction(job.name, "fail", failure_reason(error))

    async def _judged(self, job: Job, request: MailRequest) -> Prediction:
        # As for a code: a shadow that waited for Postgres would lose sight of the queue.
        facts = UNKNOWN_RECIPIENT if self._recipients is None else await self._recipients.load(request.to, urgent=True)
        decision = decide(request, facts, now_ms=self._clock.now_ms(), made_ms=job.timestamp)
        to = mask_address(request.to)
        if not decision.send:
            return Prediction(job.name, "expire" if decision.outcome == "expired" else "skip", decision.reason, to)
        await asyncio.sleep(0)  # a hundred mails are rendered one after the other: let others in between
        mail = self.renderer.render(with_locale(facts, request), made_ms=job.timestamp)
        return Prediction(job.name, "send", None, to, len(mail.html.encode()))


MAX_REASON_LENGTH = 300
NOT_SENT_RESULTS = ("skipped", "expired")  # what a daemon of ours answers for a mail that it did not send


@dataclass(frozen=True, slots=True)
class ObservedOutcome:
    """What the other worker did: `sent`, `failed`, `skipped` or `expired`, and its reason."""

    outcome: str
    reason: str | None = None


def observed_outcome(sign: JobEvent) -> ObservedOutcome:
    """What an end means. A worker that completes a job has sent its mail, unless its result says otherwise."""
    if sign.type == "failed":
        return ObservedOutcome("failed", sign.payload[:MAX_REASON_LENGTH] or None)
    result = _result(sign.payload)
    for word in NOT_SENT_RESULTS:
        if isinstance(result, dict) and word in result:
            return ObservedOutcome(word, str(result[word])[:MAX_REASON_LENGTH])
    return ObservedOutcome("sent")


def matches(result: Prediction, observed: ObservedOutcome) -> bool:
    """Whether the person gets the mail from both, or from neither."""
    return (result.outcome == "send") == (observed.outcome == "sent")


def _result(text: str) -> Any:
    try:
        return msgspec.json.decode(text.encode("utf-8", "replace"))
    except msgspec.DecodeError:
        return None
