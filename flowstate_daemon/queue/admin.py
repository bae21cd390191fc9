"""Operations on the queue for operators: pause, resume, retry, remove, promote, clean.

Operations on many jobs run in batches of one script each, so that workers continue in between; `progress` is called
with the number of jobs done so far. The command line, the pages and the API use this module; the worker does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, StoreUnavailableError
from flowstate_daemon.queue.audit import AuditLog
from flowstate_daemon.queue.filters import EVERYTHING, EXAMINE_BATCH, JobFilter
from flowstate_daemon.queue.job import STATES_SCORED_BY_END, State, decode_json
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys, is_valid_job_id
from flowstate_daemon.redis_client.scripts import Scripts

REQUEUE_BATCH = 100
CLEAN_BATCH = 1000
SIDE_INDEXES = ("priority", "stalled", "limiter:index")  # keys that contain job ids besides the key of the state
JOB_LOCKED_MESSAGE = (
    "a worker processes it: wait until it has finished, or until its lock expires (30 s after the worker died)"
)

Progress = Callable[[int], None]
Patience = Callable[[StoreUnavailableError], Awaitable[None]]
"""Waits while Redis is unavailable, before a piece is repeated; may raise to end the operation."""


class JobNotFoundError(FlowstateError):
    """There is no job with this id."""


class JobStateError(FlowstateError):
    """The state of the job does not allow the operation."""


@dataclass(frozen=True, slots=True)
class PauseResult:
    """The result of pause or resume; `changed` is False when the queue was in that state already."""

    is_paused: bool
    changed: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """The result of one script call: how many jobs it examined, changed and kept; `maybe_sent` of those kept."""

    examined: int
    changed: int
    kept: int
    maybe_sent: int = 0


Batch = Callable[[int, int], Awaitable[Piece]]
"""Changes the next jobs; takes how many to skip, and how many to change at most."""


@dataclass(frozen=True, slots=True)
class BulkResult:
    """The result of an operation on many jobs: how many were changed, and how many were examined but skipped.

    `maybe_sent` of those skipped are failed jobs whose email may have been sent.
    """

    done: int
    left: int
    maybe_sent: int = 0


class QueueAdmin:
    """Changes one queue. `token` is the sender in `waiting` events; `audit` records each change.

    The journal keeps the newest `journal_limit` outcomes of removed jobs; 0 keeps all, for a ledger writer.
    """

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        clock: Clock,
        *,
        token: str,
        audit: AuditLog | None = None,
        journal_limit: int = 0,
    ) -> None:
        self._audit = audit
        self._journal_limit = journal_limit
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._waiting = keys(f"waiting@{token}")
        self._scripts = Scripts(connection)

    @property
    def actor(self) -> str:
        """Who changes the queue, for the audit."""
        return "an operator" if self._audit is None else self._audit.actor

    async def pause(self) -> PauseResult:
        """Workers claim no more jobs; active ones finish."""
        keys = self._named("wait", "paused", "meta-paused", "meta", "priority")
        result = self._pause_result(await self._scripts.run("pause", keys, []), is_paused=True)
        await self._record("queue pause", "queue", int(result.changed))
        return result

    async def resume(self) -> PauseResult:
        """Workers claim jobs again."""
        keys = self._named("paused", "wait", "meta-paused", "meta", "priority")
        result = self._pause_result(await self._scripts.run("resume", keys, [self._keys("resumed")]), is_paused=False)
        await self._record("queue resume", "queue", int(result.changed))
        return result

    async def retry(self, job_id: str) -> None:
        """Retry a failed job, even without attempts left. Raises JobNotFoundError, JobStateError."""
        args = (self._keys.base, _valid_id(job_id), self._clock.now_ms(), self._waiting)
        code = await self._scripts.run("retry_job", self._requeue_keys("failed"), args)
        _raise_for_code(job_id, code, "only failed jobs can be retried")
        await self._record("queue retry", f"job {job_id}", 1)

    async def retry_all(
        self,
        limit: int | None = None,
        progress: Progress | None = None,
        *,
        maybe_sent: bool = False,
        job_filter: JobFilter = EVERYTHING,
        patience: Patience | None = None,
    ) -> BulkResult:
        """Retry the oldest failed jobs that match, `limit` of them or all; jobs that fail again stay failed.

        Jobs whose email may have been sent are left out unless `maybe_sent` asks for them: they would be sent twice.
        """
        started = self._clock.now_ms()

        async def batch(skip: int, most: int) -> Piece:
            args = (
                self._keys.base, started, skip, EXAMINE_BATCH, self._clock.now_ms(), self._waiting,
                int(maybe_sent), most, job_filter.encode(),
            )  # fmt: skip
            counts = await self._run_batch("retry_all_failed", self._requeue_keys("failed"), args)
            examined, retried, parked = counts
            return Piece(examined, retried, examined - retried, parked)

        also = ", also those that may have been sent" if maybe_sent else ""
        target = f"{describe_jobs('failed', job_filter)}{also}"
        return await self._bulk("queue retry", target, batch, REQUEUE_BATCH, limit, progress, patience)

    async def promote(self, job_id: str) -> None:
        """Make a delayed job ready now. Raises JobNotFoundError, JobStateError."""
        keys = [*self._requeue_keys("delayed"), self._keys.job(_valid_id(job_id))]
        code = await self._scripts.run("promote_job", keys, (self._keys.base, job_id, self._waiting))
        _raise_for_code(job_id, code, "only delayed jobs can be promoted")
        await self._record("queue promote", f"job {job_id}", 1)

    async def promote_all(
        self,
        progress: Progress | None = None,
        *,
        job_filter: JobFilter = EVERYTHING,
        patience: Patience | None = None,
    ) -> BulkResult:
        """Make the delayed jobs that match ready, at most as many as are delayed now; jobs delayed later stay."""
        delayed = await self._connection.execute("ZCARD", self._keys("delayed"))

        async def batch(skip: int, most: int) -> Piece:
            args = (self._keys.base, EXAMINE_BATCH, self._waiting, skip, most, job_filter.encode())
            counts = await self._run_batch("promote_all", self._requeue_keys("delayed"), args)
            examined, moved, stay = counts  # ids without a hash are examined, but do not stay
            return Piece(examined, moved, stay)

        target = describe_jobs("delayed", job_filter)
        return await self._bulk("queue promote", target, batch, REQUEUE_BATCH, delayed, progress, patience)

    async def remove(self, job_id: str) -> None:
        """Delete a job in any state. Raises JobNotFoundError, JobStateError."""
        indexes = self._named("completed", "failed", "delayed", "active", "wait", "paused", *SIDE_INDEXES)
        keys = [*indexes, self._keys.job(_valid_id(job_id)), self._keys.lock(job_id), self._keys.own("journal")]
        args = (self._keys.base, job_id, self._clock.now_ms(), self._removed_by, self._journal_limit)
        _raise_for_code(job_id, await self._scripts.run("remove", keys, args), "")
        await self._record("queue remove", f"job {job_id}", 1)

    async def clean(
        self,
        state: State,
        grace_ms: int,
        limit: int | None = None,
        progress: Progress | None = None,
        *,
        job_filter: JobFilter = EVERYTHING,
        patience: Patience | None = None,
    ) -> BulkResult:
        """Delete the matching jobs of a state older than `grace_ms`, `limit` of them or all; locked jobs stay."""
        latest = self._clock.now_ms() - grace_ms
        highest = latest if state in STATES_SCORED_BY_END else "+inf"

        async def batch(skip: int, most: int) -> Piece:
            reason = "" if state == "completed" else self._removed_by
            args = (
                self._keys.base, latest, skip, EXAMINE_BATCH, most, highest,
                self._clock.now_ms(), reason, self._journal_limit, job_filter.encode(),
            )  # fmt: skip
            keys = [*self._named(state, *SIDE_INDEXES), self._keys.own("journal")]
            examined, removed = await self._run_batch("clean", keys, args)
            return Piece(examined, removed, examined - removed)

        target = f"{describe_jobs(state, job_filter).removeprefix('all ')} older than {grace_ms / 1000:g} s"
        return await self._bulk("queue clean", target, batch, CLEAN_BATCH, limit, progress, patience)

    async def update_data(self, job_id: str, data: bytes) -> None:
        """Replace a job's data (JSON) for its next run. Raises JobNotFoundError, InvalidDataError."""
        decode_json(data, what="new data")
        _raise_for_code(job_id, await self._scripts.run("update_data", [self._keys.job(_valid_id(job_id))], [data]), "")
        await self._record("queue update", f"job {job_id}", 1)

    @property
    def _removed_by(self) -> str:
        return f"removed by {self.actor}"

    async def _record(self, action: str, target: str, count: int) -> None:
        if self._audit is not None:
            await self._audit.record(action, target, count)

    async def _bulk(  # noqa: PLR0913 - what the three operations have in common
        self,
        action: str,
        target: str,
        batch: Batch,
        size: int,
        limit: int | None,
        progress: Progress | None,
        patience: Patience | None,
    ) -> BulkResult:
        """Run an operation on many jobs. What was done is recorded also when it is interrupted."""
        done = 0

        def count(jobs: int) -> None:
            nonlocal done
            done = jobs
            if progress is not None:
                progress(jobs)

        async def persistent(skip: int, most: int) -> Piece:
            while True:
                try:
                    return await batch(skip, most)
                except StoreUnavailableError as outage:
                    if patience is None:
                        raise
                    await patience(outage)

        try:
            return await _in_batches(persistent, size, limit, count)
        finally:
            await self._record(action, target, done)

    def _named(self, *names: str) -> list[str]:
        return [self._keys(name) for name in names]

    def _requeue_keys(self, source: str) -> list[str]:
        """The keys to move jobs from `source` to the ready jobs."""
        return self._named(source, "wait", "paused", "meta-paused", "priority")

    async def _run_batch(self, script: str, keys: Sequence[str], args: Sequence[str | int | bytes]) -> Sequence[int]:
        counts: Sequence[int] = await self._scripts.run(script, keys, args)
        return counts

    def _pause_result(self, code: int, *, is_paused: bool) -> PauseResult:
        if code < 0:
            raise JobStateError(
                f"{self._keys('wait')} or {self._keys('paused')} is not a list: another program wrote it"
            )
        return PauseResult(is_paused, changed=bool(code))


async def _in_batches(batch: Batch, size: int, limit: int | None, progress: Progress) -> BulkResult:
    """Run batches until a pass over all jobs has changed none.

    Workers and other operators take jobs away meanwhile, from before the position that is skipped to: then a pass
    misses as many. So a pass that has both changed and kept jobs is followed by another one.
    """
    done = 0
    while True:
        before, kept, maybe_sent = done, 0, 0
        while limit is None or done < limit:
            wanted = size if limit is None else min(size, limit - done)
            piece = await batch(kept, wanted)
            done, kept, maybe_sent = done + piece.changed, kept + piece.kept, maybe_sent + piece.maybe_sent
            progress(done)
            if piece.examined < EXAMINE_BATCH and piece.changed < wanted:
                break
        if not kept or done in (before, limit):
            return BulkResult(done, kept, maybe_sent)


def describe_jobs(state: State, job_filter: JobFilter) -> str:
    """The jobs of an action, for the audit."""
    return f"{state} jobs ({job_filter.describe()})" if not job_filter.matches_all else f"all {state} jobs"


def _valid_id(job_id: str) -> str:
    """The id, if it is a valid job id. Raises JobNotFoundError."""
    if not is_valid_job_id(job_id):
        raise JobNotFoundError(f"there is no job {job_id!r}: this is the name of a key of the queue")
    return job_id


def _raise_for_code(job_id: str, code: int, wrong_state: str) -> None:
    """Raise the error for a return code of Bull's scripts."""
    if code == 0:
        raise JobNotFoundError(f"there is no job {job_id!r}: it was removed, or finished and was not kept")
    if code == -1:
        raise JobStateError(f"job {job_id!r} is locked; {JOB_LOCKED_MESSAGE}")
    if code < 0:
        raise JobStateError(f"job {job_id!r} was not changed: {wrong_state}")
