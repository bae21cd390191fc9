"""Waiting for a job's end: Python's own `job.finished()`, for `enqueue --wait` and for tests.

An event is the only sign of a job that removes itself when it ends, so one listens before adding. Events get
lost with a connection: every wait also looks at the queue now and then.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
import structlog

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.queue.connection import Connection, outages
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.scripts import Scripts

log = structlog.get_logger()

LOOK_EVERY_S = 5.0
CONFIRM_S = 5.0
REST_S = 0.5  # after a lost connection, before the next try to listen
REMEMBERED = 10_000  # ends that nobody has asked for yet


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


class EndEvent(msgspec.Struct, frozen=True):
    """Bull's payload on the channels of ends; node omits `val` when a handler returned nothing."""

    job_id: str = msgspec.field(name="jobId")
    val: str | None = None


class Watch:
    """Hears the ends of all jobs of a queue from `async with` on; uses the connection's one subscriber."""

    def __init__(self, connection: Connection, keys: Keys, *, look_every_s: float = LOOK_EVERY_S) -> None:
        self._keys = keys
        self._look_every_s = look_every_s
        self._channels = {keys("completed").encode(): "completed", keys("failed").encode(): "failed"}
        self._scripts = Scripts(connection)
        self._pubsub = connection.pubsub()
        self._heard: OrderedDict[str, FinishedJob] = OrderedDict()
        self._news = asyncio.Condition()
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            with outages():
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

    async def finished(self, job_id: str, timeout_s: float) -> FinishedJob:
        """Wait for the job's end; one that was heard is told once. Raises TimeoutError, Outage."""
        async with asyncio.timeout(timeout_s) as scope:
            # `wait_for` in Python 3.11, within redis-py, may swallow the cancellation that ends the wait.
            while not scope.expired():
                end = self._heard.pop(job_id, None) or await self._look(job_id)
                if end is None and not scope.expired():
                    end = await self._hear(job_id, self._look_every_s)
                if end is not None:
                    return end
        raise TimeoutError

    async def _subscribe(self) -> None:
        await self._pubsub.subscribe(*self._channels)
        for _ in self._channels:  # the server's word that it listens for us from now on
            if await self._pubsub.get_message(timeout=CONFIRM_S) is None:
                raise Outage("Redis did not confirm a subscription in time: look at its load")

    async def _look(self, job_id: str) -> FinishedJob | None:
        """Ask the queue itself; what was heard meanwhile wins, for it knows the value of a job now gone."""
        keys = [self._keys("completed"), self._keys("failed"), self._keys.job(job_id)]
        state, value, reason = await self._scripts.run("ended", keys, [job_id])
        if not state:
            return None
        if state == b"gone":
            return await self._hear(job_id, REST_S) or FinishedJob(job_id, "gone")
        if state == b"completed":
            return FinishedJob(job_id, "completed", returnvalue=value)
        return FinishedJob(job_id, "failed", reason=None if reason is None else reason.decode(errors="replace"))

    async def _hear(self, job_id: str, within_s: float) -> FinishedJob | None:
        try:
            async with asyncio.timeout(within_s), self._news:
                await self._news.wait_for(lambda: job_id in self._heard)
        except TimeoutError:
            return None
        return self._heard.pop(job_id, None)

    async def _listen(self) -> None:
        while True:
            try:
                with outages():
                    message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
            except Outage as outage:
                log.warning("watch_deaf", reason=outage.reason)
                await asyncio.sleep(REST_S)
                continue
            end = self._read(message) if message is not None else None
            if end is not None:
                await self._note(end)

    async def _note(self, end: FinishedJob) -> None:
        async with self._news:
            self._heard[end.id] = end
            while len(self._heard) > REMEMBERED:
                self._heard.popitem(last=False)
            self._news.notify_all()

    def _read(self, message: dict[str, Any]) -> FinishedJob | None:
        """An event as some worker wrote it; None when it is not one."""
        try:
            event = msgspec.json.decode(message["data"], type=EndEvent)
        except (msgspec.DecodeError, TypeError):
            return None
        if self._channels.get(message["channel"]) == "completed":
            return FinishedJob(event.job_id, "completed", returnvalue=(event.val or "null").encode())
        return FinishedJob(event.job_id, "failed", reason=event.val)


async def finished(connection: Connection, keys: Keys, job_id: str, timeout_s: float) -> FinishedJob:
    """Wait for the end of one job that exists already. Raises TimeoutError, Outage."""
    async with Watch(connection, keys) as watch:
        return await watch.finished(job_id, timeout_s)
