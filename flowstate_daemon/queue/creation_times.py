"""When the jobs were really added: a producer whose clock is wrong must not make its codes expire, or live for long.

The timestamp of a job is its producer's time. We know two more things: a job is not newer than its claim, and one that
is claimed for the first time is not older than the moment when the queue was last seen without such jobs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

import msgspec

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.job import Job

MIN_DIFFERENCE_MS = 1_000  # the precision of synchronized clocks; smaller differences are not remembered
MAX_REMEMBERED = 10_000
URGENT_PRIORITY = 1


class CreationTimes:
    """Sets `created_ms` of the jobs that this daemon claims."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Called with how far a producer's clock is ahead, in seconds.
        self.on_difference: Callable[[float], None] = lambda _: None
        # Monotonic times at which no job waited, and no urgent one.
        self._empty_at: float | None = None
        self._no_urgent_at: float | None = None
        self._known: OrderedDict[tuple[str, int], int] = OrderedDict()

    def forget(self) -> None:
        """Redis may have lost its newest writes: jobs that were claimed before may wait again, as if they were new."""
        self._empty_at = self._no_urgent_at = None

    def apply(self, jobs: Sequence[Job], processed: Collection[str], asked_at: float, *, full: bool) -> list[Job]:
        """The jobs of one claim, with their creation times.

        `processed` are ids of jobs that were claimed before, `asked_at` is the monotonic time before the claim, and
        `full` says that more jobs may be waiting.
        """
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic()
        # A manual retry removes the mark of the earlier claims, but not the number of attempts.
        result = [
            self._with_time(job, job.id not in processed and not job.attempts_made, now_ms, now_s) for job in jobs
        ]
        if not full:
            self._empty_at = self._no_urgent_at = asked_at
        elif any(job.priority != URGENT_PRIORITY and not job.options.lifo for job in jobs):
            # Urgent jobs are in front of the others, so these were claimed before the first of the others.
            self._no_urgent_at = asked_at
        return result

    def _with_time(self, job: Job, is_new: bool, now_ms: int, now_s: float) -> Job:
        written_ms = job.timestamp_ms
        if not written_ms:
            return job  # the producer wrote no time
        key = job.id, job.timestamp
        created_ms = self._known.get(key)
        if created_ms is None:
            created_ms = self._estimate(job, written_ms, is_new, now_ms, now_s)
            if abs(created_ms - written_ms) >= MIN_DIFFERENCE_MS:
                self._remember(key, created_ms)
                if self._clock.reliable:
                    self.on_difference((written_ms - created_ms) / 1000)
        return msgspec.structs.replace(job, estimated_ms=created_ms) if created_ms != written_ms else job

    def _estimate(self, job: Job, written_ms: int, is_new: bool, now_ms: int, now_s: float) -> int:
        if not self._clock.reliable:
            return now_ms  # its age is unknown: from here on, only the time in this process counts
        created_ms = min(written_ms, now_ms)
        seen_at = self._no_urgent_at if job.priority == URGENT_PRIORITY else self._empty_at
        if is_new and not job.options.delayed and seen_at is not None:
            created_ms = max(created_ms, now_ms - round((now_s - seen_at) * 1000))
        return created_ms

    def _remember(self, key: tuple[str, int], created_ms: int) -> None:
        """The next attempt of the job is not new any more."""
        self._known[key] = created_ms
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
