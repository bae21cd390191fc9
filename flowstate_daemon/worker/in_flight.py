"""The jobs in flight in this process, from claim to settled: their runs, the free slots, and how a run is aborted.

Shared by all services of the worker; does not use Redis. A slot is free when no processor uses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from flowstate_daemon.mail.policy import Decision
from flowstate_daemon.queue.job import Job

if TYPE_CHECKING:  # it needs packages of the extra `otel`
    from flowstate_daemon.base.tracing import EmailTrace

# When this many finished jobs wait for their result to be written, no more jobs are claimed.
MAX_UNWRITTEN = 200


class AbortReason(Enum):
    """Why a run was aborted."""

    LOCK_LOST = "another worker owns the job by now"
    RELEASED = "the daemon is shutting down"


class JobRun(msgspec.Struct, eq=False):
    """One attempt of one job in this process. `claimed_at` is in monotonic seconds.

    `log_fields` are added to the log event of the result: masked, never a code. `recipient`, the full address, and
    `decisions` are for the ledger. `skip_reason` is set if the email was not sent on purpose. `trace` is None unless
    this email is traced.
    """

    job: Job
    claimed_at: float
    log_fields: dict[str, Any] = msgspec.field(default_factory=dict)
    recipient: str = ""
    urgent: bool = False  # a code, whatever the priority of its job
    decisions: list[Decision] = msgspec.field(default_factory=list)
    skip_reason: Literal["skipped", "expired"] | None = None
    task: asyncio.Task[None] | None = None
    abort_reason: AbortReason | None = None
    finished: bool = False
    in_request: Callable[[], bool] = lambda: False  # whether a request with this email is at the provider
    maybe_sent: Callable[[], bool] = lambda: False  # whether it is, or the outcome of an earlier one is unknown
    requests: Callable[[], int] = lambda: 0  # how many requests have contained this email, those of this run included
    trace: EmailTrace | None = None

    def abort(self, reason: AbortReason) -> None:
        """Cancel the run; the first reason stays."""
        if self.abort_reason is None:
            self.abort_reason = reason
            if self.task is not None:
                self.task.cancel()


class InFlightJobs:
    """All runs by job id, and the number of free slots; `reserve` more slots are for urgent jobs only."""

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
        """Runs that a processor works on, or that wait for one."""
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
        """Those of the jobs whose run has not finished."""
        return {job_id for job_id in job_ids if (run := self._runs.get(job_id)) is not None and not run.finished}

    def add(self, job: Job, now: float) -> JobRun:
        previous = self._runs.get(job.id)
        if previous is not None and not previous.finished and previous.job.timestamp == job.timestamp:
            # The lock expired, and this process claimed the same job again: two runs would send two emails.
            previous.abort(AbortReason.LOCK_LOST)
        run = JobRun(job, now)
        self._runs[job.id] = run
        self._busy += 1
        return run

    def free_slot(self) -> None:
        """A processor finished its run; the job stays in flight until it is settled."""
        self._busy -= 1
        self._notify()

    def remove(self, job: Job) -> JobRun | None:
        """The result is written or must not be written. After `obliterate`, two jobs in flight may have the same id."""
        self._notify()
        run = self._runs.get(job.id)
        if run is None or run.job is not job:
            return None
        return self._runs.pop(job.id)

    def is_superseded(self, job: Job) -> bool:
        """Whether this process claimed the same job again: the result of the earlier run must not be written."""
        run = self._runs.get(job.id)
        return run is not None and run.job is not job and run.job.timestamp == job.timestamp

    def abort(self, job_ids: Iterable[str], reason: AbortReason) -> None:
        """Abort runs. After a lost lock a run ends by itself if its request is at the provider already.

        An operator may have removed the job, and then nothing else would record that the email was sent. If another
        worker has it, that one sends the same stored request, which the provider recognizes.
        """
        for job_id in job_ids:
            run = self._runs.get(job_id)
            if run is not None and not (reason is AbortReason.LOCK_LOST and run.in_request()):
                run.abort(reason)

    def _notify(self) -> None:
        self.changes += 1
        self._changed.set()

    async def wait_for_change(self) -> None:
        """Wait until a slot becomes free or a job is settled."""
        self._changed.clear()
        await self._changed.wait()
