"""Waiting for a job's end: Python's own `job.finished()`, for `enqueue --wait` and for tests.

An event is the only sign of a job that removes itself when it ends, so one listens before adding. Events get
lost with a connection: every wait also looks at the queue now and then.
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
from flowstate_daemon.redis_client.connection import Connection, PubSub, translate_errors
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts

CONFIRM_S = 5.0


@dataclass(frozen=True, slots=True)
class QueueEvent:
    """One announcement; `due_ms` is set for `delayed`, and 0 for `listening`, which may have missed some."""

    kind: Literal["listening", "delayed", "paused", "resumed"]
    due_ms: int | None = None


class QueueEvents:
    """The ear of one daemon. One task at a time may listen."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._channels = {keys(kind).encode(): kind for kind in ("delayed", "paused", "resumed")}
        self._pubsub: PubSub | None = None

    async def next(self, timeout_s: float) -> QueueEvent | None:
        """The next announcement, or None after `timeout_s`. Raises Outage; the next call connects again."""
        try:
            with translate_errors():
                if self._pubsub is None:
                    await self._listen()
                    return QueueEvent("listening", due_ms=0)
                return await self._receive(self._pubsub, timeout_s)
        except BaseException:
            # Also when cancelled: an answer read by halves would be taken for the next one's beginning.
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening; `next` would begin anew."""
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _listen(self) -> None:
        self._pubsub = pubsub = self._connection.pubsub()
        await pubsub.subscribe(*self._channels)
        for _ in self._channels:
            if await pubsub.get_message(timeout=CONFIRM_S) is None:
                raise StoreUnavailableError("Redis did not confirm a subscription in time: look at its load")

    async def _receive(self, pubsub: PubSub, timeout_s: float) -> QueueEvent | None:
        message = await pubsub.get_message(timeout=timeout_s)
        return None if message is None else self._read(message)

    def _read(self, message: dict[str, Any]) -> QueueEvent | None:
        kind = self._channels.get(message["channel"]) if message["type"] == "message" else None
        if kind == "delayed":
            due_ms = _due(message["data"])
            return None if due_ms is None else QueueEvent("delayed", due_ms)
        if kind == "paused":
            return QueueEvent("paused")
        return QueueEvent("resumed") if kind == "resumed" else None


def _due(payload: bytes) -> int | None:
    """A due time, rounded up: Bull's scripts publish fractions."""
    try:
        return math.ceil(float(payload))
    except (ValueError, OverflowError):
        return None


log = structlog.get_logger()

POLL_INTERVAL_S = 5.0
RECONNECT_DELAY_S = 0.5  # after a lost connection, before the next try to listen
CACHE_SIZE = 10_000  # ends that nobody has asked for yet


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """How a job ended. `gone`: removed, or ended unheard and kept nowhere; `returnvalue` is JSON text."""

    id: str
    state: Literal["completed", "failed", "gone"]
    returnvalue: bytes | None = None
    reason: str | None = None

    @property
    def value(self) -> Any:
        """What the handler returned, parsed; None for anything that is not JSON."""
        try:
            return None if self.returnvalue is None else msgspec.json.decode(self.returnvalue)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


class FinishedEvent(msgspec.Struct, frozen=True):
    """Bull's payload on the channels of ends; node omits `val` when a handler returned nothing."""

    job_id: str = msgspec.field(name="jobId")
    val: str | None = None


class JobWaiter:
    """Hears the ends of all jobs of a queue from `async with` on; uses the connection's one subscriber."""

    def __init__(self, connection: Connection, keys: Keys, *, look_every_s: float = POLL_INTERVAL_S) -> None:
        self._keys = keys
        self._look_every_s = look_every_s
        self._channels = {keys("completed").encode(): "completed", keys("failed").encode(): "failed"}
        self._scripts = Scripts(connection)
        self._pubsub = connection.pubsub()
        self._received: OrderedDict[str, FinishedJob] = OrderedDict()
        self._news = asyncio.Condition()
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            with translate_errors():
                await self._subscribe()
        except BaseException:
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]
            raise
        self._listener = asyncio.create_task(self._listen(), name="watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.cancel()
        [end] = await asyncio.gather(self._listener, return_exceptions=True)
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        if isinstance(end, Exception):
            raise end  # a bug, no outage: those are outlived

    async def wait(self, job_id: str, timeout_s: float) -> FinishedJob:
        """Wait for the job's end; one that was heard is told once. Raises TimeoutError, Outage."""
        async with asyncio.timeout(timeout_s) as scope:
            # `wait_for` in Python 3.11, within redis-py, may swallow the cancellation that ends the wait.
            while not scope.expired():
                end = self._received.pop(job_id, None) or await self._look(job_id)
                if end is None and not scope.expired():
                    end = await self._receive(job_id, self._look_every_s)
                if end is not None:
                    return end
        raise TimeoutError

    async def _subscribe(self) -> None:
        await self._pubsub.subscribe(*self._channels)
        for _ in self._channels:  # the server's word that it listens for us from now on
            if await self._pubsub.get_message(timeout=CONFIRM_S) is None:
                raise StoreUnavailableError("Redis did not confirm a subscription in time: look at its load")

    async def _look(self, job_id: str) -> FinishedJob | None:
        """Ask the queue itself; what was heard meanwhile wins, for it knows the value of a job now gone."""
        keys = [self._keys("completed"), self._keys("failed"), self._keys.job(job_id)]
        state, value, reason = await self._scripts.run("is_finished", keys, [job_id])
        if not state:
            return None
        if state == b"gone":
            return await self._receive(job_id, RECONNECT_DELAY_S) or FinishedJob(job_id, "gone")
        if state == b"completed":
            return FinishedJob(job_id, "completed", returnvalue=value)
        return FinishedJob(job_id, "failed", reason=None if reason is None else reason.decode(errors="replace"))

    async def _receive(self, job_id: str, within_s: float) -> FinishedJob | None:
        try:
            async with asyncio.timeout(within_s), self._news:
                await self._news.wait_for(lambda: job_id in self._received)
        except TimeoutError:
            return None
        return self._received.pop(job_id, None)

    async def _listen(self) -> None:
        while True:
            try:
                with translate_errors():
                    message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
            except StoreUnavailableError as outage:
                log.warning("job_waiter_disconnected", reason=outage.reason)
                await asyncio.sleep(RECONNECT_DELAY_S)
                continue
            end = self._read(message) if message is not None else None
            if end is not None:
                await self._note(end)

    async def _note(self, end: FinishedJob) -> None:
        async with self._news:
            self._received[end.id] = end
            while len(self._received) > CACHE_SIZE:
                self._received.popitem(last=False)
            self._news.notify_all()

    def _read(self, message: dict[str, Any]) -> FinishedJob | None:
        """An event as some worker wrote it; None when it is not one."""
        try:
            event = msgspec.json.decode(message["data"], type=FinishedEvent)
        except (msgspec.DecodeError, TypeError):
            return None
        if self._channels.get(message["channel"]) == "completed":
            return FinishedJob(event.job_id, "completed", returnvalue=(event.val or "null").encode())
        return FinishedJob(event.job_id, "failed", reason=event.val)


async def wait_until_finished(connection: Connection, keys: Keys, job_id: str, timeout_s: float) -> FinishedJob:
    """Wait for the end of one job that exists already. Raises TimeoutError, Outage."""
    async with JobWaiter(connection, keys) as watch:
        return await watch.wait(job_id, timeout_s)
