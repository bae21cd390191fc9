"""The queue in a person's hands: pause, resume, retry, remove, promote, clean. For the command line and the web.

Whatever is done to many jobs is done in batches of one script each, so that the queue goes on meanwhile; `progress`
hears the number done so far. The engine never comes here.
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
STATES_SCORED_BY_END = ("completed", "failed")  # sets whose scores are the jobs' own ends
SIDE_INDEXES = ("priority", "stalled", "limiter:index")  # where ids stand besides the place that is their state
JOB_LOCKED_MESSAGE = (
    "a worker is at it: wait until it has ended, or until its lock runs out (30 s after the worker died)"
)

Progress = Callable[[int], None]


class JobNotFoundError(FlowstateError):
    """There is no job with this id."""


class JobStateError(FlowstateError):
    """The job is not where this can be done to it."""


@dataclass(frozen=True, slots=True)
class PauseResult:
    """The outcome of pause or resume; `changed` is False when the queue was so already."""

    is_paused: bool
    changed: bool


@dataclass(frozen=True, slots=True)
class BulkResult:
    """The outcome of something done to many jobs: how many it was done to, how many were looked at and left."""

    done: int
    left: int


class QueueAdmin:
    """Changes one queue. `token` is what listeners hear as the sender of `waiting` events."""

    def __init__(self, connection: Connection, keys: Keys, clock: Clock, *, token: str) -> None:
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._waiting = keys(f"waiting@{token}")
        self._scripts = Scripts(connection)

    async def pause(self) -> PauseResult:
        """No worker takes a job any more; running ones finish."""
        keys = self._named("wait", "paused", "meta-paused", "meta", "priority")
        return self._switched(await self._scripts.run("pause", keys, []), is_paused=True)

    async def resume(self) -> PauseResult:
        """Workers take jobs again."""
        keys = self._named("paused", "wait", "meta-paused", "meta", "priority")
        return self._switched(await self._scripts.run("resume", keys, [self._keys("resumed")]), is_paused=False)

    async def retry(self, job_id: str) -> None:
        """Give a failed job another run, even if its attempts are used up. Raises NotThere, WrongState."""
        args = (self._keys.base, _known(job_id), self._clock.now_ms(), self._waiting)
        code = await self._scripts.run("retry_job", self._ways("failed"), args)
        _raise_for_code(job_id, code, "it has not failed, and only failed jobs can be retried")

    async def retry_all(self, limit: int | None = None, progress: Progress | None = None) -> BulkResult:
        """Give the oldest failed jobs another run, `limit` of them or all; those that fail again meanwhile stay."""
        started = self._clock.now_ms()

        async def batch(left: int, size: int) -> Sequence[int]:
            args = (self._keys.base, started, left, size, self._clock.now_ms(), self._waiting)
            return await self._batch("retry_all_failed", self._ways("failed"), args)

        return await _in_batches(batch, RETRY_BATCH, limit, progress)

    async def promote(self, job_id: str) -> None:
        """Make a delayed job due now. Raises NotThere, WrongState."""
        keys = [*self._ways("delayed"), self._keys.job(_known(job_id))]
        code = await self._scripts.run("promote_job", keys, (self._keys.base, job_id, self._waiting))
        _raise_for_code(job_id, code, "it is not delayed, and only delayed jobs can be promoted")

    async def promote_all(self, progress: Progress | None = None) -> BulkResult:
        """Make as many jobs due now as are delayed at this moment."""
        delayed = await self._connection.execute("ZCARD", self._keys("delayed"))

        async def batch(_: int, size: int) -> Sequence[int]:
            return await self._batch("promote_all", self._ways("delayed"), (self._keys.base, size, self._waiting))

        return await _in_batches(batch, PROMOTE_BATCH, delayed, progress)

    async def remove(self, job_id: str) -> None:
        """Delete a job, wherever it is, with all that belongs to it. Raises NotThere, WrongState."""
        places = self._named("completed", "failed", "delayed", "active", "wait", "paused", *SIDE_INDEXES)
        keys = [*places, self._keys.job(_known(job_id)), self._keys.lock(job_id)]
        _raise_for_code(job_id, await self._scripts.run("remove", keys, (self._keys.base, job_id)), "")

    async def clean(
        self, state: State, grace_ms: int, limit: int | None = None, progress: Progress | None = None
    ) -> BulkResult:
        """Delete the jobs of a state that are older than `grace_ms`, `limit` of them or all; never locked ones."""
        latest = self._clock.now_ms() - grace_ms
        highest = latest if state in STATES_SCORED_BY_END else "+inf"

        async def batch(left: int, size: int) -> Sequence[int]:
            args = (self._keys.base, latest, left, CLEAN_BATCH, size, highest)
            return await self._batch("clean", self._named(state, *SIDE_INDEXES), args)

        return await _in_batches(batch, CLEAN_BATCH, limit, progress)

    async def update_data(self, job_id: str, data: bytes) -> None:
        """Replace a job's data, JSON; the next run sees it. Raises NotThere, Malformed."""
        decode_json(data, what="new data")
        _raise_for_code(job_id, await self._scripts.run("update_data", [self._keys.job(_known(job_id))], [data]), "")

    def _named(self, *names: str) -> list[str]:
        return [self._keys(name) for name in names]

    def _ways(self, source: str) -> list[str]:
        """The keys of a way from `source` back to the waiting jobs."""
        return self._named(source, "wait", "paused", "meta-paused", "priority")

    async def _batch(self, script: str, keys: Sequence[str], args: Sequence[str | int]) -> Sequence[int]:
        found: Sequence[int] = await self._scripts.run(script, keys, args)
        return found

    def _switched(self, code: int, *, is_paused: bool) -> PauseResult:
        if code < 0:
            raise JobStateError(
                f"{self._keys('wait')} or {self._keys('paused')} is no list: some other program wrote it"
            )
        return PauseResult(is_paused, changed=bool(code))


async def _in_batches(
    batch: Callable[[int, int], Awaitable[Sequence[int]]], size: int, limit: int | None, progress: Progress | None
) -> BulkResult:
    """Batch after batch, each told how many were left behind so far and how many it may do at most."""
    done = left = 0
    while limit is None or done < limit:
        wanted = size if limit is None else min(size, limit - done)
        looked, did = await batch(left, wanted)
        done, left = done + did, left + looked - did
        if progress is not None:
            progress(done)
        if looked < wanted:
            break
    return BulkResult(done, left)


def _known(job_id: str) -> str:
    """The id, if a job can have it. Raises NotThere."""
    if not is_valid_job_id(job_id):
        raise JobNotFoundError(f"there is no job {job_id!r}: the name belongs to the queue itself")
    return job_id


def _raise_for_code(job_id: str, code: int, elsewhere: str) -> None:
    """Turn Bull's return codes into errors."""
    if code == 0:
        raise JobNotFoundError(f"there is no job {job_id!r}: it was removed, or removed itself when it ended")
    if code == -1:
        raise JobStateError(f"job {job_id!r} is locked; {JOB_LOCKED_MESSAGE}")
    if code < 0:
        raise JobStateError(f"job {job_id!r} was left alone: {elsewhere}")
