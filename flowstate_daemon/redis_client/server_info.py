"""Properties of the Redis server and its clients, for `check` and the start of the daemon.

Hosted servers reject some of the commands; an unknown value is None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from redis import exceptions as refused
from redis.crc import key_slot

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, StoreUnavailableError
from flowstate_daemon.base.risks import Risk
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.errors import is_unsupported
from flowstate_daemon.redis_client.keys import Keys

# The end of the name of a daemon's connection: its instance id, which is the group, and the id of its boot.
DAEMON_NAME_PATTERN = re.compile(r":([A-Za-z0-9._-]{1,64})/[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """One connection in CLIENT LIST; `name` is empty when it has none."""

    name: str
    address: str
    age_s: int
    idle_s: int


async def list_clients(connection: Connection) -> list[ClientInfo] | None:
    """All connections of the server, or None when it does not list them. Raises StoreUnavailableError."""
    reply = await call_or_none(connection, "CLIENT", "LIST")
    if reply is None:
        return None
    return [parse_client(line) for line in reply.decode(errors="replace").splitlines() if line]


def parse_client(line: str) -> ClientInfo:
    """One line of CLIENT LIST; missing or invalid fields become empty or 0."""
    fields = dict(part.partition("=")[::2] for part in line.split(" "))
    age_s, idle_s = _count(fields.get("age")) or 0, _count(fields.get("idle")) or 0
    return ClientInfo(fields.get("name", ""), fields.get("addr", ""), age_s, idle_s)


def has_name_prefix(client_name: str, prefix: str) -> bool:
    """Whether a connection's name is `prefix` or starts with `prefix:`.

    Bull compares the prefix only, and so counts the workers of queue `abcd` for `abc`.
    """
    return client_name == prefix or client_name.startswith(f"{prefix}:")


def foreign_workers(clients: Iterable[ClientInfo], worker_name: str) -> tuple[ClientInfo, ...]:
    """The workers of the queue that are not daemons: the name of a daemon ends with instance id and boot id."""
    return tuple(
        client
        for client in clients
        if has_name_prefix(client.name, worker_name)
        and not DAEMON_NAME_PATTERN.fullmatch(client.name.removeprefix(worker_name))
    )


MIN_VERSION = (6, 2)  # for BLMOVE
ROUND_TRIPS = 9
MAX_TIME_ROUND_TRIP_S = 2.0
NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class MemoryInfo:
    """Memory use and evictions of the server; `limit` 0 means no limit."""

    policy: str | None = None
    used: int | None = None
    limit: int | None = None
    evicted: int = 0

    @property
    def used_share(self) -> float | None:
        """How much of the limit is used; None without a limit."""
        return self.used / self.limit if self.limit and self.used is not None else None


@dataclass(frozen=True, slots=True)
class PersistenceInfo:
    """Persistence of the server. `write_error`: its last write to disk failed."""

    append_only: bool | None = None
    fsync: str | None = None
    snapshots: bool | None = None
    write_error: bool = False


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The Redis server. `round_trip_ms` is the median of several PINGs; `skew_s` how far its clock is ahead of ours.

    None means unknown.
    """

    name: str
    version: tuple[int, ...]
    role: str | None = None
    cluster: bool | None = None
    memory: MemoryInfo = MemoryInfo()
    persistence: PersistenceInfo = PersistenceInfo()
    round_trip_ms: float = 0.0
    skew_s: float | None = None

    @property
    def too_old(self) -> bool:
        """Whether it is older than MIN_VERSION; version 0 means that the server hides it."""
        return (0,) < self.version[:2] < MIN_VERSION

    @property
    def title(self) -> str:
        return (
            f"{self.name} {'.'.join(map(str, self.version))}" if any(self.version) else f"{self.name} (version hidden)"
        )


async def inspect_server(connection: Connection, clock: Clock) -> ServerInfo:
    """Read the properties of the server. Raises StoreUnavailableError."""
    info = await _info(connection)
    version = info.get("valkey_version") or info.get("redis_version", "0")
    cluster = info.get("cluster_enabled")
    return ServerInfo(
        name="Valkey" if "valkey_version" in info else "Redis",
        version=tuple(int(part) for part in NUMBER.findall(version)),
        role=info.get("role"),
        cluster=None if cluster is None else cluster == "1",
        memory=await _memory(connection, info),
        persistence=await _persistence(connection, info),
        round_trip_ms=await _round_trip(connection, clock),
        skew_s=await _skew(connection, clock),
    )


def memory_risk(memory: MemoryInfo) -> Risk | None:
    """Jobs must not be evicted. Pure."""
    if memory.policy in {None, "noeviction"}:
        return None
    if memory.evicted:
        finding = f"maxmemory-policy is {memory.policy}, and {memory.evicted} keys were evicted, possibly jobs"
        return Risk("redis memory", finding, "set maxmemory-policy noeviction, and raise maxmemory")
    finding = f"maxmemory-policy is {memory.policy}: jobs may be evicted"
    return Risk("redis memory", finding, "set maxmemory-policy noeviction")


def persistence_risk(persistence: PersistenceInfo) -> Risk | None:
    """How much a crash of Redis would lose. Pure."""
    if persistence.append_only is False:
        finding = {
            True: "appendonly is off: a crash loses all since the last snapshot",
            False: "appendonly is off, and there are no snapshots: a restart loses every job",
            None: "appendonly is off: a crash loses the newest jobs",
        }[persistence.snapshots]
        return Risk("redis persistence", finding, "set appendonly yes, appendfsync everysec")
    if persistence.append_only and persistence.fsync == "no":
        finding = "appendfsync is no: a crash of the machine loses up to half a minute"
        return Risk("redis persistence", finding, "set appendfsync everysec")
    return None


async def find_durability_risks(connection: Connection) -> list[Risk]:
    """What may make the server lose jobs, as far as it is known. Raises StoreUnavailableError."""
    info = await _info(connection)
    risks = (memory_risk(await _memory(connection, info)), persistence_risk(await _persistence(connection, info)))
    return [risk for risk in risks if risk is not None]


async def pin_cluster_slot(connection: Connection, keys: Keys) -> None:
    """In a cluster, connect to the node of the queue. Raises ConfigError when the keys are on several nodes."""
    info = await _info(connection, "cluster")
    if info.get("cluster_enabled") != "1":
        return
    if not keys.hash_tagged:
        tagged = f"{{{keys.prefix}}}"
        reason = (
            f"this Redis is a cluster, and with the prefix {keys.prefix} the keys of the queue are on several nodes"
        )
        remedy = f"set FLOWSTATE_QUEUE_PREFIX='{tagged}', and prefix: '{tagged}' in the backend's Bull"
        raise ConfigError([f"FLOWSTATE_QUEUE_PREFIX: {reason}; {remedy}"])
    await connection.pin_to_slot(key_slot(keys.base.encode()))


async def _info(connection: Connection, *sections: str) -> dict[str, str]:
    """INFO as parsed by redis-py, with text values; empty when the server rejects it."""
    reply = await call_or_none(connection, "INFO", *sections)
    return {} if reply is None else {str(name): str(value) for name, value in reply.items()}


async def call_or_none(connection: Connection, *command: str) -> Any:
    """The reply, or None when the user or the server does not allow the command. Raises StoreUnavailableError."""
    try:
        return await connection.execute(*command)
    except StoreUnavailableError as outage:
        if is_unsupported(outage.__cause__):
            return None
        raise
    except refused.ResponseError:
        return None


async def _memory(connection: Connection, info: Mapping[str, str]) -> MemoryInfo:
    return MemoryInfo(
        policy=info.get("maxmemory_policy") or await _setting(connection, "maxmemory-policy"),
        used=_count(info.get("used_memory")),
        limit=_count(info.get("maxmemory")),
        evicted=_count(info.get("evicted_keys")) or 0,
    )


async def _persistence(connection: Connection, info: Mapping[str, str]) -> PersistenceInfo:
    on = info.get("aof_enabled")
    points = await _setting(connection, "save")
    return PersistenceInfo(
        append_only=None if on is None else on == "1",
        fsync=await _setting(connection, "appendfsync"),
        snapshots=None if points is None else bool(points),
        write_error="err" in {info.get("aof_last_write_status"), info.get("rdb_last_bgsave_status")},
    )


async def _setting(connection: Connection, name: str) -> str | None:
    reply = await call_or_none(connection, "CONFIG", "GET", name)
    if isinstance(reply, dict):
        values = [value.decode() for value in reply.values()]
    else:
        values = [part.decode() for part in reply[1::2]] if isinstance(reply, list) else []
    return values[0] if values else None


async def _round_trip(connection: Connection, clock: Clock) -> float:
    times = []
    for _ in range(ROUND_TRIPS):
        started = clock.monotonic()
        await connection.execute("PING")
        times.append((clock.monotonic() - started) * 1000)
    return round(median(times), 2)


async def read_time(connection: Connection, clock: Clock) -> float | None:
    """The server's wall time minus our monotonic time, ms; None when it is unknown. Raises StoreUnavailableError.

    It is measured at the middle of the round trip; an answer that took long says little.
    """
    before_s = clock.monotonic()
    reply = await call_or_none(connection, "TIME")
    after_s = clock.monotonic()
    if not isinstance(reply, list | tuple) or after_s - before_s > MAX_TIME_ROUND_TRIP_S:
        return None
    seconds, micros = reply
    return float(seconds) * 1000 + float(micros) / 1000 - (before_s + after_s) / 2 * 1000


async def _skew(connection: Connection, clock: Clock) -> float | None:
    """How far the server's clock is ahead of ours, in seconds."""
    offset_ms = await read_time(connection, clock)
    return None if offset_ms is None else round((offset_ms - clock.now_ms()) / 1000 + clock.monotonic(), 3)


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
