"""Leave to send: a mail of the calendar asks its slot in Postgres before it goes onto the bus.

Once a slot's end is in the ledger, what Redis repeats or brings back out of an old copy can therefore not send its mail
a second time; in the second before that, and for all other mails, the sealed requests see to it, as far as Redis
remembers them. Other mails know no slot and need no leave.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from flowstate_daemon.base.errors import Expired, Skip
from flowstate_daemon.work.gather import Gather

OF_THE_CALENDAR = "notice."
# What a producer calls a job may hold characters that Postgres does not take; no slot has such a name.
SLOTS_JOB = re.compile(r"notice\.[\w.-]+", re.ASCII)


class Leave(Protocol):
    """What the calendar answers, as `database.notices` does."""

    @property
    def granted(self) -> bool: ...
    @property
    def state(self) -> str: ...
    @property
    def lost(self) -> bool: ...


class Calendar(Protocol):
    """Where the slots are: `database.notices`."""

    async def grant(self, job_ids: Sequence[str]) -> Mapping[str, Leave]: ...


class Leaves:
    """Gathers questions while one is under way. While Postgres is away, mails of the calendar wait."""

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar
        self._gather = Gather("leaves", self._look_up)

    async def take(self, job_id: str) -> bool:
        """Return when the job may send its mail: whether a slot gave leave. Raises Skip or Expired when it must not."""
        if not job_id.startswith(OF_THE_CALENDAR):
            return False
        leave = await self._gather.in_the_end(job_id) if SLOTS_JOB.fullmatch(job_id) else None
        if leave is None:
            raise Skip("the calendar has no such slot, or has given it another job")
        if leave.lost:
            raise Skip("the calendar has given this mail up: nobody knows whether it has left before")
        if not leave.granted and leave.state in {"planned", "queued", "failed"}:
            raise Expired("it is too late for this mail of the calendar")
        if not leave.granted:
            raise Skip(f"the calendar has ended this slot before: {leave.state}")
        return True

    async def close(self) -> None:
        await self._gather.close()

    async def _look_up(self, job_ids: Sequence[str]) -> Mapping[str, Leave | None]:
        found = await self._calendar.grant(job_ids)
        return {job_id: found.get(job_id) for job_id in job_ids}
