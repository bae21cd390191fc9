"""What the Redis server is and how it is set up, for `check` and for the daemon's start.

Hosted servers refuse some of these questions: what cannot be known is None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from redis import exceptions as refused
from redis.crc import key_slot

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, Outage
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.keys import Keys

# BLMOVE, by which an idle daemon waits, came with 6.2.
OLDEST = (6, 2)
ROUND_TRIPS = 9
NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Memory:
    """What the server has and has lost; `limit` 0: it may take all that the machine has."""

    policy: str | None = None
    used: int | None = None
    limit: int | None = None
    evicted: int = 0

    @property
    def share(self) -> float | None:
        """How much of the limit is used; None without a limit."""
        return self.used / self.limit if self.limit and self.used is not None else None


@dataclass(frozen=True, slots=True)
class Persistence:
    """What a crash of the server would cost. `write_error`: the last write to its disk failed."""

    append_only: bool | None = None
    fsync: str | None = None
    snapshots: bool | None = None
    write_error: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """The server at the other end. `round_trip_ms` is the median of a few; `skew_s` how far its clock is ahead of ours.

    None means that it would not say.
    """

    name: str
    version: tuple[int, ...]
    role: str | None = None
    cluster: bool | None = None
    memory: Memory = Memory()
    persistence: Persistence = Persistence()
    round_trip_ms: float = 0.0
    skew_s: float | None = None

    @property
    def too_old(self) -> bool:
        """Whether it is known to be older than what we need; 0 is a server that hides its version."""
        return (0,) < self.version[:2] < OLDEST

    @property
    def title(self) -> str:
        return (
            f"{self.name} {'.'.join(map(str, self.version))}" if any(self.version) else f"{self.name} (version hidden)"
        )


async def look_at_server(connection: Connection, clock: Clock) -> Server:
    """Ask the server about itself. Raises Outage."""
    told = await _told(connection)
    version = told.get("valkey_version") or told.get("redis_version", "0")
    cluster = told.get("cluster_enabled")
    return Server(
        name="Valkey" if "valkey_version" in told else "Redis",
        version=tuple(int(part) for part in NUMBER.findall(version)),
        role=told.get("role"),
        cluster=None if cluster is None else cluster == "1",
        memory=await _memory(connection, told),
        persistence=await _persistence(connection, told),
        round_trip_ms=await _round_trip(connection, clock),
        skew_s=await _skew(connection, clock),
    )


async def settle_in_cluster(connection: Connection, keys: Keys) -> None:
    """In a cluster, stay with the node that serves the queue. Raises ConfigError when that would be several, Outage."""
    told = await _told(connection, "cluster")
    if told.get("cluster_enabled") != "1":
        return
    if not keys.hash_tagged:
        tagged = f"{{{keys.prefix}}}"
        why = f"this Redis is a cluster, and the prefix {keys.prefix} spreads the queue over its nodes"
        remedy = f"set FLOWSTATE_QUEUE_PREFIX='{tagged}', and prefix: '{tagged}' in the backend's Bull"
        raise ConfigError([f"FLOWSTATE_QUEUE_PREFIX: {why}; {remedy}"])
    await connection.settle(key_slot(keys.base.encode()))


async def _told(connection: Connection, *sections: str) -> dict[str, str]:
    """INFO as redis-py parses it, as text; empty where the server refuses."""
    answer = await _asked(connection, "INFO", *sections)
    return {} if answer is None else {str(name): str(value) for name, value in answer.items()}


async def _asked(connection: Connection, *command: str) -> Any:
    """The answer, or None where this user or this server may not be asked. Raises Outage."""
    try:
        return await connection.call(*command)
    except Outage as outage:
        if isinstance(outage.__cause__, refused.NoPermissionError):
            return None
        raise
    except refused.ResponseError:
        return None


async def _memory(connection: Connection, told: Mapping[str, str]) -> Memory:
    return Memory(
        policy=told.get("maxmemory_policy") or await _setting(connection, "maxmemory-policy"),
        used=_count(told.get("used_memory")),
        limit=_count(told.get("maxmemory")),
        evicted=_count(told.get("evicted_keys")) or 0,
    )


async def _persistence(connection: Connection, told: Mapping[str, str]) -> Persistence:
    on = told.get("aof_enabled")
    points = await _setting(connection, "save")
    return Persistence(
        append_only=None if on is None else on == "1",
        fsync=await _setting(connection, "appendfsync"),
        snapshots=None if points is None else bool(points),
        write_error="err" in {told.get("aof_last_write_status"), told.get("rdb_last_bgsave_status")},
    )


async def _setting(connection: Connection, name: str) -> str | None:
    answer = await _asked(connection, "CONFIG", "GET", name)
    if isinstance(answer, dict):
        values = [value.decode() for value in answer.values()]
    else:
        values = [part.decode() for part in answer[1::2]] if isinstance(answer, list) else []
    return values[0] if values else None


async def _round_trip(connection: Connection, clock: Clock) -> float:
    times = []
    for _ in range(ROUND_TRIPS):
        started = clock.mono()
        await connection.call("PING")
        times.append((clock.mono() - started) * 1000)
    return round(median(times), 2)


async def _skew(connection: Connection, clock: Clock) -> float | None:
    """The server's clock against ours, at the middle of the question."""
    before_ms = clock.now_ms()
    answer = await _asked(connection, "TIME")
    middle_ms = (before_ms + clock.now_ms()) / 2
    if not isinstance(answer, list | tuple):
        return None
    seconds, micros = answer
    return round(float(seconds) + float(micros) / 1e6 - middle_ms / 1000, 3)


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
