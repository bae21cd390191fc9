"""Bull's pub/sub events: pause, resume and due times for the worker, finished jobs for `enqueue --wait`.

A job that removes itself when it finishes leaves only its event, so subscribe before adding the job. Events are lost
with a connection, so waiting for a job also polls the queue.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
import structlog

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.redis_client.connection import Connection, Subscriber, subscribe
from flowstate_daemon.redis_client.errors import translate_errors
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts

log = structlog.get_logger()

POLL_INTERVAL_S = 5.0
RECONNECT_DELAY_S = 0.5
CACHE_SIZE = 10_000  # results of finished jobs that no caller has waited for yet


@dataclass(frozen=True, slots=True)
class QueueEvent:
    """One event. `due_ms` is set for `delayed`, and 0 for `listening`: events before the subscription were missed."""

    kind: Literal["listening", "delayed", "paused", "resumed"]
    due_ms: int | None = None


class QueueEvents:
    """The events of one queue. Only one task at a time may call `next`."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._channels = {keys(kind).encode(): kind for kind in ("delayed", "paused", "resumed")}
        self._pubsub: Subscriber | None = None

    async def next(self, timeout_s: float) -> QueueEvent | None:
        """The next event, or None after `timeout_s`. Raises StoreUnavailableError; the next call connects again."""
        try:
            with translate_errors():
                if self._pubsub is None:
                    await self._listen()
                    return QueueEvent("listening", due_ms=0)
                return await self._receive(self._pubsub, timeout_s)
        except BaseException:
            # Also when cancelled: the rest of a partly read reply would be read as the begin of the next one.
            await self.close()
            raise

    async def close(self) -> None:
        """Unsubscribe; the next call of `next` subscribes again."""
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _listen(self) -> None:
        self._pubsub = self._connection.pubsub()
        await subscribe(self._pubsub, *self._channels)

    async def _receive(self, pubsub: Subscriber, timeout_s: float) -> QueueEvent | None:
        message = await pubsub.get_message(timeout=timeout_s)
        return None if message is None else self._decode(message)

    def _decode(self, message: dict[str, Any]) -> QueueEvent | None:
        kind = self._channels.get(message["channel"]) if message["type"] == "message" else None
        if kind == "delayed":
            due_ms = _due(message["data"])
            return None if due_ms is None else QueueEvent("delayed", due_ms)
        if kind == "paused":
            return QueueEvent("paused")
        return QueueEvent("resumed") if kind == "resumed" else None


def _due(payload: bytes) -> int | None:
    """A due time in ms, rounded up: Bull's scripts publish fractions."""
    try:
        return math.ceil(float(payload))
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """The result of a job. `gone`: removed, or finished and not kept. `returnvalue` is JSON text."""

    id: str
    state: Literal["completed", "failed", "gone"]
    returnvalue: bytes | None = None
    reason: str | None = None

    @property
    def value(self) -> Any:
        """The return value of the handler, parsed; None when it is not valid JSON."""
        try:
            return None if self.returnvalue is None else msgspec.json.decode(self.returnvalue)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


class FinishedEvent(msgspec.Struct, frozen=True):
    """Bull's payload of `completed` and `failed`; node omits `val` when a handler returned nothing."""

    job_id: str = msgspec.field(name="jobId")
    val: str | None = None


class JobWaiter:
    """Receives the events of finished jobs from `async with` on. Uses the only subscriber of the connection."""

    def __init__(self, connection: Connection, keys: Keys, *, poll_interval_s: float = POLL_INTERVAL_S) -> None:
        self._keys = keys
        self._poll_interval_s = poll_interval_s
        self._channels = {keys("completed").encode(): "completed", keys("failed").encode(): "failed"}
        self._scripts = Scripts(connection)
        self._pubsub = connection.pubsub()
        self._finished: OrderedDict[str, FinishedJob] = OrderedDict()
        self._changed = asyncio.Condition()
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            with translate_errors():
                # Waits for the confirmation: every event after `async with` is received.
                await subscribe(self._pubsub, *self._channels)
        except BaseException:
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]
            raise
        self._listener = asyncio.create_task(self._listen(), name="job_waiter")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.cancel()
        [result] = await asyncio.gather(self._listener, return_exceptions=True)
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        if isinstance(result, Exception):
            raise result  # a bug: the listener handles outages itself

    async def wait(self, job_id: str, timeout_s: float) -> FinishedJob:
        """Wait until the job has finished; each result is returned once. Raises TimeoutError, StoreUnavailableError."""
        async with asyncio.timeout(timeout_s) as scope:
            # `wait_for` of Python 3.11, used by redis-py, may swallow the cancellation at the deadline: check it too.
            while not scope.expired():
                job = self._finished.pop(job_id, None) or await self._poll(job_id)
                if job is None and not scope.expired():
                    job = await self._wait_for_event(job_id, self._poll_interval_s)
                if job is not None:
                    return job
        raise TimeoutError

    async def _poll(self, job_id: str) -> FinishedJob | None:
        """Read the job's state. For a job that is gone, prefer its event, which contains the return value."""
        keys = [self._keys("completed"), self._keys("failed"), self._keys.job(job_id)]
        state, value, reason = await self._scripts.run("is_finished", keys, [job_id])
        if not state:
            return None
        if state == b"gone":
            return await self._wait_for_event(job_id, RECONNECT_DELAY_S) or FinishedJob(job_id, "gone")
        if state == b"completed":
            return FinishedJob(job_id, "completed", returnvalue=value)
        return FinishedJob(job_id, "failed", reason=None if reason is None else reason.decode(errors="replace"))

    async def _wait_for_event(self, job_id: str, timeout_s: float) -> FinishedJob | None:
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: job_id in self._finished)
        except TimeoutError:
            return None
        return self._finished.pop(job_id, None)

    async def _listen(self) -> None:
        while True:
            try:
                with translate_errors():
                    message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
            except StoreUnavailableError as outage:
                log.warning("job_waiter_disconnected", reason=outage.reason)
                await asyncio.sleep(RECONNECT_DELAY_S)
                continue
            job = self._decode(message) if message is not None else None
            if job is not None:
                await self._record(job)

    async def _record(self, job: FinishedJob) -> None:
        async with self._changed:
            self._finished[job.id] = job
            while len(self._finished) > CACHE_SIZE:
                self._finished.popitem(last=False)
            self._changed.notify_all()

    def _decode(self, message: dict[str, Any]) -> FinishedJob | None:
        """The job in an event of any worker; None when the payload is not one."""
        try:
            event = msgspec.json.decode(message["data"], type=FinishedEvent)
        except (msgspec.DecodeError, TypeError):
            return None
        if self._channels.get(message["channel"]) == "completed":
            return FinishedJob(event.job_id, "completed", returnvalue=(event.val or "null").encode())
        return FinishedJob(event.job_id, "failed", reason=event.val)
