"""The transitions of jobs in Bull 4's layout: add, claim, complete, retry, fail, release, promote, recover.

Each call is one atomic script for up to 100 jobs. The reply of a call may be lost after it was executed; for claims
`recover_own_jobs` corrects that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from uuid import uuid4

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import KeyTypeError, StoreUnavailableError
from flowstate_daemon.base.redaction import CODE_RULES_JSON
from flowstate_daemon.queue.creation_times import CreationTimes
from flowstate_daemon.queue.decode import decode_job
from flowstate_daemon.queue.encode import (
    LATEST_MS,
    add_args,
    clean_text,
    decode_added,
    encode_json,
    finished_event,
    progress_event,
)
from flowstate_daemon.queue.job import (
    AddResult,
    Job,
    JobFailed,
    JobRetried,
    JobSucceeded,
    NewJob,
    PromoteResult,
    RecoveryResult,
    Retention,
    StalledResult,
    WriteResult,
)
from flowstate_daemon.queue.repeat import RepeatableJobs
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts

log = structlog.get_logger()

BATCH_SIZE = 100  # jobs in one call, about a millisecond of server time
LOCK_BATCH_SIZE = 1000  # locks renewed in one call
PROMOTE_BATCH_SIZE = 1000  # jobs promoted in one call, as in Bull
PRUNE_BATCH = 100  # failed jobs deleted in one call
MAX_RECOVERIES = 10  # per job
STALLED_FAILURE_REASON = "failed: the daemon crashed repeatedly while it processed this job"

JOURNAL = "flowstate:journal"
LAST_ADDED = "flowstate:last-added"

# The fixed keys of each script, in the order of its contract.
KEYS: Mapping[str, tuple[str, ...]] = {
    "add": ("id", "wait", "paused", "meta-paused", "delayed", "priority"),
    "claim": ("wait", "active", "priority", "stalled", "meta-paused", "paused", "limiter:index", LAST_ADDED),
    "extend_locks": ("stalled",),
    "complete": ("active", "completed", "stalled", JOURNAL),
    "retry": ("active", "wait", "paused", "meta-paused", "delayed", "priority", "stalled", JOURNAL),
    "fail": ("active", "failed", "stalled", JOURNAL),
    "release": ("active", "wait", "paused", "meta-paused", "delayed", "priority", "stalled"),
    "promote": ("delayed", "wait", "paused", "meta-paused", "priority"),
    "check_stalled": (
        "stalled",
        "wait",
        "active",
        "failed",
        "stalled-check",
        "meta-paused",
        "paused",
        "priority",
        JOURNAL,
    ),
    "prune_failed": ("failed", "priority", "stalled", "limiter:index"),
    "recover": ("active", "wait", "paused", "meta-paused", "priority", "stalled", "failed", JOURNAL),
    "relocate": (
        "wait",
        "active",
        "paused",
        "delayed",
        "priority",
        "stalled",
        "meta-paused",
        "completed",
        "failed",
        "stalled-check",
        JOURNAL,
    ),
    "progress": (),
    "log": (),
}

# The return codes of Bull's scripts.
WRITE_RESULTS = {
    0: WriteResult.OK,
    -1: WriteResult.JOB_NOT_FOUND,
    -2: WriteResult.LOCK_LOST,
    -3: WriteResult.NOT_ACTIVE,
    -6: WriteResult.LOCK_LOST,
}

Argument = str | bytes | int | float


class JobPresence(Enum):
    """Whether a job still exists in Redis."""

    MISSING = 0
    PRESENT = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """The number of jobs that run before a new one, and the store's epoch, which changes when Redis loses data."""

    jobs: int
    store_epoch: str


class BullQueue:
    """One queue, for workers and producers. All methods raise StoreUnavailableError when Redis is unreachable."""

    def __init__(  # noqa: PLR0913 - the settings of one worker
        self,
        connection: Connection,
        keys: Keys,
        clock: Clock,
        *,
        token: str,
        lock_duration_ms: int = 30_000,
        max_data_bytes: int = 1_048_576,
        repeats: RepeatableJobs | None = None,
        journal_max_entries: int = 0,
    ) -> None:
        """`token` identifies the holder of a lock; a worker's is `<instance id>/<boot id>`.

        The journal keeps the newest `journal_max_entries` entries; 0 keeps all, for a ledger writer that removes them.
        `repeats` schedules the next job of each repeatable job that is claimed.
        """
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._token = token
        self._lock_duration_ms = lock_duration_ms
        self._max_data_bytes = max_data_bytes
        self._repeats = repeats
        self._journal_max_entries = journal_max_entries
        self._scripts = Scripts(connection)
        self._fixed = {name: [keys(tail) for tail in tails] for name, tails in KEYS.items()}
        self.creation_times = CreationTimes(clock)
        self._has_worked = False  # `drained` is published once after work, not at every empty claim

    @property
    def base(self) -> str:
        """The prefix of all keys of the queue."""
        return self._keys.base

    async def _run(self, name: str, keys: Sequence[str], *args: str | bytes | float) -> Any:
        try:
            return await self._scripts.run(name, [*self._fixed[name], *keys], args)
        except KeyTypeError:
            if not await self._relocate():
                raise
        return await self._scripts.run(name, [*self._fixed[name], *keys], args)

    async def _relocate(self) -> bool:
        """Give other ids to jobs that are stored in keys of the queue itself; False when there is none."""
        relocated = await self._scripts.run("relocate", self._fixed["relocate"], [self._keys.base])
        for old, new in relocated:
            log.warning(
                "job_renamed",
                job_id=old.decode(),
                new_job_id=new.decode(),
                remedy="a job's id must not be the name of a key of the queue: use another jobId in the backend",
            )
        return bool(relocated)

    async def add(self, job: NewJob) -> AddResult:
        """Add one job to the queue. Raises InvalidDataError."""
        return (await self.add_many([job]))[0]

    async def add_many(self, jobs: Sequence[NewJob]) -> list[AddResult]:
        """Add any number of jobs, in order. Raises InvalidDataError before anything is written."""
        now_ms = self._clock.now_ms()
        # All jobs are validated before the first script runs: an invalid job rejects the whole call.
        calls = [
            add_args(jobs[first : first + BATCH_SIZE], self._keys, now_ms, self._max_data_bytes)
            for first in range(0, len(jobs), BATCH_SIZE)
        ]
        added: list[AddResult] = []
        for keys, args in calls:
            added += decode_added(await self._run("add", keys, self._keys.base, self._token, *args))
        return added

    async def wait_for_jobs(self) -> bool:
        """Wait until there may be a job to claim, at most the connection's `block_timeout_s`; safe to cancel."""
        wait = self._keys("wait")
        # BLMOVE onto the same end of the same list: waiting moves no job, so a crash here loses none.
        found = await self._connection.execute_blocking(
            "BLMOVE", wait, wait, "RIGHT", "RIGHT", self._connection.block_timeout_s
        )
        return found is not None

    async def claim(self, count: int, *, urgent_only: bool = False) -> list[Job]:
        """Claim up to `count` jobs (at most 100), most urgent first; none while the queue is paused.

        With `urgent_only`, only jobs of priority 1 among the next hundred to run.
        """
        if not 1 <= count <= BATCH_SIZE:
            raise ValueError(f"claim between 1 and {BATCH_SIZE} jobs, not {count}")
        asked_at = self._clock.monotonic()
        try:
            rows, dropped, processed, is_paused = await self._run(
                "claim", (), self._keys.base, self._token, self._lock_duration_ms, self._clock.now_ms(),
                count, self._max_data_bytes, int(self._has_worked and not urgent_only), int(urgent_only),
            )  # fmt: skip
        except StoreUnavailableError:
            self.creation_times.forget()
            raise
        self._has_worked = bool(rows) or (urgent_only and self._has_worked)
        if dropped:
            log.warning(
                "orphan_job_ids_dropped",
                job_ids=_ids(dropped),
                reason="there is no such job, or it is in flight already",
            )
        # While the queue is paused, and in a claim of codes only, jobs that are not returned may be waiting.
        full = bool(is_paused) or urgent_only or len(rows) >= count
        decoded = [decode_job(row, self._max_data_bytes) for row in rows]
        jobs = self.creation_times.apply(decoded, set(_ids(processed)), asked_at, full=full)
        if self._repeats is not None:
            for job in jobs:
                if job.options.repeat is not None:
                    await self._repeats.schedule_next(job)
        return jobs

    async def extend_locks(self, job_ids: Sequence[str]) -> set[str]:
        """Renew the locks of any number of jobs; returns the ids of those whose lock was lost."""
        lost: set[str] = set()
        for first in range(0, len(job_ids), LOCK_BATCH_SIZE):
            batch = job_ids[first : first + LOCK_BATCH_SIZE]
            locks = [self._keys.lock(job_id) for job_id in batch]
            lost.update(_ids(await self._run("extend_locks", locks, self._token, self._lock_duration_ms, *batch)))
        return lost

    async def complete(self, results: Sequence[JobSucceeded]) -> list[WriteResult]:
        """Complete up to 100 jobs."""
        keys = job_keys(self._keys, _batch([result.job for result in results]))
        head = (self._keys.base, self._token, self._clock.now_ms(), self._journal_max_entries)
        return decode_results(await self._run("complete", keys, *head, *complete_args(results)))

    async def retry(self, results: Sequence[JobRetried]) -> list[WriteResult]:
        """Record up to 100 failed attempts and schedule the next ones."""
        keys = job_keys(self._keys, _batch([result.job for result in results]))
        args = retry_args(results, self._clock.now_ms())
        return decode_results(await self._run("retry", keys, self._token, self._journal_max_entries, *args))

    async def fail(self, results: Sequence[JobFailed]) -> list[WriteResult]:
        """Fail up to 100 jobs finally."""
        keys = job_keys(self._keys, _batch([result.job for result in results]))
        head = (self._keys.base, self._token, self._clock.now_ms(), self._journal_max_entries)
        return decode_results(await self._run("fail", keys, *head, *fail_args(results)))

    async def release(self, jobs: Sequence[Job], *, delay_ms: int = 0) -> list[WriteResult]:
        """Return up to 100 jobs to the front of the queue without an attempt, or to `delayed` for `delay_ms`."""
        keys = job_keys(self._keys, _batch(jobs), logs=False)
        due_ms = due_at(self._clock.now_ms(), delay_ms)
        return decode_results(await self._run("release", keys, self._token, due_ms, *release_args(jobs)))

    async def promote(self) -> PromoteResult:
        """Move up to 1000 due jobs to the ready jobs; more are due when `next_due_ms` is in the past."""
        moved, due_ms = await self._run(
            "promote", (), self._keys.base, self._token, self._clock.now_ms(), PROMOTE_BATCH_SIZE
        )
        return PromoteResult(moved, None if due_ms < 0 else due_ms)

    async def check_stalled(self, max_stalled_count: int, interval_ms: int) -> StalledResult:
        """Run Bull's stalled check, unless another worker of the queue has run it within the interval."""
        if max_stalled_count < 0 or interval_ms < 1:
            raise ValueError("a stalled check needs max_stalled_count >= 0 and interval_ms >= 1")
        now_ms = self._clock.now_ms()
        requeued, failed = await self._run(
            "check_stalled", (), max_stalled_count, self._keys.base, now_ms, interval_ms,
            self._journal_max_entries, CODE_RULES_JSON,
        )  # fmt: skip
        return StalledResult(_ids(requeued), _ids(failed))

    async def prune_failed(self, max_age_ms: int | None, max_count: int | None, *, limit: int = PRUNE_BATCH) -> int:
        """Delete the oldest failed jobs that are older or more than this; returns how many, at most `limit`."""
        latest = "" if max_age_ms is None else self._clock.now_ms() - max_age_ms
        return int(
            await self._run("prune_failed", (), self._keys.base, latest, -1 if max_count is None else max_count, limit)
        )

    async def recover_own_jobs(self, held: Sequence[str], *, limit: int = MAX_RECOVERIES) -> RecoveryResult:
        """Requeue the jobs of an earlier process of this instance, and jobs whose claim's reply was lost.

        `held` are the ids of all jobs in flight. Only the holder of the instance's lease may call this. A job that was
        recovered from more than `limit` dead processes fails.
        """
        instance, slash, _ = self._token.partition("/")
        if not instance or not slash:
            raise ValueError("recovery needs a token of the form <instance id>/<boot id>")
        requeued, failed = await self._run(
            "recover", (), self._keys.base, self._token, f"{instance}/", self._clock.now_ms(),
            limit, STALLED_FAILURE_REASON, self._journal_max_entries, CODE_RULES_JSON, *held,
        )  # fmt: skip
        return RecoveryResult(_ids(requeued), _ids(failed))

    async def progress(self, job_id: str, value: Any) -> bool:
        """Set and publish a job's progress; False when there is no such job. Raises InvalidDataError."""
        progress = encode_json(value, what="progress")
        event = progress_event(job_id, progress)
        channel = self._keys("progress")
        return bool(await self._run("progress", (self._keys.job(job_id),), progress, channel, event))

    async def log(self, job_id: str, row: str, *, keep: int = 0) -> int | None:
        """Add a row to a job's log, keeping the newest `keep` (0: all); the number of rows, or None without a job."""
        keys = (self._keys.job(job_id), self._keys.logs(job_id))
        rows: int = await self._run("log", keys, clean_text(row), keep)
        return None if rows < 0 else rows

    async def jobs_ahead(self, priority: int) -> QueuePosition:
        """How many waiting jobs run before a new one of this priority."""
        jobs, epoch = await self._scripts.run(
            "jobs_ahead", [self._keys("priority"), self._keys.own("epoch")], [priority, uuid4().hex]
        )
        return QueuePosition(jobs, epoch.decode())

    async def find_jobs(self, job_ids: Sequence[str]) -> tuple[str, list[JobPresence]]:
        """The epoch of the store, and whether each of these jobs still exists."""
        hashes = [self._keys.job(job_id) for job_id in job_ids]
        epoch, *found = await self._scripts.run("find_jobs", [self._keys.own("epoch"), *hashes], [uuid4().hex])
        return epoch.decode(), [JobPresence(presence) for presence in found]


def complete_args(results: Sequence[JobSucceeded]) -> Iterable[Argument]:
    for result in results:
        job = result.job
        yield job.id
        yield job.timestamp
        yield from _retention_args(job.options.remove_on_complete)
        yield result.returnvalue
        yield finished_event(job.id, result.returnvalue.decode())
        yield result.journal
        yield result.data


def retry_args(results: Sequence[JobRetried], now_ms: int) -> Iterable[Argument]:
    for result in results:
        job, reason = result.job, clean_text(result.reason)
        due_ms = due_at(now_ms, result.delay_ms)
        then = f"next attempt at {_instant(due_ms)}" if due_ms else "next attempt at once"
        yield from (job.id, job.timestamp, due_ms, score_suffix(job.id), job.attempt, reason, result.stacktrace)
        yield "lifo" if job.options.lifo else "back"
        yield f"{_attempt_summary(job)}: {reason}; {then}"
        yield result.journal


def fail_args(results: Sequence[JobFailed]) -> Iterable[Argument]:
    for result in results:
        job, reason = result.job, clean_text(result.reason)
        yield job.id
        yield job.timestamp
        yield from _retention_args(job.options.remove_on_fail)
        yield from (job.attempt, reason, result.stacktrace, finished_event(job.id, reason))
        yield f"{_attempt_summary(job)}: {reason}; no retries left"
        yield result.journal
        yield result.data
        yield result.requests


def release_args(jobs: Sequence[Job]) -> Iterable[Argument]:
    for job in jobs:
        yield from (job.id, job.timestamp, score_suffix(job.id))


def job_keys(keys: Keys, jobs: Iterable[Job], *, logs: bool = True) -> list[str]:
    """The keys of each job: hash, lock and, unless `logs` is False, log."""
    base = keys.base
    names: list[str] = []
    for job in jobs:
        name = f"{base}{job.id}"
        names += (name, f"{name}:lock", f"{name}:logs") if logs else (name, f"{name}:lock")
    return names


def decode_results(codes: Sequence[int]) -> list[WriteResult]:
    return [WRITE_RESULTS[code] for code in codes]


def due_at(now_ms: int, delay_ms: int) -> int:
    """When a job is due again, Unix ms; 0 means at once."""
    return min(now_ms + delay_ms, LATEST_MS) if delay_ms > 0 else 0


def score_suffix(job_id: str) -> int:
    """The low 12 bits of a score in `delayed`, from a numeric id as in Bull: they order jobs of one millisecond."""
    # The last twelve digits determine the last twelve bits, as 2^12 divides 10^12; int() rejects very long strings.
    return int(job_id[-12:]) & 0xFFF if job_id.isascii() and job_id.isdecimal() else 0


def _retention_args(policy: Retention) -> tuple[Argument, Argument]:
    return "" if policy.count is None else policy.count, "" if policy.age_s is None else policy.age_s


def _attempt_summary(job: Job) -> str:
    return f"attempt {job.attempt} of {max(job.options.attempts, job.attempt)} failed"


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, tz=UTC).isoformat(timespec="milliseconds")


def _batch(jobs: Sequence[Job]) -> Sequence[Job]:
    if not 1 <= len(jobs) <= BATCH_SIZE:
        raise ValueError(f"pass between 1 and {BATCH_SIZE} jobs in one call, not {len(jobs)}")
    return jobs


def _ids(found: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(job_id.decode("utf-8", "replace") for job_id in found)
