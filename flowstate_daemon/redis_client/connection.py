"""Connections to Redis: a small pool for commands, one named connection for blocking pops, one for pub/sub.

Everything that Redis or the network may throw is translated here into `Outage` when waiting helps, and left alone
when it is a bug of ours. No command is ever repeated by the client library: a repeated write runs twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, TypeAlias

import hiredis
from redis import exceptions as refused
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import AbstractConnection, UnixDomainSocketConnection, parse_url
from redis.asyncio.connection import Connection as TcpConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, StoreUnavailableError
from flowstate_daemon.config.settings import RedisSettings
from flowstate_daemon.redis_client.discovery import Address, ClusterResolver, OneShotClient, PrimaryResolver, Sentinels

OnCommand: TypeAlias = Callable[[float], None]
Subscriber: TypeAlias = PubSub

COMMAND_TIMEOUT_S = 5.0
POOL_SIZE = 16  # made as they are needed: a code's request is sealed while twelve others may be
# Waiting and trying again helps against these answers, which redis-py reports as plain ResponseErrors.
TRANSIENT_PREFIXES = (
    "NOREPLICAS", "BUSY ", "TRYAGAIN", "UNKILLABLE", "LOADING", "MISCONF", "NOAUTH", "WRONGPASS", "NOPERM",
    "DB index",  # out of range: the server has fewer databases than REDIS_URL says
    "UNBLOCKED",  # a primary that is demoted ends all blocking pops so
)  # fmt: skip
REDIRECTIONS = 4
CROSS_SLOT_MESSAGE = (
    "FLOWSTATE_QUEUE_PREFIX: this Redis is a cluster, and the prefix spreads the queue over its nodes; put braces "
    "around it, like {bull}, here and in the backend's Bull"
)
# What TLS and its absence look like from the other side.
TLS_HINTS = (
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is signed by nobody known: set FLOWSTATE_REDIS_CA_FILE"),
    ("WRONG_VERSION_NUMBER", "it speaks no TLS there: begin REDIS_URL with redis://, or name its TLS port"),
    ("RECORD_LAYER_FAILURE", "it speaks no TLS there: begin REDIS_URL with redis://, or name its TLS port"),
    (
        "Timeout connecting",
        "is the way there open, and does it speak TLS if, and only if, REDIS_URL begins with rediss://?",
    ),
    ("Connection reset by peer", "is Redis running? if it wants TLS, begin REDIS_URL with rediss://"),
    ("Connection closed by server", "is Redis running? if it wants TLS, begin REDIS_URL with rediss://"),
)
SCRIPT_ACL_ERROR = "ACL failure in script"  # how a refusal inside a script begins, without the code that names it
REMEDIES = (
    (refused.AuthenticationError, "check REDIS_URL or REDIS_PASSWORD"),
    (refused.NoPermissionError, "grant the Redis user the command named"),
    (refused.BusyLoadingError, "Redis is loading its data and will answer soon"),
    (refused.ReadOnlyError, "this is a replica or a primary in fail-over; point REDIS_URL at the primary"),
    (refused.OutOfMemoryError, "Redis is full: raise maxmemory or remove keys (maxmemory-policy must be noeviction)"),
    (refused.AskError, "the cluster moves our slot to another node"),
    (refused.TryAgainError, "the cluster moves our slot to another node"),
    (refused.TimeoutError, "Redis did not answer in time: look at its load and at the network"),
    (refused.ConnectionError, "is Redis running, and is REDIS_URL right?"),
)


def to_unavailable(error: refused.RedisError) -> StoreUnavailableError | None:
    """The outage behind an error of redis-py, or None when the error is a bug of ours."""
    if isinstance(error, refused.MovedError):
        return None  # no outage: the command goes to another node
    for sign, hint in TLS_HINTS:
        if isinstance(error, refused.ConnectionError | refused.TimeoutError) and sign.lower() in str(error).lower():
            return StoreUnavailableError(f"Redis: {str(error).rstrip('.')}; {hint}")
    for cls, remedy in (*REMEDIES, (refused.MasterDownError, "the primary is down"), (refused.ClusterDownError, "")):
        if isinstance(error, cls):
            return StoreUnavailableError(f"Redis: {str(error).rstrip('.')}; {remedy}".rstrip("; "))
    if isinstance(error, refused.ResponseError) and str(error).startswith(TRANSIENT_PREFIXES):
        return StoreUnavailableError(f"Redis: {error}")
    if isinstance(error, refused.ResponseError) and str(error).startswith(SCRIPT_ACL_ERROR):
        return StoreUnavailableError(
            f"Redis: {error}; grant the Redis user the queue's keys and channels (~prefix:* &prefix:*)"
        )
    return None


def is_read_only_replica(error: BaseException | None) -> bool:
    """Whether the server has become a replica, which until its first copy answers reads from the past."""
    return isinstance(error, refused.ReadOnlyError) or str(error).startswith("UNBLOCKED")


async def subscribe(pubsub: Subscriber, *channels: str | bytes) -> None:
    """Subscribe and wait until the server has confirmed all channels. Raises StoreUnavailableError."""
    await pubsub.subscribe(*channels)
    for _ in channels:
        if await pubsub.get_message(timeout=COMMAND_TIMEOUT_S) is None:
            raise StoreUnavailableError("Redis did not confirm a subscription in time: look at its load")


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate what redis-py raises inside the block."""
    try:
        yield
    except refused.ClusterCrossSlotError as error:
        raise ConfigError([CROSS_SLOT_MESSAGE]) from error
    except refused.RedisError as error:
        outage = to_unavailable(error)
        if outage is None:
            raise
        raise outage from error
    except OSError as error:
        raise StoreUnavailableError(f"Redis: {error}; is Redis running, and is REDIS_URL right?") from error


class _FastPackingConnection(AbstractConnection):
    """Packs commands in C: redis-py's own asyncio packer takes half a millisecond for a batch of 100 jobs."""

    def pack_command(self, *args: Any) -> list[bytes]:
        if isinstance(args[0], str) and " " in args[0]:  # redis-py writes some of its own commands in one word
            args = (*args[0].split(), *args[1:])
        return [hiredis.pack_command(args)]


class _DiscoveringConnection(_FastPackingConnection, TcpConnection):
    """Asks where to connect, if there is somebody to ask."""

    resolver: ClassVar[Callable[[], PrimaryResolver | None]]

    async def _connect(self) -> None:
        resolver = type(self).resolver()
        if resolver is None:
            await super()._connect()  # type: ignore[no-untyped-call]
            return
        self.host, self.port = await resolver.resolve()
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError):
            resolver.invalidate()
            raise


def _packing(
    kind: type[AbstractConnection], resolver: Callable[[], PrimaryResolver | None]
) -> type[AbstractConnection]:
    """The same kind of connection (TCP, TLS, Unix socket) with the faster packer, and who to ask for its place."""
    if issubclass(kind, UnixDomainSocketConnection):
        return type(kind.__name__, (_FastPackingConnection, kind), {})
    return type(kind.__name__, (_DiscoveringConnection, kind), {"resolver": staticmethod(resolver)})


async def _on_connect(name: str, connection: AbstractConnection) -> None:
    """Greet the server on every connect, and give it the connection's name."""
    await connection.on_connect()
    await connection.send_command("CLIENT", "SETNAME", name)
    try:
        await connection.read_response()
    except refused.ResponseError:
        return  # some hosted Redis refuse CLIENT: the name is a courtesy to tools, and the lease knows another way


def secondary_name(client_name: str) -> str:
    """The name of a worker's further connections: not counted as workers, and yet known as the same process."""
    return f"flowstate:{client_name}"


class Connection:
    """All connections of one daemon to the Redis that holds the queue. Replies are bytes."""

    def __init__(
        self,
        url: str,
        *,
        client_name: str,
        block_s: float = 20.0,
        on_round_trip: OnCommand | None = None,
        sentinels: Sentinels | None = None,
    ) -> None:
        """`block_s` is the longest blocking pop; `on_round_trip` hears how many seconds each command took.

        With `sentinels` the URL's host counts for nothing: they tell where the primary is.

        The blocking connection bears `client_name`, which is what Bull's `getWorkers()` counts; the others
        `beside(client_name)`, by which the lease sees that this process lives.
        """
        self.block_s = block_s
        self._url = url
        self._resolver: PrimaryResolver | None = sentinels
        self._on_round_trip = on_round_trip
        self._clock = Clock()
        other = secondary_name(client_name)
        self._commands = self._client(url, other, size=POOL_SIZE, timeout_s=COMMAND_TIMEOUT_S)
        self._blocking = self._client(url, client_name, size=1, timeout_s=block_s + 4.0)
        self._subscriber = self._client(url, other, size=1, timeout_s=None)

    def _client(self, url: str, name: str, *, size: int, timeout_s: float | None) -> Redis:
        pool = BlockingConnectionPool.from_url(
            url,
            protocol=2,  # RESP3 in redis-py 8.1 does not replace connections that the server closed while idle
            retry=Retry(NoBackoff(), 0),
            max_connections=size,
            timeout=COMMAND_TIMEOUT_S,
            socket_timeout=timeout_s,
            socket_connect_timeout=COMMAND_TIMEOUT_S,
            redis_connect_func=partial(_on_connect, name),
            driver_info=None,
        )
        pool.connection_class = _packing(pool.connection_class, lambda: self._resolver)
        return Redis(connection_pool=pool)

    async def open(self) -> None:
        """Reach the server once. Raises Outage."""
        await self.execute("PING")

    async def close(self) -> None:
        for client in (self._subscriber, self._blocking, self._commands):
            with translate_errors():
                await client.aclose()
                await client.connection_pool.disconnect()

    async def execute(self, *command: str | bytes | float) -> Any:
        """Run one command. Raises Outage when Redis is away."""
        started = self._clock.monotonic()
        answer = await self._ask(self._commands, command)
        if self._on_round_trip is not None:
            self._on_round_trip(self._clock.monotonic() - started)
        return answer

    async def execute_blocking(self, *command: str | bytes | float) -> Any:
        """Run one blocking command on the connection kept for that. Raises Outage."""
        return await self._ask(self._blocking, command)

    async def pin_to_slot(self, slot: int) -> None:
        """Stay with the node that serves this slot of the cluster, wherever it goes. Raises Outage."""
        if self._resolver is None:
            given = parse_url(self._url)
            seed = Address(given.get("host", "localhost"), given.get("port", 6379))
            self._resolver = cluster = ClusterResolver(slot, [seed], OneShotClient(self._url))
            with translate_errors():
                here = await cluster.resolve()
            if here != seed:
                await self._leave()

    async def _ask(self, client: Redis, command: tuple[str | bytes | float, ...]) -> Any:
        for _ in range(REDIRECTIONS):
            try:
                with translate_errors():
                    return await client.execute_command(*command)  # type: ignore[no-untyped-call]
            except refused.MovedError as moved:
                await self._follow(moved)  # whoever says so has executed nothing
            except StoreUnavailableError as outage:
                await self._look_elsewhere(outage.__cause__)
                raise
        raise StoreUnavailableError("Redis: the cluster sends us from node to node: it is being rebuilt")

    async def _follow(self, moved: refused.MovedError) -> None:
        given = parse_url(self._url)
        place = Address(moved.host or given.get("host", "localhost"), moved.port)
        if not isinstance(self._resolver, ClusterResolver):
            self._resolver = ClusterResolver(moved.slot_id, [], OneShotClient(self._url))
        self._resolver.redirect(place)
        await self._leave()

    async def _look_elsewhere(self, cause: BaseException | None) -> None:
        """Leave connections on which nothing good will come any more."""
        if is_read_only_replica(cause):
            # A demoted primary keeps its connections: only new ones find the new primary behind the same name.
            await self._leave()
        elif self._resolver is not None and isinstance(cause, refused.ConnectionError | refused.TimeoutError):
            # The primary may be another one by now, and a machine that has died closes nothing.
            self._resolver.invalidate()
            await self._commands.connection_pool.disconnect(inuse_connections=False)
            await self._blocking.connection_pool.disconnect()

    async def _leave(self) -> None:
        for each in (self._commands, self._blocking):
            await each.connection_pool.disconnect()

    def pubsub(self) -> Subscriber:
        """A subscriber on a connection of its own; wrap its calls in `outages()`."""
        return self._subscriber.pubsub()


def from_settings(
    redis: RedisSettings, *, client_name: str, block_s: float = 20.0, on_round_trip: OnCommand | None = None
) -> Connection:
    """The connection that the settings ask for: to one address, or to the primary that sentinels know."""
    url = redis.url.get_secret_value()
    sentinels = None
    if redis.sentinels:
        password = redis.sentinel_password.get_secret_value() if redis.sentinel_password else None
        login = {"username": redis.sentinel_username, "password": password}
        places = [Address(host, port) for host, port in redis.sentinel_addresses()]
        sentinels = Sentinels(places, redis.sentinel_master, OneShotClient(url, login))
    return Connection(url, client_name=client_name, block_s=block_s, on_round_trip=on_round_trip, sentinels=sentinels)
