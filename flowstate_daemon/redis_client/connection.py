"""Connections to Redis: a small pool for commands, one named connection for blocking pops, one for pub/sub.

Errors of Redis and the network become `StoreUnavailableError` when a later retry helps (`errors`). The client library
never repeats a command, because a repeated write would run twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, TypeAlias

from redis import exceptions as refused
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.config.settings import RedisSettings
from flowstate_daemon.redis_client.discovery import (
    Address,
    ClusterResolver,
    OneShotClient,
    PrimaryResolver,
    SentinelResolver,
)
from flowstate_daemon.redis_client.errors import NOT_REDIS_REMEDY, is_read_only_replica, translate_errors
from flowstate_daemon.redis_client.transport import WatchedConnection, connection_class

OnCommand: TypeAlias = Callable[[float], None]
Subscriber: TypeAlias = PubSub

COMMAND_TIMEOUT_S = 5.0
POOL_SIZE = 16  # opened on demand; twelve bulk requests may be saved at a time, and a code must not wait for them
BLOCK_GRACE_S = 2.0  # for the reply at the end of a blocking pop
REDIRECTIONS = 4


async def subscribe(pubsub: Subscriber, *channels: str | bytes) -> None:
    """Subscribe and wait until the server has confirmed all channels. Raises StoreUnavailableError."""
    await pubsub.subscribe(*channels)
    for _ in channels:
        if await pubsub.get_message(timeout=COMMAND_TIMEOUT_S) is None:
            raise StoreUnavailableError("Redis did not confirm a subscription in time: look at its load")


class _DiscoveringConnection(WatchedConnection):
    """Resolves the address before every connect, if there is a resolver.

    A connection to a node that no longer has the slot is unfit for the next command, and the pool replaces it. It is
    not closed before: another coroutine may have just taken it, and would lose the reply of its command.
    """

    resolver: ClassVar[Callable[[], PrimaryResolver | None]]

    async def _connect(self) -> None:
        resolver = type(self).resolver()
        if resolver is None:
            await super()._connect()
            return
        self.host, self.port = await resolver.resolve()
        try:
            await super()._connect()
        except (OSError, TimeoutError):
            resolver.invalidate()
            raise

    async def can_read(self) -> bool:
        resolver = type(self).resolver()
        if resolver is not None and not resolver.is_current(Address(self.host, self.port)):
            return True
        return await super().can_read()


def _connection_class(
    kind: type[AbstractConnection], resolver: Callable[[], PrimaryResolver | None]
) -> type[AbstractConnection]:
    """The class for the same kind of connection (TCP, TLS, Unix socket) with the resolver."""
    base = connection_class(kind)
    if not issubclass(base, WatchedConnection):
        return base
    return type(kind.__name__, (_DiscoveringConnection, base), {"resolver": staticmethod(resolver)})


async def _on_connect(name: str, connection: AbstractConnection) -> None:
    """Run the handshake and set the name of the connection, on every connect."""
    await connection.on_connect()
    await connection.send_command("CLIENT", "SETNAME", name)
    try:
        await connection.read_response()
    except refused.ResponseError:
        return  # some hosted Redis reject CLIENT; the name is optional: the lease works without it


def secondary_name(client_name: str) -> str:
    """The name of a daemon's other connections: not counted as workers, but recognized by the lease."""
    return f"flowstate:{client_name}"


class Connection:
    """All connections of one process to the Redis of the queue. Replies are bytes."""

    def __init__(
        self,
        url: str,
        *,
        client_name: str,
        block_timeout_s: float = 20.0,
        on_command: OnCommand | None = None,
        sentinels: SentinelResolver | None = None,
    ) -> None:
        """`block_timeout_s` limits a blocking pop; `on_command` gets the duration of each command in seconds.

        With `sentinels` the host of the URL is not used. The blocking connection is named `client_name`, which Bull's
        `getWorkers()` counts; the others `secondary_name(client_name)`, by which the lease recognizes a live process.
        """
        self.block_timeout_s = block_timeout_s
        self._url = url
        self._resolver: PrimaryResolver | None = sentinels
        self._on_command = on_command
        self._clock = Clock()
        other = secondary_name(client_name)
        self._commands = self._client(url, other, size=POOL_SIZE, timeout_s=COMMAND_TIMEOUT_S)
        self._blocking = self._client(url, client_name, size=1, timeout_s=block_timeout_s + BLOCK_GRACE_S)
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
        pool.connection_class = _connection_class(pool.connection_class, lambda: self._resolver)
        return Redis(connection_pool=pool)

    async def open(self) -> None:
        """Check that the server is reachable and is a Redis. Raises StoreUnavailableError."""
        if not await self.execute("PING"):
            raise StoreUnavailableError(f"Redis: PING was not answered with PONG; {NOT_REDIS_REMEDY}")

    async def close(self) -> None:
        for client in (self._subscriber, self._blocking, self._commands):
            with translate_errors():
                await client.aclose()
                await client.connection_pool.disconnect()

    async def execute(self, *command: str | bytes | float) -> Any:
        """Run one command. Raises StoreUnavailableError."""
        started = self._clock.monotonic()
        reply = await self._execute(self._commands, command)
        if self._on_command is not None:
            self._on_command(self._clock.monotonic() - started)
        return reply

    async def execute_blocking(self, *command: str | bytes | float) -> Any:
        """Run one blocking command on its own connection. Raises StoreUnavailableError."""
        return await self._execute(self._blocking, command)

    async def pin_to_slot(self, slot: int) -> None:
        """Connect to the cluster node that serves this hash slot, also after it moves. Raises StoreUnavailableError."""
        if self._resolver is None:
            options = parse_url(self._url)
            seed = Address(options.get("host", "localhost"), options.get("port", 6379))
            self._resolver = cluster = ClusterResolver(slot, [seed], OneShotClient(self._url))
            with translate_errors():
                here = await cluster.resolve()
            if here != seed:
                await self._disconnect()

    async def _execute(self, client: Redis, command: tuple[str | bytes | float, ...]) -> Any:
        for _ in range(REDIRECTIONS):
            try:
                with translate_errors():
                    return await client.execute_command(*command)  # type: ignore[no-untyped-call]
            except refused.MovedError as moved:
                self._follow(moved)  # the node has not executed the command, so it can be sent again
            except StoreUnavailableError as outage:
                await self._drop_connections(outage.__cause__)
                raise
        raise StoreUnavailableError("Redis: the cluster redirects from node to node: it is being reconfigured")

    def _follow(self, moved: refused.MovedError) -> None:
        options = parse_url(self._url)
        address = Address(moved.host or options.get("host", "localhost"), moved.port)
        if not isinstance(self._resolver, ClusterResolver):
            self._resolver = ClusterResolver(moved.slot_id, [], OneShotClient(self._url))
        self._resolver.redirect(address)

    async def _drop_connections(self, cause: BaseException | None) -> None:
        """Close connections that may be broken, or lead to a server that is no longer the primary."""
        if is_read_only_replica(cause):
            # A demoted primary keeps its connections open: only a new connection finds the new primary.
            await self._disconnect()
        elif isinstance(cause, refused.ConnectionError | refused.TimeoutError):
            # The primary may have changed, and neither a dead machine nor a forgetful network closes connections: the
            # next command must not wait on another one that is as dead as this one.
            if self._resolver is not None:
                self._resolver.invalidate()
            await self._commands.connection_pool.disconnect(inuse_connections=False)
            await self._blocking.connection_pool.disconnect()

    async def _disconnect(self) -> None:
        for each in (self._commands, self._blocking):
            await each.connection_pool.disconnect()

    def pubsub(self) -> Subscriber:
        """A subscriber on its own connection. Call its methods inside `translate_errors()`."""
        return self._subscriber.pubsub()


def from_settings(
    redis: RedisSettings, *, client_name: str, block_timeout_s: float = 20.0, on_command: OnCommand | None = None
) -> Connection:
    """The connection for these settings: to one address, or to the primary found through sentinels."""
    url = redis.url.get_secret_value()
    sentinels = None
    if redis.sentinels:
        password = redis.sentinel_password.get_secret_value() if redis.sentinel_password else None
        login = {"username": redis.sentinel_username, "password": password}
        addresses = [Address(host, port) for host, port in redis.sentinel_addresses()]
        sentinels = SentinelResolver(addresses, redis.sentinel_master, url, login)
    return Connection(
        url, client_name=client_name, block_timeout_s=block_timeout_s, on_command=on_command, sentinels=sentinels
    )
