"""What other workers and producers announce: due times, pause, resume. Heard on a connection of its own.

The promoter sleeps on it. Announcements are lost with a connection, so each new one begins with a signal that
says: look for yourself. Nothing is sent while nothing is heard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio.client import PubSub

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.queue.connection import Connection, outages
from flowstate_daemon.queue.keys import Keys

CONFIRM_S = 5.0


@dataclass(frozen=True, slots=True)
class Signal:
    """One announcement; `due_ms` is set for `delayed`, and 0 for `listening`, which may have missed some."""

    kind: Literal["listening", "delayed", "paused", "resumed"]
    due_ms: int | None = None


class Signals:
    """The ear of one daemon. One task at a time may listen."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._channels = {keys(kind).encode(): kind for kind in ("delayed", "paused", "resumed")}
        self._pubsub: PubSub | None = None

    async def next(self, timeout_s: float) -> Signal | None:
        """The next announcement, or None after `timeout_s`. Raises Outage; the next call connects again."""
        try:
            with outages():
                if self._pubsub is None:
                    await self._listen()
                    return Signal("listening", due_ms=0)
                return await self._hear(self._pubsub, timeout_s)
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
                raise Outage("Redis did not confirm a subscription in time: look at its load")

    async def _hear(self, pubsub: PubSub, timeout_s: float) -> Signal | None:
        message = await pubsub.get_message(timeout=timeout_s)
        return None if message is None else self._read(message)

    def _read(self, message: dict[str, Any]) -> Signal | None:
        kind = self._channels.get(message["channel"]) if message["type"] == "message" else None
        if kind == "delayed":
            due_ms = _due(message["data"])
            return None if due_ms is None else Signal("delayed", due_ms)
        if kind == "paused":
            return Signal("paused")
        return Signal("resumed") if kind == "resumed" else None


def _due(payload: bytes) -> int | None:
    """A due time, rounded up: Bull's scripts publish fractions."""
    try:
        return math.ceil(float(payload))
    except (ValueError, OverflowError):
        return None
