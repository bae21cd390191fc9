"""Predicts what this daemon would do with a job, and compares the prediction with what another worker did.

A job is parsed, decided and rendered as in `worker/handler.py`, and then not sent.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.base.redaction import mask_address
from flowstate_daemon.mail.kinds import MailRequest, parse_request
from flowstate_daemon.mail.policy import UNKNOWN_RECIPIENT, RecipientStatus, decide
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.mail.unsubscribe_links import link_issue_time
from flowstate_daemon.queue.job import Job
from flowstate_daemon.shadow.observer import JobEvent
from flowstate_daemon.worker.handler import with_locale
from flowstate_daemon.worker.lookups import RecipientLoader
from flowstate_daemon.worker.results import failure_reason, unsent

log = structlog.get_logger()

MAX_REASON_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Prediction:
    """What would become of a job, and why. `recipient` is masked; `html_bytes` is the size of the email's HTML."""

    kind: str
    outcome: Literal["send", "skip", "expire", "fail"]
    reason: str | None = None
    recipient: str | None = None
    html_bytes: int = 0


class DryRun:
    """Predicts the outcome of jobs; changes nothing."""

    def __init__(self, renderer: Renderer, recipients: RecipientLoader | None, clock: Clock) -> None:
        """Without `recipients`, nothing is known about an address."""
        self.renderer = renderer  # a reload replaces it
        self._recipients = recipients
        self._clock = clock

    async def predict(self, job: Job) -> Prediction:
        """What this daemon would do if it had claimed the job now. Raises nothing except a cancellation."""
        if job.invalid_reason is not None:
            return Prediction(job.name, "fail", job.invalid_reason)
        try:
            catalog = self.renderer.catalog
            return await self._predict(job, parse_request(job.name, job.data, catalog.kinds, catalog.locales))
        except FlowstateError as error:
            return Prediction(job.name, "fail", error.reason)
        except Exception as error:
            log.exception("handler_error", job_id=job.id, kind=job.name)
            return Prediction(job.name, "fail", failure_reason(error))

    async def _predict(self, job: Job, request: MailRequest) -> Prediction:
        # Not waiting, as for a code: while it waited for Postgres, the shadow would miss events of the queue.
        status: RecipientStatus | None = UNKNOWN_RECIPIENT
        if self._recipients is not None:
            status = await self._recipients.load(request.written_to, urgent=True)
        decision = decide(request, status, now_ms=self._clock.now_ms(), created_ms=job.created_ms)
        recipient = mask_address(request.to)
        if not decision.send:
            return Prediction(
                job.name, "expire" if decision.outcome == "expired" else "skip", decision.reason, recipient
            )
        # Up to a hundred emails are rendered one after the other: let other tasks run in between.
        await asyncio.sleep(0)
        issued_ms = link_issue_time(job.created_ms, self._clock.now_ms())
        request = with_locale(status, request, self.renderer.catalog.locales)
        email = self.renderer.render(request, issued_ms=issued_ms, created_ms=job.created_ms)
        return Prediction(job.name, "send", None, recipient, len(email.html.encode()))


@dataclass(frozen=True, slots=True)
class ObservedOutcome:
    """What the other worker did: `sent`, `failed`, `skipped` or `expired`, and the reason."""

    outcome: str
    reason: str | None = None


def observed_outcome(event: JobEvent) -> ObservedOutcome:
    """The meaning of an event. A worker that completes a job has sent the email, unless the return value says not."""
    if event.type == "failed":
        return ObservedOutcome("failed", event.payload[:MAX_REASON_LENGTH] or None)
    if not_sent := unsent(_decode_json(event.payload)):
        outcome, reason = not_sent
        return ObservedOutcome(outcome, reason[:MAX_REASON_LENGTH])
    return ObservedOutcome("sent")


def matches(prediction: Prediction, observed: ObservedOutcome) -> bool:
    """Whether the recipient gets the email from both workers or from neither."""
    return (prediction.outcome == "send") == (observed.outcome == "sent")


def _decode_json(text: str) -> Any:
    try:
        return msgspec.json.decode(text.encode("utf-8", "replace"))
    except msgspec.DecodeError:
        return None
