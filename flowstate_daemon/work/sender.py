"""One job's way: read, decide, render, onto the bus. Called by the pool; knows nothing of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import Expired, Skip
from flowstate_daemon.mail.catalogue import KINDS, URGENT, MailRequest, read_request
from flowstate_daemon.mail.facts import NOTHING_KNOWN, PersonFacts
from flowstate_daemon.mail.language import spoken
from flowstate_daemon.mail.message import masked
from flowstate_daemon.mail.policy import PASS, Step, decide, expires_at_ms
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.queue.job import Job
from flowstate_daemon.work.bus import Bus
from flowstate_daemon.work.inflight import Run
from flowstate_daemon.work.leaves import Leaves
from flowstate_daemon.work.parcel import TOO_LATE, Parcel
from flowstate_daemon.work.people import People


class Sender:
    """Turns a job into a mail and sees it off."""

    def __init__(
        self, renderer: Renderer, bus: Bus, people: People | None, clock: Clock, leaves: Leaves | None = None
    ) -> None:
        """Without `people`, nothing is known that could stand against a mail; without `leaves`, no mail needs one."""
        self.renderer = renderer  # may be replaced while the house runs; what is sealed already stays as it is
        self._bus = bus
        self._people = people
        self._clock = clock
        self._leaves = leaves
        self._desk = asyncio.Lock()

    async def perform(self, run: Run) -> dict[str, Any]:
        """Send one job's mail; the result becomes the job's return value. Raises FlowstateError by fate."""
        with self._bus.expecting():
            parcel = await self._prepared(run)
        try:
            accepted = await self._bus.post(parcel)
        finally:
            if parcel.left_at is not None:
                run.chain.append(Step("rate", PASS, f"waited {parcel.left_at - parcel.posted_at:.1f} s"))
        run.facts["provider_id"] = accepted.provider_id
        return {"id": accepted.provider_id, "provider": accepted.provider}

    async def _prepared(self, run: Run) -> Parcel:
        """Raises Malformed, Expired or Skip."""
        request = read_request(run.job.name, run.job.data)
        run.to = request.to
        run.facts["to"] = masked(request.to)
        urgent = URGENT in (run.job.priority, KINDS[request.kind].priority)
        if run.job.envelope is None:
            parcel = self._packed(run.job, await self._decided(run, request, urgent=urgent), urgent=urgent)
            async with self._at_desk(run.job):
                parcel.render()
            return parcel
        parcel = self._packed(run.job, request, urgent=urgent)
        if parcel.expired(self._clock.now_ms()):
            raise Expired(TOO_LATE)
        # Anything else that was sealed may have been sent: it is too late to decide otherwise.
        return parcel

    async def _decided(self, run: Run, request: MailRequest, *, urgent: bool) -> MailRequest:
        """The request in the person's language. Raises Expired or Skip when the mail must not go."""
        facts = NOTHING_KNOWN if self._people is None else await self._people.facts(request.to, urgent=urgent)
        decision = decide(request, facts, now_ms=self._clock.now_ms(), made_ms=run.job.timestamp)
        run.chain.extend(decision.chain)
        if not decision.send:
            raise (Expired if decision.outcome == "expired" else Skip)(decision.reason or "not to be sent")
        if self._leaves is not None and await self._leaves.take(run.job.id):
            run.chain.append(Step("eligible", PASS))
        return in_language_of(facts, request)

    @asynccontextmanager
    async def _at_desk(self, job: Job) -> AsyncIterator[None]:
        """One mail at a time, so that the loop looks up between them and codes overtake; a code queues for nothing."""
        if job.priority == URGENT:
            yield
            return
        async with self._desk:
            yield
            await self._bus.right_of_way.give_way()

    def _packed(self, job: Job, request: MailRequest, *, urgent: bool) -> Parcel:
        return Parcel(
            job,
            priority=job.priority or KINDS[request.kind].priority,
            urgent=urgent,
            make=lambda: self.renderer.render(request, made_ms=job.timestamp),
            expires_at=expires_at_ms(request, job.timestamp),
        )


def in_language_of(facts: PersonFacts | None, request: MailRequest) -> MailRequest:
    """The job's own language wins, then the person's; without either it is left to the renderer."""
    if request.locale is not None or facts is None:
        return request
    return replace(request, locale=spoken(facts.language))
