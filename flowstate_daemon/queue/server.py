"""What the Redis server is and how it is set up, for `check` and for the daemon's start.

Hosted servers refuse some of these questions: what cannot be known is None.
"""

from __future__ import annotations

from dataclasses import dataclass

from redis import exceptions as refused

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.connection import Connection

# BLMOVE, by which an idle daemon waits, came with 6.2.
OLDEST = (6, 2)


@dataclass(frozen=True, slots=True)
class Server:
    """The server at the other end. `round_trip_ms` is the best of a few; None means that it would not say."""

    name: str
    version: tuple[int, ...]
    maxmemory_policy: str | None
    append_only: bool | None
    role: str | None
    round_trip_ms: float

    @property
    def too_old(self) -> bool:
        return self.version[:2] < OLDEST

    @property
    def title(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"


async def look_at_server(connection: Connection, clock: Clock) -> Server:
    """Ask the server about itself. Raises Outage."""
    told = await _told(connection)
    policy = told.get("maxmemory_policy") or await _setting(connection, "maxmemory-policy")
    append_only = told.get("aof_enabled")
    version = told.get("valkey_version") or told.get("redis_version", "0")
    return Server(
        name="Valkey" if "valkey_version" in told else "Redis",
        version=tuple(int(part) for part in version.split(".") if part.isdigit()),
        maxmemory_policy=policy,
        append_only=None if append_only is None else append_only == "1",
        role=told.get("role"),
        round_trip_ms=await _best_round_trip(connection, clock),
    )


async def _told(connection: Connection) -> dict[str, str]:
    """INFO as redis-py parses it, as text; empty where the server refuses."""
    try:
        answer = await connection.call("INFO")
    except refused.ResponseError:
        return {}
    return {str(name): str(value) for name, value in answer.items()}


async def _setting(connection: Connection, name: str) -> str | None:
    try:
        answer = await connection.call("CONFIG", "GET", name)
    except refused.ResponseError:
        return None
    values = (
        [value.decode() for value in answer.values()]
        if isinstance(answer, dict)
        else [part.decode() for part in answer[1::2]]
    )
    return values[0] if values else None


async def _best_round_trip(connection: Connection, clock: Clock) -> float:
    times = []
    for _ in range(5):
        started = clock.mono()
        await connection.call("PING")
        times.append((clock.mono() - started) * 1000)
    return round(min(times), 2)
