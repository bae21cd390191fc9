"""The jobs that this process holds, from claim to settled: who runs them, and how a run is called off.

Shared by the loops of this room; knows nothing of Redis. A slot is free when no sender works in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from flowstate_daemon.mail.policy import Decision
from flowstate_daemon.queue.job import Job

# How many ended jobs may wait to be written down before no more are claimed.
MAX_UNWRITTEN = 200


class AbortReason(Enum):
    """Why a run was ended from outside."""

    LOCK_LOST = "another worker owns the job by now"
    RELEASED = "the daemon is shutting down"


@dataclass(slots=True, eq=False)
class JobRun:
    """One try of one job in this process. `taken_at` is monotonic seconds.

    `facts` are what the canonical log line will say of it: masked, never a code. `to`, in full, and `chain`, the
    decisions on its way, are for the ledger; `skipped` says which way a mail was not sent.
    """

    job: Job
    taken_at: float
    log_fields: dict[str, Any] = field(default_factory=dict)
    to: str = ""
    decisions: list[Decision] = field(default_factory=list)
    skip_reason: Literal["skipped", "expired"] | None = None
    task: asyncio.Task[None] | None = None
    called_off: AbortReason | None = None
    finished: bool = False

    def abort(self, reason: AbortReason) -> None:
        """Interrupt the run where it stands; the first reason stays."""
        if self.called_off is None:
            self.called_off = reason
            if self.task is not None:
                self.task.cancel()


class InFlightJobs:
    """All runs by job id, and the arithmetic of free slots; `reserve` more of them are for urgent jobs only."""

    def __init__(self, slots: int, reserve: int = 0) -> None:
        self._slots = slots
        self._reserve = reserve
        self._runs: dict[str, JobRun] = {}
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
        return min(slots - self._busy, slots + MAX_UNWRITTEN - len(self._runs))

    @property
    def half_capacity(self) -> int:
        """Half of the slots, rounded up."""
        return (self._slots + 1) // 2

    def ids(self) -> list[str]:
        return list(self._runs)

    def running(self, job_ids: Iterable[str]) -> set[str]:
        """Those of the jobs whose run has not ended yet."""
        return {job_id for job_id in job_ids if (run := self._runs.get(job_id)) is not None and not run.finished}

    def add(self, job: Job, now: float) -> JobRun:
        before = self._runs.get(job.id)
        if before is not None and not before.finished and before.job.timestamp == job.timestamp:
            # Its lock had run out, and now is ours once more: two runs would be two mails.
            before.abort(AbortReason.LOCK_LOST)
        run = JobRun(job, now)
        self._runs[job.id] = run
        self._busy += 1
        return run

    def free_slot(self) -> None:
        """A sender is done with its run; the job stays held until it is settled."""
        self._busy -= 1
        self._note_change()

    def remove(self, job: Job) -> JobRun | None:
        """The job's end is written down, or not ours to write. After `obliterate` an id may be in hand twice."""
        self._note_change()
        run = self._runs.get(job.id)
        if run is None or run.job is not job:
            return None
        return self._runs.pop(job.id)

    def is_superseded(self, job: Job) -> bool:
        """Whether we have claimed the same job again: an ending of the run before is written, or not ours to write."""
        run = self._runs.get(job.id)
        return run is not None and run.job is not job and run.job.timestamp == job.timestamp

    def abort(self, job_ids: Iterable[str], reason: AbortReason) -> None:
        for job_id in job_ids:
            run = self._runs.get(job_id)
            if run is not None:
                run.abort(reason)

    def _note_change(self) -> None:
        self.changes += 1
        self._changed.set()

    async def wait_for_change(self) -> None:
        """Wait until a slot has become free or a job has been settled."""
        self._changed.clear()
        await self._changed.wait()
