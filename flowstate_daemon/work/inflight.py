"""The jobs that this process holds, from claim to settled: who runs them, and how a run is called off.

Shared by the loops of this room; knows nothing of Redis. A slot is free when no sender works in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from flowstate_daemon.mail.policy import Step
from flowstate_daemon.queue.job import Job

# How many ended jobs may wait to be written down before no more are claimed.
UNSETTLED = 200


class CalledOff(Enum):
    """Why a run was ended from outside."""

    LOCK_LOST = "another worker owns the job by now"
    HANDED_BACK = "the daemon is shutting down"


@dataclass(slots=True, eq=False)
class Run:
    """One try of one job in this process. `taken_at` is monotonic seconds.

    `facts` are what the canonical log line will say of it: masked, never a code. `to`, in full, and `chain`, the
    decisions on its way, are for the ledger; `skipped` says which way a mail was not sent.
    """

    job: Job
    taken_at: float
    facts: dict[str, Any] = field(default_factory=dict)
    to: str = ""
    chain: list[Step] = field(default_factory=list)
    skipped: Literal["skipped", "expired"] | None = None
    task: asyncio.Task[None] | None = None
    called_off: CalledOff | None = None
    over: bool = False

    def call_off(self, why: CalledOff) -> None:
        """Interrupt the run where it stands; the first reason stays."""
        if self.called_off is None:
            self.called_off = why
            if self.task is not None:
                self.task.cancel()


class InFlight:
    """All runs by job id, and the arithmetic of free slots; `reserve` more of them are for urgent jobs only."""

    def __init__(self, slots: int, reserve: int = 0) -> None:
        self._slots = slots
        self._reserve = reserve
        self._runs: dict[str, Run] = {}
        self._busy = 0
        self.changes = 0
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def busy(self) -> int:
        """Runs that a sender works on or that wait for one."""
        return self._busy

    @property
    def free(self) -> int:
        """How many more jobs may be claimed now."""
        return self._free(self._slots)

    @property
    def free_for_urgent(self) -> int:
        """How many more urgent jobs may be claimed now."""
        return self._free(self._slots + self._reserve)

    def _free(self, slots: int) -> int:
        return min(slots - self._busy, slots + UNSETTLED - len(self._runs))

    @property
    def half(self) -> int:
        """Half of the slots, rounded up."""
        return (self._slots + 1) // 2

    def ids(self) -> list[str]:
        return list(self._runs)

    def running(self, job_ids: Iterable[str]) -> set[str]:
        """Those of the jobs whose run has not ended yet."""
        return {job_id for job_id in job_ids if (run := self._runs.get(job_id)) is not None and not run.over}

    def take_in(self, job: Job, now: float) -> Run:
        before = self._runs.get(job.id)
        if before is not None and not before.over and before.job.timestamp == job.timestamp:
            # Its lock had run out, and now is ours once more: two runs would be two mails.
            before.call_off(CalledOff.LOCK_LOST)
        run = Run(job, now)
        self._runs[job.id] = run
        self._busy += 1
        return run

    def performed(self) -> None:
        """A sender is done with its run; the job stays held until it is settled."""
        self._busy -= 1
        self._note_change()

    def settled(self, job: Job) -> Run | None:
        """The job's end is written down, or not ours to write. After `obliterate` an id may be in hand twice."""
        self._note_change()
        run = self._runs.get(job.id)
        if run is None or run.job is not job:
            return None
        return self._runs.pop(job.id)

    def superseded(self, job: Job) -> bool:
        """Whether we have claimed the same job again: an ending of the run before is written, or not ours to write."""
        run = self._runs.get(job.id)
        return run is not None and run.job is not job and run.job.timestamp == job.timestamp

    def call_off(self, job_ids: Iterable[str], why: CalledOff) -> None:
        for job_id in job_ids:
            run = self._runs.get(job_id)
            if run is not None:
                run.call_off(why)

    def _note_change(self) -> None:
        self.changes += 1
        self._changed.set()

    async def changed(self) -> None:
        """Wait until a slot has become free or a job has been settled."""
        self._changed.clear()
        await self._changed.wait()
