"""The queue's hot verbs: each is one script call for up to 100 jobs, atomic, in Bull 4's layout.

The engine works through this class, `intake` adds through it. It decides nothing: fates come from `work`, order
and codes from the scripts. A call whose answer was lost may have been executed: `recover` brings such jobs back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.endings import (
    due_at,
    fail_args,
    finish_args,
    job_keys,
    read_codes,
    release_args,
    retry_args,
)
from flowstate_daemon.queue.job import (
    Added,
    Failed,
    Finished,
    Job,
    NewJob,
    Promoted,
    Reclaimed,
    Recovered,
    Retried,
    Settled,
)
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.producer import add_call, read_added
from flowstate_daemon.queue.reading import read_job
from flowstate_daemon.queue.scripts import Scripts
from flowstate_daemon.queue.writing import clean_text, progress_event, write_json

log = structlog.get_logger()

BATCH = 100  # jobs in one call: about a millisecond of the server's time
LOCKS = 1000  # locks renewed in one call
DUE = 1000  # jobs promoted in one call, as in Bull
RECOVERIES = 10
GIVEN_UP = "given up: the daemon died again and again while it had this job in hand"

JOURNAL = "flowstate:journal"

# The keys that each script always touches, in the order of its header.
KEYS: Mapping[str, tuple[str, ...]] = {
    "add": ("id", "wait", "paused", "meta-paused", "delayed", "priority"),
    "claim": ("wait", "active", "priority", "stalled", "meta-paused", "paused", "limiter:index"),
    "extend_locks": ("stalled",),
    "finish": ("active", "completed", "stalled", JOURNAL),
    "retry": ("active", "wait", "paused", "meta-paused", "delayed", "priority", "stalled", JOURNAL),
    "fail": ("active", "failed", "stalled", JOURNAL),
    "release": ("active", "wait", "paused", "meta-paused", "delayed", "priority", "stalled"),
    "promote": ("delayed", "wait", "paused", "meta-paused", "priority"),
    "reclaim": ("stalled", "wait", "active", "failed", "stalled-check", "meta-paused", "paused", "priority", JOURNAL),
    "recover": ("active", "wait", "paused", "meta-paused", "priority", "stalled", "failed", JOURNAL),
    "progress": (),
    "log": (),
}


class Repeats(Protocol):
    """Whoever writes the successor of a repeatable job."""

    async def follow(self, job: Job) -> None: ...


class Bull:
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

    async def add(self, job: NewJob) -> Added:
        """Put one job into the queue. Raises Malformed."""
        return (await self.add_many([job]))[0]

    async def add_many(self, jobs: Sequence[NewJob]) -> list[Added]:
        """Put any number of jobs into the queue, in their order. Raises Malformed before the first is written."""
        now_ms = self._clock.now_ms()
        calls = [
            add_call(jobs[first : first + BATCH], self._keys, now_ms, self._max_data_bytes)
            for first in range(0, len(jobs), BATCH)
        ]
        added: list[Added] = []
        for keys, args in calls:
            added += read_added(await self._run("add", keys, self._keys.base, self._token, *args))
        return added

    async def await_work(self) -> bool:
        """Sleep until there may be something to take, at most the connection's `block_s`; safe to cancel."""
        wait = self._keys("wait")
        # The tail is put back where it was: whoever waits here takes nothing away, and a crash loses nothing.
        found = await self._connection.block("BLMOVE", wait, wait, "RIGHT", "RIGHT", self._connection.block_s)
        return found is not None

    async def take(self, count: int, *, urgent_only: bool = False) -> list[Job]:
        """Claim up to `count` jobs (at most 100), most urgent first; none while the queue is paused.

        With `urgent_only` only jobs of priority 1, as far as they are among the next hundred to run.
        """
        if not 1 <= count <= BATCH:
            raise ValueError(f"take between 1 and {BATCH} jobs, not {count}")
        rows, dropped = await self._run(
            "claim", (), self._keys.base, self._token, self._lock_ms, self._clock.now_ms(),
            count, self._max_data_bytes, int(self._worked and not urgent_only), int(urgent_only),
        )  # fmt: skip
        self._worked = bool(rows) or (urgent_only and self._worked)
        if dropped:
            log.warning("ids_dropped", job_ids=_ids(dropped), why="no job, or one that is in hand already")
        jobs = [read_job(row, self._max_data_bytes) for row in rows]
        if self._repeats is not None:
            for job in jobs:
                if job.options.repeat is not None:
                    await self._repeats.follow(job)
        return jobs

    async def extend_locks(self, job_ids: Sequence[str]) -> set[str]:
        """Renew the locks of any number of jobs; returns those that are no longer ours."""
        lost: set[str] = set()
        for first in range(0, len(job_ids), LOCKS):
            part = job_ids[first : first + LOCKS]
            locks = [self._keys.lock(job_id) for job_id in part]
            lost.update(_ids(await self._run("extend_locks", locks, self._token, self._lock_ms, *part)))
        return lost

    async def finish(self, endings: Sequence[Finished]) -> list[Settled]:
        """Complete up to 100 jobs."""
        keys = job_keys(self._keys, _batch([ending.job for ending in endings]))
        head = (self._keys.base, self._token, self._clock.now_ms(), self._journal_limit)
        return read_codes(await self._run("finish", keys, *head, *finish_args(endings)))

    async def retry(self, endings: Sequence[Retried]) -> list[Settled]:
        """Write down up to 100 failed attempts that another one follows."""
        keys = job_keys(self._keys, _batch([ending.job for ending in endings]))
        args = retry_args(endings, self._clock.now_ms())
        return read_codes(await self._run("retry", keys, self._token, self._journal_limit, *args))

    async def fail(self, endings: Sequence[Failed]) -> list[Settled]:
        """Fail up to 100 jobs for good."""
        keys = job_keys(self._keys, _batch([ending.job for ending in endings]))
        head = (self._keys.base, self._token, self._clock.now_ms(), self._journal_limit)
        return read_codes(await self._run("fail", keys, *head, *fail_args(endings)))

    async def release(self, jobs: Sequence[Job], *, delay_ms: int = 0) -> list[Settled]:
        """Hand back up to 100 jobs untried: to the front, the first to run first, or until `delay_ms` is over."""
        keys = job_keys(self._keys, _batch(jobs), logs=False)
        due_ms = due_at(self._clock.now_ms(), delay_ms)
        return read_codes(await self._run("release", keys, self._token, due_ms, *release_args(jobs)))

    async def promote(self) -> Promoted:
        """Make up to 1000 due jobs ready; more may be due when `next_due_ms` lies in the past."""
        moved, due_ms = await self._run("promote", (), self._keys.base, self._token, self._clock.now_ms(), DUE)
        return Promoted(moved, None if due_ms < 0 else due_ms)

    async def reclaim(self, max_stalled: int, interval_ms: int) -> Reclaimed:
        """Take part in Bull's stalled check: one worker of the queue does it in each interval."""
        if max_stalled < 0 or interval_ms < 1:
            raise ValueError("a stalled check needs max_stalled >= 0 and interval_ms >= 1")
        now_ms = self._clock.now_ms()
        requeued, failed = await self._run(
            "reclaim", (), max_stalled, self._keys.base, now_ms, interval_ms, self._journal_limit
        )
        return Reclaimed(_ids(requeued), _ids(failed))

    async def recover(self, held: Sequence[str], *, limit: int = RECOVERIES) -> Recovered:
        """Bring back what an earlier process of this instance had in hand, and claims whose answer was lost.

        `held` are the ids of all jobs in hand. Only a holder of the instance's lease may call this. A job that was
        brought back from more than `limit` dead processes fails.
        """
        instance, slash, _ = self._token.partition("/")
        if not instance or not slash:
            raise ValueError("only a token of the form <instance id>/<boot id> tells whose jobs to recover")
        requeued, failed = await self._run(
            "recover", (), self._keys.base, self._token, f"{instance}/", self._clock.now_ms(),
            limit, GIVEN_UP, self._journal_limit, *held,
        )  # fmt: skip
        return Recovered(_ids(requeued), _ids(failed))

    async def progress(self, job_id: str, value: Any) -> bool:
        """Note a job's progress and announce it; False when there is no such job. Raises Malformed."""
        progress = write_json(value, what="progress")
        event = progress_event(job_id, progress)
        channel = self._keys("progress")
        return bool(await self._run("progress", (self._keys.job(job_id),), progress, channel, event))

    async def log(self, job_id: str, row: str, *, keep: int = 0) -> int | None:
        """Add a row to a job's log, of which the newest `keep` stay; the number of rows, None without a job."""
        keys = (self._keys.job(job_id), self._keys.logs(job_id))
        rows: int = await self._run("log", keys, clean_text(row), keep)
        return None if rows < 0 else rows


def _batch(jobs: Sequence[Job]) -> Sequence[Job]:
    if not 1 <= len(jobs) <= BATCH:
        raise ValueError(f"settle between 1 and {BATCH} jobs in one call, not {len(jobs)}")
    return jobs


def _ids(found: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(job_id.decode("utf-8", "replace") for job_id in found)
