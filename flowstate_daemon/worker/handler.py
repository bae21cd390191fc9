"""Processes one job: parse, decide, render, send. Called by the processor pool; does not use Redis itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import MailExpired, MailSkipped
from flowstate_daemon.mail.kinds import URGENT_PRIORITY, MailRequest, parse_request
from flowstate_daemon.mail.locales import match_locale
from flowstate_daemon.mail.message import Accepted, mask_address
from flowstate_daemon.mail.policy import PASS, UNKNOWN_RECIPIENT, Decision, RecipientStatus, decide, expires_at_ms
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.mail.unsubscribe_links import link_issue_time
from flowstate_daemon.queue.job import Job
from flowstate_daemon.sending.batch import OutgoingMail
from flowstate_daemon.sending.dispatcher import Dispatcher
from flowstate_daemon.worker.earlier_requests import EarlierRequests
from flowstate_daemon.worker.in_flight import JobRun
from flowstate_daemon.worker.lookups import RecipientLoader, ScheduledMailGuard
from flowstate_daemon.worker.scheduled_kinds import ScheduledKinds


class MailHandler:
    """Turns a job into an email and sends it."""

    def __init__(  # noqa: PLR0913 - it connects every rule of an email
        self,
        renderer: Renderer,
        dispatcher: Dispatcher,
        recipients: RecipientLoader | None,
        clock: Clock,
        mail_guard: ScheduledMailGuard | None = None,
        scheduled_kinds: ScheduledKinds | None = None,
        earlier_requests: EarlierRequests | None = None,
    ) -> None:
        """Without `recipients` nothing is known about an address; without `mail_guard` no email needs a send claim.

        `scheduled_kinds` has the rules for jobs of these kinds that others have made. `earlier_requests` finds
        emails that were already sent.
        """
        self.renderer = renderer  # a reload replaces it; stored requests stay as they are
        self._dispatcher = dispatcher
        self._recipients = recipients
        self._clock = clock
        self._mail_guard = mail_guard
        self._scheduled_kinds = scheduled_kinds
        self._earlier_requests = earlier_requests

    async def perform(self, run: JobRun) -> dict[str, Any]:
        """Send the email of one job. The result becomes the job's return value.

        Raises:
            FlowstateError: the class decides what becomes of the job, see `worker/results.py`.
        """
        try:
            accepted = await self._send(run)
        except MailSkipped as refusal:
            if self._earlier_requests is None:
                raise
            accepted = await self._earlier_requests.settle(run, refusal)
            run.decisions.clear()  # the email was sent: what would be decided now does not explain it
        run.log_fields["provider_id"] = accepted.provider_id
        return {"id": accepted.provider_id, "provider": accepted.provider}

    async def _send(self, run: JobRun) -> Accepted:
        with self._dispatcher.expecting:
            mail = await self._prepare(run)
        run.in_request = lambda: mail.in_request
        run.maybe_sent = lambda: mail.in_request or mail.maybe_sent
        run.requests = lambda: mail.requests
        mail.trace = run.trace
        try:
            return await self._dispatcher.send(mail)
        finally:
            if mail.sent_at is not None:
                run.decisions.append(Decision("rate", PASS, f"waited {mail.sent_at - mail.queued_at:.1f} s"))
            if run.trace is not None:
                run.trace.sent(mail.queued_at, mail.sent_at)

    async def _prepare(self, run: JobRun) -> OutgoingMail:
        """Raises InvalidDataError, MailExpired or MailSkipped."""
        catalog = self.renderer.catalog
        request = parse_request(run.job.name, run.job.data, catalog.kinds, catalog.locales)
        run.recipient = request.to
        run.log_fields["recipient"] = mask_address(request.to)
        run.urgent = urgent = URGENT_PRIORITY in (run.job.priority, request.spec.priority)
        if run.job.stored_request_id is None:
            mail = self._make_outgoing(run.job, await self._decide(run, request, urgent=urgent), urgent=urgent)
            await self._render(run, mail)
            return mail
        # An earlier try of the stored request may have sent the email: it is too late for another decision.
        return self._make_outgoing(run.job, request, urgent=urgent)

    async def _decide(self, run: JobRun, request: MailRequest, *, urgent: bool) -> MailRequest:
        """The request in the recipient's language. Raises MailExpired or MailSkipped if it must not be sent."""
        if self._scheduled_kinds is not None and (foreign := self._scheduled_kinds.check(run.job)) is not None:
            run.decisions.append(foreign)
            raise MailSkipped(foreign.reason or "not to be sent")
        status: RecipientStatus | None = UNKNOWN_RECIPIENT
        if self._recipients is not None:
            status = await self._recipients.load(request.written_to, urgent=urgent)
        lifetimes = None if self._scheduled_kinds is None else self._scheduled_kinds.lifetimes_for(run.job)
        now_ms, created_ms = self._clock.now_ms(), run.job.created_ms
        decision = decide(request, status, now_ms=now_ms, created_ms=created_ms, lifetimes=lifetimes)
        run.decisions.extend(decision.decisions)
        if not decision.send:
            raise (MailExpired if decision.outcome == "expired" else MailSkipped)(decision.reason or "not to be sent")
        if self._mail_guard is not None and await self._mail_guard.check(run.job.id):
            run.decisions.append(Decision("eligible", PASS))
        return with_locale(status, request, self.renderer.catalog.locales)

    async def _render(self, run: JobRun, mail: OutgoingMail) -> None:
        """Render a few bulk emails in each turn of the event loop, so that codes overtake them; codes do not wait."""
        if run.job.priority != URGENT_PRIORITY:
            await self._dispatcher.bulk_turns.wait()
        if run.trace is None:
            mail.render()
        else:
            run.trace.timed("render", mail.render)

    def _make_outgoing(self, job: Job, request: MailRequest, *, urgent: bool) -> OutgoingMail:
        return OutgoingMail(
            job,
            priority=job.priority or request.spec.priority,
            urgent=urgent,
            build_email=lambda: self.renderer.render(
                request,
                issued_ms=link_issue_time(job.created_ms, self._clock.now_ms()),
                created_ms=job.created_ms,
            ),
            expires_at=expires_at_ms(request, job.created_ms),
        )


def with_locale(status: RecipientStatus | None, request: MailRequest, locales: Sequence[str]) -> MailRequest:
    """What the recipient has chosen here wins over the job's own locale, that over the application's preferences.

    Without any of them the renderer uses the default language.
    """
    if status is None:
        return request
    chosen = match_locale(status.preferences.language, locales)
    locale = chosen or request.locale or match_locale(status.language, locales)
    return request if locale == request.locale else replace(request, locale=locale)
