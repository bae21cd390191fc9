"""One job's way: read, render, onto the bus. Called by the pool; knows nothing of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from flowstate_daemon.mail.catalogue import KINDS, URGENT, MailRequest, read_request
from flowstate_daemon.mail.message import masked
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.queue.job import Job
from flowstate_daemon.work.bus import Bus
from flowstate_daemon.work.inflight import Run
from flowstate_daemon.work.parcel import Parcel


class Sender:
    """Turns a job into a mail and sees it off."""

    def __init__(self, renderer: Renderer, bus: Bus) -> None:
        self._renderer = renderer
        self._bus = bus
        self._desk = asyncio.Lock()

    async def perform(self, run: Run) -> dict[str, Any]:
        """Send one job's mail; the result becomes the job's return value. Raises FlowstateError by fate."""
        accepted = await self._bus.post(await self._parcel(run))
        run.facts["provider_id"] = accepted.provider_id
        return {"id": accepted.provider_id, "provider": accepted.provider}

    async def _parcel(self, run: Run) -> Parcel:
        job = run.job
        with self._bus.expecting():
            async with self._at_desk(job):
                request = read_request(job.name, job.data)
                run.facts["to"] = masked(request.to)
                parcel = self._packed(job, request)
                if job.envelope is None:
                    parcel.render()
        return parcel

    @asynccontextmanager
    async def _at_desk(self, job: Job) -> AsyncIterator[None]:
        """Mails are made one at a time, so that the loop looks up between them; a code does not queue for that."""
        if job.priority == URGENT:
            yield
            return
        async with self._desk:
            yield

    def _packed(self, job: Job, request: MailRequest) -> Parcel:
        usual = KINDS[request.kind].priority
        return Parcel(
            job,
            priority=job.priority or usual,
            urgent=URGENT in (job.priority, usual),
            make=lambda: self._renderer.render(request),
        )
