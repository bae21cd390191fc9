"""The queue as a shadow sees it: what happens to its jobs, and what they are. Reads and listens, never writes.

`work/shadow.py` follows the backend's own worker with it. Hears every announcement of the queue by one pattern, so that
a Redis user with the right to read, and to listen to `&<prefix>:<name>:*`, is enough.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec
from redis.asyncio.client import PubSub

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.queue.decode import decode_job
from flowstate_daemon.queue.events import FinishedEvent
from flowstate_daemon.queue.inspector import decode_text
from flowstate_daemon.queue.job import Job
from flowstate_daemon.redis_client.connection import Connection, translate_errors
from flowstate_daemon.redis_client.keys import Keys, is_valid_job_id
from flowstate_daemon.redis_client.scripts import Scripts

BATCH_SIZE = 100
CONFIRM_S = 5.0
GLOB_CHARS = re.compile(r"([*?\[\]\\])")
PENDING_LISTS = ("active", "wait", "paused")
EventType = Literal["waiting", "active", "completed", "failed"]


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job; `words` are the JSON of its result, or why it failed for good."""

    type: EventType
    job_id: str
    payload: str = ""


class QueueObserver:
    """Watches one queue. One task at a time may listen.

    `deaf` says that something may have been missed, until whoever listens has looked around and says otherwise.
    """

    def __init__(self, connection: Connection, keys: Keys, *, max_data_bytes: int) -> None:
        self._connection = connection
        self._keys = keys
        self._max_data_bytes = max_data_bytes
        self._scripts = Scripts(connection)
        self._pubsub: PubSub | None = None
        self.deaf = True
        self._knocked = False

    @property
    def listening(self) -> bool:
        return self._pubsub is not None

    async def listen(self) -> None:
        """Miss nothing from here on. Raises Outage."""
        self.deaf, self._knocked = True, False
        self._pubsub = pubsub = self._connection.pubsub()
        try:
            with translate_errors():
                await pubsub.psubscribe(GLOB_CHARS.sub(r"\\\1", self._keys.base) + "*")
                confirmed = await pubsub.get_message(timeout=CONFIRM_S)
        except BaseException:
            await self.close()
            raise
        if confirmed is None:
            await self.close()
            raise StoreUnavailableError("Redis did not confirm a subscription in time: look at its load")

    async def close(self) -> None:
        """Stop listening."""
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def next_events(self, timeout_s: float) -> list[JobEvent]:
        """What was announced since the last call, up to a hundred; empty after `timeout_s`. Raises Outage."""
        pubsub = self._pubsub
        if pubsub is None:
            raise StoreUnavailableError("Redis: nobody listens")
        received: list[JobEvent] = []
        try:
            with translate_errors():
                message = await pubsub.get_message(timeout=timeout_s)
                if message is None:
                    await self._knock(pubsub)
                while message is not None:
                    self._knocked = False
                    if (sign := self._read(message)) is not None:
                        received.append(sign)
                    message = await pubsub.get_message(timeout=0) if len(received) < BATCH_SIZE else None
        except BaseException:
            # Also when cancelled: an answer read by halves would be taken for the next one's beginning.
            await self.close()
            raise
        return received

    async def _knock(self, pubsub: PubSub) -> None:
        """A connection that a network has silently forgotten looks like a queue where nothing happens."""
        if self._knocked:
            raise StoreUnavailableError("Redis: the connection that listens is dead")
        self._knocked = True
        await pubsub.ping()

    async def pending_ids(self, most: int) -> list[str]:
        """Ids of jobs that are in hand, or that are the next `most` to run. Raises Outage."""
        found: list[str] = []
        for state in PENDING_LISTS:
            ids = await self._connection.execute("LRANGE", self._keys(state), -most, -1)
            found.extend(decode_text(job_id) for job_id in reversed(ids))
        return found

    async def read_jobs(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """The jobs among these ids that are there, at most a hundred. Raises Outage."""
        ids = [job_id for job_id in job_ids if is_valid_job_id(job_id)]
        if not ids:
            return {}
        keys = [self._keys.job(job_id) for job_id in ids]
        rows = await self._scripts.run("read_jobs", keys, [self._max_data_bytes, *ids])
        return {job_id: decode_job(row, self._max_data_bytes) for job_id, row in zip(ids, rows, strict=True) if row}

    def _read(self, message: dict[str, Any]) -> JobEvent | None:
        """An announcement that tells of a job's way; None for any other."""
        if message["type"] == "psubscribe":
            self.deaf = True  # the library has connected anew
        if message["type"] != "pmessage":
            return None
        what, _, _ = decode_text(message["channel"]).removeprefix(self._keys.base).partition("@")
        if what in {"waiting", "active"}:
            return JobEvent(cast("EventType", what), decode_text(message["data"]))
        if what not in {"completed", "failed"}:
            return None
        try:
            event = msgspec.json.decode(message["data"], type=FinishedEvent)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return JobEvent(cast("EventType", what), event.job_id, event.val or "")
