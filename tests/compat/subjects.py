"""Those who work on a queue in the model tests: this daemon's queue code and npm bull, with the same methods.

A method raises RefusedError where the program refuses the operation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.admin import JobNotFoundError, JobStateError, QueueAdmin
from flowstate_daemon.queue.backoff import next_delay_ms
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Backoff, Job, JobFailed, JobRetried, JobSucceeded, NewJob, Retention, WriteResult
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.compat.driver import Driver, NodeError
from tests.compat.queue_model import By, Keep, QueueModel, RefusedError, Spec

LOCK_MS = 600_000  # locks expire when a test deletes them


class Actor(Protocol):
    """One program on one queue."""

    name: By

    async def add(self, specs: list[Spec]) -> list[str]: ...
    async def claim(self, count: int) -> list[str]: ...
    async def complete(self, job_id: str, value: Any) -> None: ...
    async def fail(self, job_id: str, reason: str) -> None: ...
    async def promote_due(self) -> None: ...
    async def check_stalled(self) -> None: ...
    async def retry(self, job_id: str) -> None: ...
    async def promote(self, job_id: str) -> None: ...
    async def remove(self, job_id: str) -> None: ...
    async def clean(self, state: Any, grace_ms: int, limit: int) -> int: ...
    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    async def report(self, job_id: str, value: Any) -> None: ...
    async def update(self, job_id: str, data: Any) -> None: ...


class Daemon:
    """This daemon: its worker's and its operator's side."""

    name: By = "daemon"

    def __init__(self, connection: Connection, keys: Keys, clock: Clock) -> None:
        self._bull = BullQueue(connection, keys, clock, token="me/1", lock_duration_ms=LOCK_MS)
        self._admin = QueueAdmin(connection, keys, clock, token="op")
        self._claimed: dict[str, Job] = {}

    async def add(self, specs: list[Spec]) -> list[str]:
        return [added.id for added in await self._bull.add_many([_new_job(spec) for spec in specs])]

    async def claim(self, count: int) -> list[str]:
        jobs = await self._bull.claim(count)
        self._claimed.update((job.id, job) for job in jobs)
        return [job.id for job in jobs]

    async def complete(self, job_id: str, value: Any) -> None:
        result = JobSucceeded(self._claimed[job_id], json.dumps(value).encode())
        _expect_written(await self._bull.complete([result]))

    async def fail(self, job_id: str, reason: str) -> None:
        job = self._claimed[job_id]
        if job.attempt >= job.options.attempts:
            _expect_written(await self._bull.fail([JobFailed(job, reason, b"[]")]))
        else:
            delay_ms = next_delay_ms(job.options, job.attempt)
            _expect_written(await self._bull.retry([JobRetried(job, reason, b"[]", delay_ms)]))

    async def promote_due(self) -> None:
        await self._bull.promote()

    async def check_stalled(self) -> None:
        await self._bull.check_stalled(1, 1)

    async def retry(self, job_id: str) -> None:
        with _Refusals():
            await self._admin.retry(job_id)

    async def promote(self, job_id: str) -> None:
        with _Refusals():
            await self._admin.promote(job_id)

    async def remove(self, job_id: str) -> None:
        with _Refusals():
            await self._admin.remove(job_id)

    async def clean(self, state: Any, grace_ms: int, limit: int) -> int:
        return (await self._admin.clean(state, grace_ms, limit or None)).done

    async def pause(self) -> None:
        await self._admin.pause()

    async def resume(self) -> None:
        await self._admin.resume()

    async def report(self, job_id: str, value: Any) -> None:
        await self._bull.progress(job_id, value)

    async def update(self, job_id: str, data: Any) -> None:
        with _Refusals():
            await self._admin.update_data(job_id, json.dumps(data).encode())


class NpmBull:
    """npm bull: a `Queue` in the node process, whose worker's steps are called one by one."""

    name: By = "bull"

    def __init__(self, driver: Driver, handle: str) -> None:
        self._driver = driver
        self.handle = handle

    async def _ask(self, command: str, **fields: Any) -> Any:
        try:
            return await self._driver.ask(command, queue=self.handle, **fields)
        except NodeError as error:
            raise RefusedError(str(error)) from error

    async def _call(self, method: str, *args: Any) -> Any:
        return await self._ask("call", method=method, args=args)

    async def _job(self, job_id: str, method: str, *args: Any) -> None:
        await self._ask("job", job=job_id, method=method, args=args)

    async def add(self, specs: list[Spec]) -> list[str]:
        jobs = [{"name": spec.name, "data": spec.data, "opts": options(spec)} for spec in specs]
        return [str(job["id"]) for job in await self._call("addBulk", jobs)]

    async def claim(self, count: int) -> list[str]:
        found = [await self._ask("claim") for _ in range(count)]
        return [str(job_id) for job_id in found if job_id is not None]

    async def complete(self, job_id: str, value: Any) -> None:
        await self._ask("complete", job=job_id, value=value)

    async def fail(self, job_id: str, reason: str) -> None:
        await self._ask("fail", job=job_id, message=reason)

    async def promote_due(self) -> None:
        await self._ask("promoteDue")

    async def check_stalled(self) -> None:
        await self._ask("checkStalled")

    async def retry(self, job_id: str) -> None:
        await self._job(job_id, "retry")

    async def promote(self, job_id: str) -> None:
        await self._job(job_id, "promote")

    async def remove(self, job_id: str) -> None:
        await self._job(job_id, "remove")

    async def clean(self, state: Any, grace_ms: int, limit: int) -> int:
        return len(await self._call("clean", grace_ms, state, limit))

    async def pause(self) -> None:
        await self._call("pause")

    async def resume(self) -> None:
        await self._call("resume")

    async def report(self, job_id: str, value: Any) -> None:
        await self._job(job_id, "progress", value)

    async def update(self, job_id: str, data: Any) -> None:
        await self._job(job_id, "update", data)

    async def look(self) -> dict[str, Any]:
        """What a program sees that reads the queue through npm bull."""
        return dict(await self._ask("look"))


def options(spec: Spec) -> dict[str, Any]:
    """The options of `queue.add()` for this job."""
    debounce = None
    if spec.debounce is not None:
        debounce = {"id": spec.debounce} | ({"ttl": spec.debounce_ms} if spec.debounce_ms else {})
    given = {
        "priority": spec.priority or None,
        "delay": spec.delay_ms,
        "lifo": spec.lifo or None,
        "jobId": spec.job_id,
        "attempts": spec.attempts,
        "backoff": None if spec.backoff is None else {"type": spec.backoff[0], "delay": spec.backoff[1]},
        "removeOnComplete": _keep_option(spec.on_complete),
        "removeOnFail": _keep_option(spec.on_fail),
        "debounce": debounce,
    }
    return {name: value for name, value in given.items() if value is not None}


def _keep_option(keep: Keep) -> Any:
    if keep.age_s is None:
        return keep.count == 0 if not keep.count else keep.count
    return {"age": keep.age_s} | ({} if keep.count is None else {"count": keep.count})


def _new_job(spec: Spec) -> NewJob:
    return NewJob(
        spec.name,
        spec.data,
        priority=spec.priority,
        delay_ms=spec.delay_ms,
        lifo=spec.lifo,
        job_id=spec.job_id,
        attempts=spec.attempts,
        backoff=None if spec.backoff is None else Backoff(*spec.backoff),
        remove_on_complete=Retention(spec.on_complete.count, spec.on_complete.age_s),
        remove_on_fail=Retention(spec.on_fail.count, spec.on_fail.age_s),
        debounce_id=spec.debounce,
        debounce_ms=spec.debounce_ms,
    )


def _expect_written(results: list[WriteResult]) -> None:
    if results != [WriteResult.OK]:
        raise RefusedError(results[0].value)


class _Refusals:
    """Turns the errors of the admin operations into RefusedError."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, JobNotFoundError | JobStateError):
            raise RefusedError(str(error)) from error


# All keys of a queue in one call: a round trip for each would take most of the test's time.
DUMP = """
local found = {}
for i, name in ipairs(redis.call("KEYS", ARGV[1] .. "*")) do
  local kind = redis.call("TYPE", name).ok
  local value
  if kind == "hash" then value = redis.call("HGETALL", name)
  elseif kind == "list" then value = redis.call("LRANGE", name, 0, -1)
  elseif kind == "zset" then value = redis.call("ZRANGE", name, 0, -1, "WITHSCORES")
  elseif kind == "string" then value = redis.call("GET", name) end
  found[i] = {string.sub(name, #ARGV[1] + 1), kind, value}
end
return found
"""


async def stored_state(redis: Redis, keys: Keys) -> dict[str, Any]:
    """The queue as Redis holds it, in the form of `expected_state`."""
    found: dict[str, tuple[str, Any]] = {
        tail: (kind, *value) for tail, kind, *value in await redis.eval(DUMP, 0, keys.base)
    }

    def value(tail: str, default: Any) -> Any:
        return found[tail][1] if tail in found else default

    lists = {tail: value(tail, []) for tail in ("wait", "paused", "active")}
    ranked = {tail: _pairs(value(tail, [])) for tail in ("delayed", "completed", "failed", "priority")}
    return {
        **lists,
        **{tail: {job_id: int(at) for job_id, at in scores.items()} for tail, scores in ranked.items()},
        "jobs": {
            tail: _fields(_pairs(fields[0]))
            for tail, (kind, *fields) in found.items()
            if kind == "hash" and tail != "meta"
        },
        "locked": {tail.removesuffix(":lock") for tail in found if tail.endswith(":lock")},
        "debounces": {tail.removeprefix("de:"): held for tail, (_, held) in _strings(found) if tail.startswith("de:")},
        "counter": int(value("id", 0)),
        "meta-paused": "meta-paused" in found,
    }


def _strings(found: Mapping[str, tuple[str, Any]]) -> list[tuple[str, tuple[str, Any]]]:
    return [(tail, entry) for tail, entry in found.items() if entry[0] == "string"]


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _fields(found: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a hash that every reader of Bull's layout knows, decoded."""
    numbers = ("timestamp", "delay", "priority", "processedOn", "finishedOn", "retriedOn")
    fields: dict[str, Any] = {name: int(found[name]) for name in numbers if name in found}
    opts = json.loads(found["opts"])
    return fields | {
        "name": found["name"],
        "data": json.loads(found["data"]),
        "opts": {name: value for name, value in opts.items() if value not in (None, False, 0)},
        "attemptsMade": int(found.get("attemptsMade", 0)),
        "stalledCounter": int(found.get("stalledCounter", 0)),
        **{name: json.loads(found[name]) for name in ("returnvalue", "progress") if name in found},
        **{name: found[name] for name in ("failedReason", "deid") if name in found},
    }


def expected_state(model: QueueModel) -> dict[str, Any]:
    """The state that the model expects in Redis."""
    ready = model.ready[::-1]
    return {
        "jobs": {job_id: _expected_fields(model, job_id) for job_id in model.jobs},
        "locked": model.locked,
        "debounces": {name: holder for name, (holder, _) in model.debounces.items()},
        "wait": [] if model.paused else ready,
        "paused": ready if model.paused else [],
        "active": model.active,
        "delayed": model.delayed,
        "completed": model.completed,
        "failed": model.failed,
        "priority": model.ranked,
        "counter": model.counter,
        "meta-paused": model.paused,
    }


def _expected_fields(model: QueueModel, job_id: str) -> dict[str, Any]:
    job = model.jobs[job_id]
    opts = options(job.spec) | {"timestamp": job.timestamp}
    data = job.spec.data or {}
    return {
        "name": job.spec.name,
        "data": data,
        "opts": {name: value for name, value in opts.items() if value not in (None, False, 0)},
        "timestamp": job.timestamp,
        "delay": job.delay,
        "priority": job.spec.priority,
        "attemptsMade": job.attempts_made,
        "stalledCounter": job.stalls,
        **({} if job.spec.debounce is None else {"deid": job.spec.debounce}),
        **job.fields,
    }


def expected_look(model: QueueModel) -> dict[str, Any]:
    """What npm bull must show of this queue."""
    by_score = QueueModel._by_score
    ids = {
        "waiting": [] if model.paused else model.ready,
        "paused": model.ready if model.paused else [],
        "active": model.active[::-1],
        "delayed": by_score(model.delayed),
        "completed": by_score(model.completed),
        "failed": by_score(model.failed),
    }

    def row(job_id: str) -> list[Any]:
        job = model.jobs[job_id]
        fields = job.fields
        return [job_id, job.spec.name, job.attempts_made, fields.get("failedReason"), fields.get("returnvalue")]

    return {
        "counts": {state: len(found) for state, found in ids.items()},
        "rows": {state: [row(job_id) for job_id in found] for state, found in ids.items()},
    }
