"""Operations on the queue for operators: pause, resume, retry, remove, promote, clean. Used by the command line.

Operations on many jobs run in batches of one script each, so that workers continue in between; `progress` is called
with the number of jobs done so far. The worker does not use this module.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.queue.job import State, decode_json
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys, is_valid_job_id
from flowstate_daemon.redis_client.scripts import Scripts

RETRY_BATCH = 100
PROMOTE_BATCH = 100
CLEAN_BATCH = 1000
STATES_SCORED_BY_END = ("completed", "failed")  # zsets whose scores are finish times
SIDE_INDEXES = ("priority", "stalled", "limiter:index")  # keys that contain job ids besides the key of the state
JOB_LOCKED_MESSAGE = (
    "a worker processes it: wait until it has finished, or until its lock expires (30 s after the worker died)"
)

Progress = Callable[[int], None]


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
class BulkResult:
    """The result of an operation on many jobs: how many were changed, and how many were examined but skipped."""

    done: int
    left: int


class QueueAdmin:
    """Changes one queue. `token` is the sender in `waiting` events."""

    def __init__(self, connection: Connection, keys: Keys, clock: Clock, *, token: str) -> None:
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._waiting = keys(f"waiting@{token}")
        self._scripts = Scripts(connection)

    async def pause(self) -> PauseResult:
        """Workers claim no more jobs; active ones finish."""
        keys = self._named("wait", "paused", "meta-paused", "meta", "priority")
        return self._pause_result(await self._scripts.run("pause", keys, []), is_paused=True)

    async def resume(self) -> PauseResult:
        """Workers claim jobs again."""
        keys = self._named("paused", "wait", "meta-paused", "meta", "priority")
        return self._pause_result(await self._scripts.run("resume", keys, [self._keys("resumed")]), is_paused=False)

    async def retry(self, job_id: str) -> None:
        """Retry a failed job, even without attempts left. Raises JobNotFoundError, JobStateError."""
        args = (self._keys.base, _valid_id(job_id), self._clock.now_ms(), self._waiting)
        code = await self._scripts.run("retry_job", self._requeue_keys("failed"), args)
        _raise_for_code(job_id, code, "only failed jobs can be retried")

    async def retry_all(self, limit: int | None = None, progress: Progress | None = None) -> BulkResult:
        """Retry the oldest failed jobs, `limit` of them or all; jobs that fail again during the call stay failed."""
        started = self._clock.now_ms()

        async def batch(left: int, size: int) -> Sequence[int]:
            args = (self._keys.base, started, left, size, self._clock.now_ms(), self._waiting)
            return await self._run_batch("retry_all_failed", self._requeue_keys("failed"), args)

        return await _in_batches(batch, RETRY_BATCH, limit, progress)

    async def promote(self, job_id: str) -> None:
        """Make a delayed job ready now. Raises JobNotFoundError, JobStateError."""
        keys = [*self._requeue_keys("delayed"), self._keys.job(_valid_id(job_id))]
        code = await self._scripts.run("promote_job", keys, (self._keys.base, job_id, self._waiting))
        _raise_for_code(job_id, code, "only delayed jobs can be promoted")

    async def promote_all(self, progress: Progress | None = None) -> BulkResult:
        """Make as many jobs ready as are delayed now; jobs that are delayed later stay."""
        delayed = await self._connection.execute("ZCARD", self._keys("delayed"))

        async def batch(_: int, size: int) -> Sequence[int]:
            args = (self._keys.base, size, self._waiting)
            return await self._run_batch("promote_all", self._requeue_keys("delayed"), args)

        return await _in_batches(batch, PROMOTE_BATCH, delayed, progress)

    async def remove(self, job_id: str) -> None:
        """Delete a job in any state. Raises JobNotFoundError, JobStateError."""
        indexes = self._named("completed", "failed", "delayed", "active", "wait", "paused", *SIDE_INDEXES)
        keys = [*indexes, self._keys.job(_valid_id(job_id)), self._keys.lock(job_id)]
        _raise_for_code(job_id, await self._scripts.run("remove", keys, (self._keys.base, job_id)), "")

    async def clean(
        self, state: State, grace_ms: int, limit: int | None = None, progress: Progress | None = None
    ) -> BulkResult:
        """Delete jobs of a state that are older than `grace_ms`, `limit` of them or all; locked jobs stay."""
        latest = self._clock.now_ms() - grace_ms
        highest = latest if state in STATES_SCORED_BY_END else "+inf"

        async def batch(left: int, size: int) -> Sequence[int]:
            args = (self._keys.base, latest, left, CLEAN_BATCH, size, highest)
            return await self._run_batch("clean", self._named(state, *SIDE_INDEXES), args)

        return await _in_batches(batch, CLEAN_BATCH, limit, progress)

    async def update_data(self, job_id: str, data: bytes) -> None:
        """Replace a job's data (JSON) for its next run. Raises JobNotFoundError, InvalidDataError."""
        decode_json(data, what="new data")
        _raise_for_code(job_id, await self._scripts.run("update_data", [self._keys.job(_valid_id(job_id))], [data]), "")

    def _named(self, *names: str) -> list[str]:
        return [self._keys(name) for name in names]

    def _requeue_keys(self, source: str) -> list[str]:
        """The keys to move jobs from `source` to the ready jobs."""
        return self._named(source, "wait", "paused", "meta-paused", "priority")

    async def _run_batch(self, script: str, keys: Sequence[str], args: Sequence[str | int]) -> Sequence[int]:
        counts: Sequence[int] = await self._scripts.run(script, keys, args)
        return counts

    def _pause_result(self, code: int, *, is_paused: bool) -> PauseResult:
        if code < 0:
            raise JobStateError(
                f"{self._keys('wait')} or {self._keys('paused')} is not a list: another program wrote it"
            )
        return PauseResult(is_paused, changed=bool(code))


async def _in_batches(
    batch: Callable[[int, int], Awaitable[Sequence[int]]], size: int, limit: int | None, progress: Progress | None
) -> BulkResult:
    """Run batches until no job is left. `batch` takes how many jobs to skip and its maximum; returns examined, done."""
    done = left = 0
    while limit is None or done < limit:
        wanted = size if limit is None else min(size, limit - done)
        examined, changed = await batch(left, wanted)
        done, left = done + changed, left + examined - changed
        if progress is not None:
            progress(done)
        if examined < wanted:
            break
    return BulkResult(done, left)


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
