"""One job's way: read, decide, render, onto the bus. Called by the pool; knows nothing of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import MailExpired, MailSkipped
from flowstate_daemon.mail.kinds import KINDS, URGENT_PRIORITY, MailRequest, parse_request
from flowstate_daemon.mail.locales import match_locale
from flowstate_daemon.mail.message import mask_address
from flowstate_daemon.mail.policy import PASS, UNKNOWN_RECIPIENT, Decision, RecipientStatus, decide, expires_at_ms
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.queue.job import Job
from flowstate_daemon.sending.batch import EXPIRED_REASON, OutgoingMail
from flowstate_daemon.sending.dispatcher import Dispatcher
from flowstate_daemon.worker.in_flight import JobRun
from flowstate_daemon.worker.lookups import RecipientLoader, ScheduledMailGuard


class MailHandler:
    """Turns a job into a mail and sees it off."""

    def __init__(
        self,
        renderer: Renderer,
        dispatcher: Dispatcher,
        recipients: RecipientLoader | None,
        clock: Clock,
        mail_guard: ScheduledMailGuard | None = None,
    ) -> None:
        """Without `people`, nothing is known that could stand against a mail; without `leaves`, no mail needs one."""
        self.renderer = renderer  # may be replaced while the house runs; what is sealed already stays as it is
        self._dispatcher = dispatcher
        self._recipients = recipients
        self._clock = clock
        self._mail_guard = mail_guard
        self._render_lock = asyncio.Lock()

    async def perform(self, run: JobRun) -> dict[str, Any]:
        """Send one job's mail; the result becomes the job's return value. Raises FlowstateError by fate."""
        with self._dispatcher.expecting():
            mail = await self._prepared(run)
        try:
            accepted = await self._dispatcher.send(mail)
        finally:
            if mail.sent_at is not None:
                run.decisions.append(Decision("rate", PASS, f"waited {mail.sent_at - mail.queued_at:.1f} s"))
        run.log_fields["provider_id"] = accepted.provider_id
        return {"id": accepted.provider_id, "provider": accepted.provider}

    async def _prepared(self, run: JobRun) -> OutgoingMail:
        """Raises Malformed, Expired or Skip."""
        request = parse_request(run.job.name, run.job.data)
        run.to = request.to
        run.log_fields["to"] = mask_address(request.to)
        urgent = URGENT_PRIORITY in (run.job.priority, KINDS[request.kind].priority)
        if run.job.stored_request_id is None:
            mail = self._make_outgoing(run.job, await self._decided(run, request, urgent=urgent), urgent=urgent)
            async with self._at_context(run.job):
                mail.render()
            return mail
        mail = self._make_outgoing(run.job, request, urgent=urgent)
        if mail.expired(self._clock.now_ms()):
            raise MailExpired(EXPIRED_REASON)
        # Anything else that was sealed may have been sent: it is too late to decide otherwise.
        return mail

    async def _decided(self, run: JobRun, request: MailRequest, *, urgent: bool) -> MailRequest:
        """The request in the person's language. Raises Expired or Skip when the mail must not go."""
        facts = (
            UNKNOWN_RECIPIENT if self._recipients is None else await self._recipients.load(request.to, urgent=urgent)
        )
        decision = decide(request, facts, now_ms=self._clock.now_ms(), made_ms=run.job.timestamp)
        run.decisions.extend(decision.decisions)
        if not decision.send:
            raise (MailExpired if decision.outcome == "expired" else MailSkipped)(decision.reason or "not to be sent")
        if self._mail_guard is not None and await self._mail_guard.check(run.job.id):
            run.decisions.append(Decision("eligible", PASS))
        return with_locale(facts, request)

    @asynccontextmanager
    async def _at_context(self, job: Job) -> AsyncIterator[None]:
        """One mail at a time, so that the loop looks up between them and codes overtake; a code queues for nothing."""
        if job.priority == URGENT_PRIORITY:
            yield
            return
        async with self._render_lock:
            yield
            await self._dispatcher.right_of_way.yield_to_urgent()

    def _make_outgoing(self, job: Job, request: MailRequest, *, urgent: bool) -> OutgoingMail:
        return OutgoingMail(
            job,
            priority=job.priority or KINDS[request.kind].priority,
            urgent=urgent,
            build_email=lambda: self.renderer.render(request, made_ms=job.timestamp),
            expires_at=expires_at_ms(request, job.timestamp),
        )


def with_locale(facts: RecipientStatus | None, request: MailRequest) -> MailRequest:
    """The job's own language wins, then the person's; without either it is left to the renderer."""
    if request.locale is not None or facts is None:
        return request
    return replace(request, locale=match_locale(facts.language))
