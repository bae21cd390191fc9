"""Observes a queue for shadow mode: the events of its jobs, and their data. Reads and subscribes, never writes.

One pattern subscription receives every event of the queue. The Redis user only needs permission to read, and to
subscribe to `&<prefix>:<name>:*`.
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
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.errors import translate_errors
from flowstate_daemon.redis_client.keys import Keys, is_valid_job_id
from flowstate_daemon.redis_client.scripts import Scripts

BATCH_SIZE = 100
CONFIRM_S = 5.0
GLOB_CHARS = re.compile(r"([*?\[\]\\])")
PENDING_LISTS = ("active", "wait", "paused")
EventType = Literal["waiting", "active", "completed", "failed"]


@dataclass(frozen=True, slots=True)
class JobEvent:
    """An event of a job. `payload` is the JSON of its return value, or the reason why it failed."""

    type: EventType
    job_id: str
    payload: str = ""


class QueueObserver:
    """Observes one queue. Only one task at a time may listen.

    `missed_events`: events may have been missed; whoever listens clears it after reading the pending jobs.
    """

    def __init__(self, connection: Connection, keys: Keys, *, max_data_bytes: int) -> None:
        self._connection = connection
        self._keys = keys
        self._max_data_bytes = max_data_bytes
        self._scripts = Scripts(connection)
        self._pubsub: PubSub | None = None
        self.missed_events = True
        self._ping_sent = False

    @property
    def listening(self) -> bool:
        return self._pubsub is not None

    async def listen(self) -> None:
        """Subscribe: from here on no event is missed. Raises StoreUnavailableError."""
        self.missed_events, self._ping_sent = True, False
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
        """The events since the last call, up to a hundred; empty after `timeout_s`. Raises StoreUnavailableError."""
        pubsub = self._pubsub
        if pubsub is None:
            raise StoreUnavailableError("Redis: not subscribed")
        received: list[JobEvent] = []
        try:
            with translate_errors():
                message = await pubsub.get_message(timeout=timeout_s)
                if message is None:
                    await self._ping(pubsub)
                while message is not None:
                    self._ping_sent = False
                    if (event := self._parse(message)) is not None:
                        received.append(event)
                    message = await pubsub.get_message(timeout=0) if len(received) < BATCH_SIZE else None
        except BaseException:
            # Also when cancelled: a half-read reply would be taken for the beginning of the next one.
            await self.close()
            raise
        return received

    async def _ping(self, pubsub: PubSub) -> None:
        """Send a ping: without it, a dead connection looks like a queue without events."""
        if self._ping_sent:
            raise StoreUnavailableError("Redis: the subscribed connection is dead")
        self._ping_sent = True
        await pubsub.ping()

    async def pending_ids(self, limit: int) -> list[str]:
        """Ids of active jobs and of the next `limit` jobs to run. Raises StoreUnavailableError."""
        found: list[str] = []
        for state in PENDING_LISTS:
            ids = await self._connection.execute("LRANGE", self._keys(state), -limit, -1)
            found.extend(decode_text(job_id) for job_id in reversed(ids))
        return found

    async def read_jobs(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """The jobs with these ids, at most a hundred; a missing job is left out. Raises StoreUnavailableError."""
        ids = [job_id for job_id in job_ids if is_valid_job_id(job_id)]
        if not ids:
            return {}
        keys = [self._keys.job(job_id) for job_id in ids]
        rows = await self._scripts.run("read_jobs", keys, [self._max_data_bytes, *ids])
        return {job_id: decode_job(row, self._max_data_bytes) for job_id, row in zip(ids, rows, strict=True) if row}

    def _parse(self, message: dict[str, Any]) -> JobEvent | None:
        """The event in a message; None for a message that is not about a job's progress."""
        if message["type"] == "psubscribe":
            self.missed_events = True  # the library has reconnected
        if message["type"] != "pmessage":
            return None
        event_type, _, _ = decode_text(message["channel"]).removeprefix(self._keys.base).partition("@")
        if event_type in {"waiting", "active"}:
            return JobEvent(cast("EventType", event_type), decode_text(message["data"]))
        if event_type not in {"completed", "failed"}:
            return None
        try:
            event = msgspec.json.decode(message["data"], type=FinishedEvent)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return JobEvent(cast("EventType", event_type), event.job_id, event.val or "")
