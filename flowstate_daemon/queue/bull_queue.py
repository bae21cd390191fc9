"""The queue's hot verbs: each is one script call for up to 100 jobs, atomic, in Bull 4's layout.

The engine works through this class, `intake` adds through it. It decides nothing: fates come from `work`, order
and codes from the scripts. A call whose answer was lost may have been executed: `recover` brings such jobs back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol
from uuid import uuid4

import structlog

from flowstate_daemon.base.clock import Clock
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
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts

# Bull's codes.
WRITE_RESULTS = {
    0: WriteResult.OK,
    -1: WriteResult.JOB_NOT_FOUND,
    -2: WriteResult.LOCK_LOST,
    -3: WriteResult.NOT_ACTIVE,
    -6: WriteResult.LOCK_LOST,
}

Argument = str | bytes | int | float


def complete_args(endings: Sequence[JobSucceeded]) -> Iterable[Argument]:
    for ending in endings:
        job = ending.job
        yield job.id
        yield job.timestamp
        yield from _retention_args(job.options.remove_on_complete)
        yield ending.returnvalue
        yield finished_event(job.id, ending.returnvalue.decode())
        yield ending.journal
        yield ending.data


def retry_args(endings: Sequence[JobRetried], now_ms: int) -> Iterable[Argument]:
    for ending in endings:
        job, reason = ending.job, clean_text(ending.reason)
        due_ms = due_at(now_ms, ending.delay_ms)
        then = f"next one at {_instant(due_ms)}" if due_ms else "next one at once"
        yield from (job.id, job.timestamp, due_ms, score_suffix(job.id), job.attempt, reason, ending.stacktrace)
        yield "lifo" if job.options.lifo else "back"
        yield f"{_attempt_summary(job)}: {reason}; {then}"
        yield ending.journal


def fail_args(endings: Sequence[JobFailed]) -> Iterable[Argument]:
    for ending in endings:
        job, reason = ending.job, clean_text(ending.reason)
        yield job.id
        yield job.timestamp
        yield from _retention_args(job.options.remove_on_fail)
        yield from (job.attempt, reason, ending.stacktrace, finished_event(job.id, reason))
        yield f"{_attempt_summary(job)}: {reason}; no further one"
        yield ending.journal
        yield ending.data


def release_args(jobs: Sequence[Job]) -> Iterable[Argument]:
    for job in jobs:
        yield from (job.id, job.timestamp, score_suffix(job.id))


def job_keys(keys: Keys, jobs: Iterable[Job], *, logs: bool = True) -> list[str]:
    """Hash, lock and, where it is written to, log of each job."""
    base, names = keys.base, []
    for job in jobs:
        own = f"{base}{job.id}"
        names.append(own)
        names.append(f"{own}:lock")
        if logs:
            names.append(f"{own}:logs")
    return names


def decode_results(codes: Sequence[int]) -> list[WriteResult]:
    return [WRITE_RESULTS[code] for code in codes]


def due_at(now_ms: int, delay_ms: int) -> int:
    """When a job is due again; 0 stands for at once."""
    return min(now_ms + delay_ms, LATEST_MS) if delay_ms > 0 else 0


def score_suffix(job_id: str) -> int:
    """What orders jobs that are due in the same millisecond; Bull takes the id, where it is a number."""
    # The last twelve bits stand in the last twelve digits: 2^12 divides 10^12, and Python reads no endless number.
    return int(job_id[-12:]) & 0xFFF if job_id.isascii() and job_id.isdecimal() else 0


def _retention_args(policy: Retention) -> tuple[Argument, Argument]:
    return "" if policy.count is None else policy.count, "" if policy.age_s is None else policy.age_s


def _attempt_summary(job: Job) -> str:
    return f"attempt {job.attempt} of {max(job.options.attempts, job.attempt)} failed"


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, tz=UTC).isoformat(timespec="milliseconds")


log = structlog.get_logger()

BATCH_SIZE = 100  # jobs in one call: about a millisecond of the server's time
LOCK_BATCH_SIZE = 1000  # locks renewed in one call
PROMOTE_BATCH_SIZE = 1000  # jobs promoted in one call, as in Bull
RECOVERY_BATCH_SIZE = 10
STALLED_FAILURE_REASON = "given up: the daemon died again and again while it had this job in hand"

JOURNAL = "flowstate:journal"

# The keys that each script always touches, in the order of its header.
KEYS: Mapping[str, tuple[str, ...]] = {
    "add": ("id", "wait", "paused", "meta-paused", "delayed", "priority"),
    "claim": ("wait", "active", "priority", "stalled", "meta-paused", "paused", "limiter:index"),
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
    "recover": ("active", "wait", "paused", "meta-paused", "priority", "stalled", "failed", JOURNAL),
    "progress": (),
    "log": (),
}


class Repeats(Protocol):
    """Whoever writes the successor of a repeatable job."""

    async def schedule_next(self, job: Job) -> None: ...


class BullQueue:
    """One worker's and producer's hold on one queue; every verb raises Outage when Redis is away."""

    def __init__(  # noqa: PLR0913 - whose locks they are, how long they live and how much is read belong together
        self,
        connection: Connection,
        keys: Keys,
        clock: Clock,
        *,
        token: str,
        lock_ms: int = 30_000,
        max_data_bytes: int = 1_048_576,
        repeats: Repeats | None = None,
        journal_limit: int = 0,
    ) -> None:
        """`token` owns the locks; a worker's is `<instance id>/<something new at each start>`.

        Of the journal the newest `journal_limit` entries stay; 0: all, because somebody moves them to the ledger.
        """
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._token = token
        self._lock_ms = lock_ms
        self._max_data_bytes = max_data_bytes
        self._repeats = repeats
        self._journal_limit = journal_limit
        self._scripts = Scripts(connection)
        self._fixed = {name: [keys(tail) for tail in tails] for name, tails in KEYS.items()}
        self._worked = False

    async def _run(self, name: str, keys: Sequence[str], *args: str | bytes | float) -> Any:
        return await self._scripts.run(name, [*self._fixed[name], *keys], args)

    async def add(self, job: NewJob) -> AddResult:
        """Put one job into the queue. Raises Malformed."""
        return (await self.add_many([job]))[0]

    async def add_many(self, jobs: Sequence[NewJob]) -> list[AddResult]:
        """Put any number of jobs into the queue, in their order. Raises Malformed before the first is written."""
        now_ms = self._clock.now_ms()
        calls = [
            add_args(jobs[first : first + BATCH_SIZE], self._keys, now_ms, self._max_data_bytes)
            for first in range(0, len(jobs), BATCH_SIZE)
        ]
        added: list[AddResult] = []
        for keys, args in calls:
            added += decode_added(await self._run("add", keys, self._keys.base, self._token, *args))
        return added

    async def wait_for_jobs(self) -> bool:
        """Sleep until there may be something to take, at most the connection's `block_s`; safe to cancel."""
        wait = self._keys("wait")
        # The tail is put back where it was: whoever waits here takes nothing away, and a crash loses nothing.
        found = await self._connection.execute_blocking(
            "BLMOVE", wait, wait, "RIGHT", "RIGHT", self._connection.block_s
        )
        return found is not None

    async def claim(self, count: int, *, urgent_only: bool = False) -> list[Job]:
        """Claim up to `count` jobs (at most 100), most urgent first; none while the queue is paused.

        With `urgent_only` only jobs of priority 1, as far as they are among the next hundred to run.
        """
        if not 1 <= count <= BATCH_SIZE:
            raise ValueError(f"take between 1 and {BATCH_SIZE} jobs, not {count}")
        rows, dropped = await self._run(
            "claim", (), self._keys.base, self._token, self._lock_ms, self._clock.now_ms(),
            count, self._max_data_bytes, int(self._worked and not urgent_only), int(urgent_only),
        )  # fmt: skip
        self._worked = bool(rows) or (urgent_only and self._worked)
        if dropped:
            log.warning(
                "orphan_job_ids_dropped",
                job_ids=_ids(dropped),
                reason="the id names no job, or one that is in flight already",
            )
        jobs = [decode_job(row, self._max_data_bytes) for row in rows]
        if self._repeats is not None:
            for job in jobs:
                if job.options.repeat is not None:
                    await self._repeats.schedule_next(job)
        return jobs

    async def extend_locks(self, job_ids: Sequence[str]) -> set[str]:
        """Renew the locks of any number of jobs; returns those that are no longer ours."""
        lost: set[str] = set()
        for first in range(0, len(job_ids), LOCK_BATCH_SIZE):
            part = job_ids[first : first + LOCK_BATCH_SIZE]
            locks = [self._keys.lock(job_id) for job_id in part]
            lost.update(_ids(await self._run("extend_locks", locks, self._token, self._lock_ms, *part)))
        return lost

    async def complete(self, endings: Sequence[JobSucceeded]) -> list[WriteResult]:
        """Complete up to 100 jobs."""
        keys = job_keys(self._keys, _batch([ending.job for ending in endings]))
        head = (self._keys.base, self._token, self._clock.now_ms(), self._journal_limit)
        return decode_results(await self._run("complete", keys, *head, *complete_args(endings)))

    async def retry(self, endings: Sequence[JobRetried]) -> list[WriteResult]:
        """Write down up to 100 failed attempts that another one follows."""
        keys = job_keys(self._keys, _batch([ending.job for ending in endings]))
        args = retry_args(endings, self._clock.now_ms())
        return decode_results(await self._run("retry", keys, self._token, self._journal_limit, *args))

    async def fail(self, endings: Sequence[JobFailed]) -> list[WriteResult]:
        """Fail up to 100 jobs for good."""
        keys = job_keys(self._keys, _batch([ending.job for ending in endings]))
        head = (self._keys.base, self._token, self._clock.now_ms(), self._journal_limit)
        return decode_results(await self._run("fail", keys, *head, *fail_args(endings)))

    async def release(self, jobs: Sequence[Job], *, delay_ms: int = 0) -> list[WriteResult]:
        """Hand back up to 100 jobs untried: to the front, the first to run first, or until `delay_ms` is over."""
        keys = job_keys(self._keys, _batch(jobs), logs=False)
        due_ms = due_at(self._clock.now_ms(), delay_ms)
        return decode_results(await self._run("release", keys, self._token, due_ms, *release_args(jobs)))

    async def promote(self) -> PromoteResult:
        """Make up to 1000 due jobs ready; more may be due when `next_due_ms` lies in the past."""
        moved, due_ms = await self._run(
            "promote", (), self._keys.base, self._token, self._clock.now_ms(), PROMOTE_BATCH_SIZE
        )
        return PromoteResult(moved, None if due_ms < 0 else due_ms)

    async def check_stalled(self, max_stalled: int, interval_ms: int) -> StalledResult:
        """Take part in Bull's stalled check: one worker of the queue does it in each interval."""
        if max_stalled < 0 or interval_ms < 1:
            raise ValueError("a stalled check needs max_stalled >= 0 and interval_ms >= 1")
        now_ms = self._clock.now_ms()
        requeued, failed = await self._run(
            "check_stalled", (), max_stalled, self._keys.base, now_ms, interval_ms, self._journal_limit
        )
        return StalledResult(_ids(requeued), _ids(failed))

    async def recover_own_jobs(self, held: Sequence[str], *, limit: int = RECOVERY_BATCH_SIZE) -> RecoveryResult:
        """Bring back what an earlier process of this instance had in hand, and claims whose answer was lost.

        `held` are the ids of all jobs in hand. Only a holder of the instance's lease may call this. A job that was
        brought back from more than `limit` dead processes fails.
        """
        instance, slash, _ = self._token.partition("/")
        if not instance or not slash:
            raise ValueError("only a token of the form <instance id>/<boot id> tells whose jobs to recover")
        requeued, failed = await self._run(
            "recover", (), self._keys.base, self._token, f"{instance}/", self._clock.now_ms(),
            limit, STALLED_FAILURE_REASON, self._journal_limit, *held,
        )  # fmt: skip
        return RecoveryResult(_ids(requeued), _ids(failed))

    async def progress(self, job_id: str, value: Any) -> bool:
        """Note a job's progress and announce it; False when there is no such job. Raises Malformed."""
        progress = encode_json(value, what="progress")
        event = progress_event(job_id, progress)
        channel = self._keys("progress")
        return bool(await self._run("progress", (self._keys.job(job_id),), progress, channel, event))

    async def log(self, job_id: str, row: str, *, keep: int = 0) -> int | None:
        """Add a row to a job's log, of which the newest `keep` stay; the number of rows, None without a job."""
        keys = (self._keys.job(job_id), self._keys.logs(job_id))
        rows: int = await self._run("log", keys, clean_text(row), keep)
        return None if rows < 0 else rows


def _batch(jobs: Sequence[Job]) -> Sequence[Job]:
    if not 1 <= len(jobs) <= BATCH_SIZE:
        raise ValueError(f"settle between 1 and {BATCH_SIZE} jobs in one call, not {len(jobs)}")
    return jobs


def _ids(found: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(job_id.decode("utf-8", "replace") for job_id in found)


class JobPresence(Enum):
    """What is left of a job."""

    MISSING = 0
    PRESENT = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Jobs that wait before a new one, and the name of the memory that will hold it."""

    jobs: int
    store_epoch: str


class Backlog:
    """Looks at one queue; every call is one command and raises Outage when Redis is away."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._keys = keys
        self._mark = keys.own("epoch")
        self._scripts = Scripts(connection)

    async def jobs_ahead(self, priority: int) -> QueuePosition:
        """How many jobs wait that go before a new one of this priority."""
        jobs, memory = await self._scripts.run("jobs_ahead", [self._keys("priority"), self._mark], [priority, _name()])
        return QueuePosition(jobs, memory.decode())

    async def find_jobs(self, job_ids: Sequence[str]) -> tuple[str, list[JobPresence]]:
        """The name of the present memory, and what is left there of each job."""
        hashes = [self._keys.job(job_id) for job_id in job_ids]
        memory, *traces = await self._scripts.run("find_jobs", [self._mark, *hashes], [_name()])
        return memory.decode(), [JobPresence(trace) for trace in traces]


def _name() -> str:
    return uuid4().hex
