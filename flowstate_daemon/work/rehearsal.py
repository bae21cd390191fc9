"""What would become of a job if this daemon had it: read, decided and rendered in earnest, and then put aside.

The shadow asks. The way is the sender's (`work/sender.py`) up to the bus.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.mail.catalogue import MailRequest, read_request
from flowstate_daemon.mail.facts import NOTHING_KNOWN
from flowstate_daemon.mail.message import masked
from flowstate_daemon.mail.policy import decide
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.queue.job import Job
from flowstate_daemon.work.fate import readable
from flowstate_daemon.work.people import People
from flowstate_daemon.work.sender import in_language_of

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What would be done with a job, and why; `to` is masked, `size` the bytes of the mail's HTML."""

    kind: str
    would: Literal["send", "skip", "expire", "fail"]
    reason: str | None = None
    to: str | None = None
    size: int = 0


class Rehearsal:
    """Judges jobs, changes nothing."""

    def __init__(self, renderer: Renderer, people: People | None, clock: Clock) -> None:
        """Without `people`, nothing is known that could stand against a mail."""
        self.renderer = renderer  # may be replaced while the house runs
        self._people = people
        self._clock = clock

    async def verdict(self, job: Job) -> Verdict:
        """What this daemon would do if it had claimed the job now. Never raises but for a cancellation."""
        if job.problem is not None:
            return Verdict(job.name, "fail", job.problem)
        try:
            return await self._judged(job, read_request(job.name, job.data))
        except FlowstateError as error:
            return Verdict(job.name, "fail", error.reason)
        except Exception as error:
            log.exception("performer_bug", job_id=job.id, kind=job.name)
            return Verdict(job.name, "fail", readable(error))

    async def _judged(self, job: Job, request: MailRequest) -> Verdict:
        # As for a code: a shadow that waited for Postgres would lose sight of the queue.
        facts = NOTHING_KNOWN if self._people is None else await self._people.facts(request.to, urgent=True)
        decision = decide(request, facts, now_ms=self._clock.now_ms(), made_ms=job.timestamp)
        to = masked(request.to)
        if not decision.send:
            return Verdict(job.name, "expire" if decision.outcome == "expired" else "skip", decision.reason, to)
        await asyncio.sleep(0)  # a hundred mails are rendered one after the other: let others in between
        mail = self.renderer.render(in_language_of(facts, request), made_ms=job.timestamp)
        return Verdict(job.name, "send", None, to, len(mail.html.encode()))
