"""What Bull 4's queue is, in plain Python: the expected state after each operation of a worker, producer or operator.

Where this daemon differs from npm bull on purpose, an operation is told `by` whom it was done. The list of these
differences, with their reasons, is in docs/adr/0001-bull-layout.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

By = Literal["daemon", "bull"]
Mode = Literal["back", "lifo", "front", "first", "last"]
LOW_BITS = 4096  # scores in `delayed` are due ms x 4096 + 12 bits that order jobs due in one millisecond
MAX_STALLS = 1
STALLED = "job stalled more than allowable limit"


class RefusedError(Exception):
    """The operation is not possible in the job's state; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Which finished jobs stay: the newest `count` (0: not even this one), and none older than `age_s`."""

    count: int | None = None
    age_s: int | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """A job to add, in the terms of both programs."""

    name: str = "echo"
    data: Any = None
    priority: int = 0
    delay_ms: int = 0
    lifo: bool = False
    job_id: str | None = None
    attempts: int = 1
    backoff: tuple[Literal["fixed", "exponential"], int] | None = None
    on_complete: Keep = Keep()
    on_fail: Keep = Keep()
    debounce: str | None = None
    debounce_ms: int | None = None


@dataclass(slots=True)
class ModelJob:
    """A job and the fields of its hash; `fields` has those that not every job has."""

    spec: Spec
    timestamp: int
    delay: int
    fields: dict[str, Any] = field(default_factory=dict)
    attempts_made: int = 0
    stalls: int = 0

    @property
    def time(self) -> int:
        """The time that `clean` compares."""
        for name in ("finishedOn", "processedOn"):
            if name in self.fields:
                return int(self.fields[name])
        return self.timestamp


class QueueModel:
    """One queue. `ready` holds the ids in the order in which they run; `active` the newest first."""

    def __init__(self) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self.ready: list[str] = []
        self.active: list[str] = []
        self.delayed: dict[str, int] = {}
        self.completed: dict[str, int] = {}
        self.failed: dict[str, int] = {}
        self.ranked: dict[str, int] = {}
        self.locked: set[str] = set()
        self.debounces: dict[str, tuple[str, bool]] = {}
        self.counter = 0
        self.paused = False

    def add(self, spec: Spec, now: int, by: By) -> str:
        """The id of the new job, or of the one that made it unnecessary."""
        self.counter += 1
        if spec.job_id is not None and spec.job_id in self.jobs:
            return spec.job_id
        job_id = spec.job_id or str(self.counter)
        if spec.debounce is not None:
            holder, timed = self.debounces.get(spec.debounce, ("", False))
            # After `removeJobs`, `empty` and the like Bull keeps the key of a job that is gone, and refuses for ever.
            if holder and (by == "bull" or timed or holder in self.jobs):
                return holder
            self.debounces[spec.debounce] = (job_id, spec.debounce_ms is not None)
        self.jobs[job_id] = ModelJob(spec, now, spec.delay_ms)
        if spec.delay_ms:
            self.delayed[job_id] = (now + spec.delay_ms) * LOW_BITS + self.counter % LOW_BITS
        else:
            self._push(job_id, "lifo" if spec.lifo else "back")
        return job_id

    def claim(self, count: int, now: int) -> list[str]:
        taken = [] if self.paused else self.ready[:count]
        for job_id in taken:
            self.ready.remove(job_id)
            self.ranked.pop(job_id, None)
            self.active.insert(0, job_id)
            self.locked.add(job_id)
            self.jobs[job_id].fields["processedOn"] = now
        return taken

    def complete(self, job_id: str, value: Any, now: int) -> None:
        self._end_run(job_id)
        self._finish(self.completed, job_id, self.jobs[job_id].spec.on_complete, now, returnvalue=value)

    def fail(self, job_id: str, reason: str, now: int, by: By) -> None:
        """A failed attempt: the next one follows at once or later, or the job has failed."""
        self._end_run(job_id)
        job = self.jobs[job_id]
        job.attempts_made += 1
        job.fields["failedReason"] = reason
        if job.attempts_made >= job.spec.attempts:
            self._finish(self.failed, job_id, job.spec.on_fail, now, failedReason=reason)
            return
        delay = backoff_ms(job.spec, job.attempts_made, by)
        if delay:
            low = int(job_id) % LOW_BITS if job_id.isdecimal() else 0
            self.delayed[job_id] = (now + delay) * LOW_BITS + low
        else:
            self._push(job_id, "lifo" if job.spec.lifo else "back")

    def promote_due(self, now: int) -> None:
        for job_id in self._by_score(self.delayed):
            if self.delayed[job_id] < (now + 1) * LOW_BITS:
                self.promote(job_id)

    def promote(self, job_id: str) -> None:
        if self.delayed.pop(job_id, None) is None:
            raise RefusedError
        self.jobs[job_id].delay = 0
        self._push(job_id, "back")

    def retry(self, job_id: str, now: int, by: By) -> None:
        """By hand. Bull ignores the priority: a retried one-time code would wait behind all bulk email."""
        if job_id not in self.failed:
            raise RefusedError
        del self.failed[job_id]
        job = self.jobs[job_id]
        for name in ("finishedOn", "processedOn", "failedReason"):
            job.fields.pop(name, None)
        job.fields["retriedOn"] = now
        if by == "bull":
            self._push(job_id, "first" if job.spec.lifo else "last")
        else:
            self._push(job_id, "lifo" if job.spec.lifo else "back")

    def lose_lock(self, job_id: str) -> None:
        self.locked.discard(job_id)

    def check_stalled(self, now: int, by: By) -> None:
        """Two checks in a row: what has no lock runs again, or has failed. At most one job may be without a lock."""
        for job_id in [job_id for job_id in self.active if job_id not in self.locked]:
            self.active.remove(job_id)
            job = self.jobs[job_id]
            job.stalls += 1
            if job.stalls > MAX_STALLS:
                self._finish(self.failed, job_id, job.spec.on_fail, now, failedReason=STALLED)
            else:
                # Bull puts it before more urgent jobs, and forgets its priority: later adds are inserted one too early.
                self._push(job_id, "first" if by == "bull" else "front")

    def remove(self, job_id: str, by: By) -> None:
        if job_id not in self.jobs or job_id in self.locked:
            raise RefusedError
        self._release_debounce_of_removed(job_id, by)
        self._drop(job_id)

    def clean(self, state: str, grace_ms: int, limit: int, now: int, by: By) -> int:
        """How many of the oldest jobs of a state were deleted, at most `limit` (0: all)."""
        lists: dict[str, list[str]] = {
            "wait": [] if self.paused else list(self.ready),
            "paused": list(self.ready) if self.paused else [],
            "active": self.active[::-1],
            "completed": self._by_score(self.completed),
            "failed": self._by_score(self.failed),
            "delayed": self._by_score(self.delayed),
        }
        old = [
            job_id for job_id in lists[state] if job_id not in self.locked and self.jobs[job_id].time <= now - grace_ms
        ]
        for job_id in old[: limit or None]:
            if state not in ("completed", "failed"):
                self._release_debounce_of_removed(job_id, by)
            self._drop(job_id)
        return len(old[: limit or None])

    def _push(self, job_id: str, mode: Mode) -> None:
        """To the jobs that are ready. Those with a priority run first, by number, then in the order of adding."""
        rank = self.jobs[job_id].spec.priority
        if mode == "first" or (mode == "lifo" and not rank):
            self.ready.insert(0, job_id)
        elif mode == "last" or (mode == "back" and not rank):
            self.ready.append(job_id)
        elif not rank:
            self.ready.insert(len(self.ranked), job_id)
        else:
            before: Callable[[int], bool] = rank.__gt__ if mode == "front" else rank.__ge__
            ahead = sum(before(other) for other in self.ranked.values())
            self.ranked[job_id] = rank
            self.ready.insert(ahead, job_id)

    def _end_run(self, job_id: str) -> None:
        if job_id not in self.active or job_id not in self.locked:
            raise RefusedError
        self.active.remove(job_id)
        self.locked.discard(job_id)

    def _finish(self, ended: dict[str, int], job_id: str, keep: Keep, now: int, **result: Any) -> None:
        spec = self.jobs[job_id].spec
        if spec.debounce is not None and not self.debounces.get(spec.debounce, ("", True))[1]:
            del self.debounces[spec.debounce]
        if keep.count == 0:
            self._drop(job_id)
            return
        self.jobs[job_id].fields.update(result, finishedOn=now)
        ended[job_id] = now
        if keep.age_s is not None:
            for old in [other for other, at in ended.items() if at <= now - keep.age_s * 1000]:
                self._drop(old)
        if keep.count is not None:
            for old in self._by_score(ended)[: -keep.count]:
                self._drop(old)

    def _release_debounce_of_removed(self, job_id: str, by: By) -> None:
        """Bull also releases a debounce that meanwhile another job holds: that one would be sent twice."""
        debounce = self.jobs[job_id].spec.debounce
        if debounce is not None and (by == "bull" or self.debounces.get(debounce, ("", False))[0] == job_id):
            self.debounces.pop(debounce, None)

    def _drop(self, job_id: str) -> None:
        del self.jobs[job_id]
        for place in (self.delayed, self.completed, self.failed, self.ranked):
            place.pop(job_id, None)
        for places in (self.ready, self.active):
            if job_id in places:
                places.remove(job_id)

    @staticmethod
    def _by_score(scores: dict[str, int]) -> list[str]:
        """As a sorted set orders them: equal scores by the bytes of the ids."""
        return sorted(scores, key=lambda job_id: (scores[job_id], job_id.encode()))


def backoff_ms(spec: Spec, attempts_made: int, by: By) -> int:
    """The delay before the next attempt. Bull's exponential delays are 1, 3, 7 times the base, ours 1, 2, 4 times."""
    if spec.backoff is None:
        return 0
    kind, base = spec.backoff
    if kind == "fixed":
        return base
    return base * (2**attempts_made - 1 if by == "bull" else 2 ** (attempts_made - 1))
