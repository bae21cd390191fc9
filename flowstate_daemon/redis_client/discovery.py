"""Discovery of the primary that holds the queue, through Redis Sentinel or from the nodes of a Redis Cluster.

`Connection` resolves the address before every connect, and invalidates it when connecting fails. All keys of a queue
are in one hash slot, so in a cluster only the node that serves this slot is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from redis import exceptions as refused
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff

from flowstate_daemon.redis_client.transport import TRANSPORT_ERRORS, connection_class, transport_errors

QUERY_TIMEOUT_S = 2.0


class Address(NamedTuple):
    """A server's address."""

    host: str
    port: int


class PrimaryResolver(Protocol):
    """Finds the address of the primary."""

    async def resolve(self) -> Address:
        """The current address. Raises redis-py's ConnectionError when it cannot be found."""

    def invalidate(self) -> None:
        """Called when the resolved address could not be reached."""

    def is_current(self, address: Address, /) -> bool:
        """Whether an idle connection to this address may be used for the next command."""


def _options(url: str, login: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """The connection options of a URL without host, port and database; `login` replaces its login."""
    options: dict[str, Any] = {**parse_url(url), **({} if login is None else login)}
    return {name: value for name, value in options.items() if name not in ("host", "port", "db")}


class OneShotClient:
    """Runs single commands, each on its own connection, with the login and the TLS options of a URL."""

    def __init__(self, url: str) -> None:
        self._options = _options(url)
        kind: type[Connection] = self._options.pop("connection_class", Connection)
        self._connection_class: Callable[..., AbstractConnection] = connection_class(kind)

    async def execute(self, address: Address, *command: str) -> Any:
        """The reply. Raises the errors of redis-py."""
        connection = self._connection_class(
            host=address.host,
            port=address.port,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=QUERY_TIMEOUT_S,
            socket_connect_timeout=QUERY_TIMEOUT_S,
            driver_info=None,
            **self._options,
        )
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command(*command)
            return await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)


class SentinelResolver:
    """Asks Redis Sentinels for the address of the primary `master`."""

    def __init__(
        self, addresses: Sequence[Address], master: str, url: str, login: Mapping[str, str | None] | None = None
    ) -> None:
        """Options of `url` apply to the sentinels too, except host, port and database; `login` replaces the login."""
        self._names = ", ".join(f"{host}:{port}" for host, port in addresses)
        self._sentinels = list(addresses)  # the one that answered last is the first
        self._master = master
        self._address: Address | None = None
        options = _options(url, login)
        options["ssl"] = issubclass(options.pop("connection_class", Connection), SSLConnection)
        self._options = {
            **options,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": QUERY_TIMEOUT_S,
            "socket_connect_timeout": QUERY_TIMEOUT_S,
            "driver_info": None,
        }

    async def resolve(self) -> Address:
        # Connections of its own, because it closes them at the end: another call may be asking at that moment.
        sentinel = Sentinel(tuple(self._sentinels), sentinel_kwargs=self._options)  # type: ignore[no-untyped-call]
        try:
            with transport_errors("a sentinel"):
                host, port = await sentinel.discover_master(self._master)
        except (refused.RedisError, OSError) as error:
            # The text of MasterNotFoundError lists the options of each connection, its password included.
            detail = "" if isinstance(error, MasterNotFoundError) else f": {error}"
            raise refused.ConnectionError(
                f"none of the sentinels {self._names} is reachable and knows a primary called {self._master}{detail}"
            ) from None
        finally:
            for client in sentinel.sentinels:
                with suppress(refused.RedisError, *TRANSPORT_ERRORS):
                    await client.aclose()
        answered = sentinel.sentinels[0].connection_pool.connection_kwargs
        self._sentinels.sort(key=lambda address: address != (answered["host"], answered["port"]))
        self._address = Address(host, port)
        return self._address

    def invalidate(self) -> None:
        """Nothing to do: no address is cached, every connection asks again."""

    def is_current(self, address: Address, /) -> bool:
        """Whether it is the primary that was found last.

        A primary that the sentinels have replaced, although it is alive, accepts writes for some seconds more, and
        then loses them.
        """
        return address == self._address


class ClusterResolver:
    """Finds the node of a cluster that serves one hash slot."""

    def __init__(self, slot: int, seeds: Iterable[Address], client: OneShotClient) -> None:
        self._slot = slot
        self._known = list(seeds)
        self._client = client
        self._address: Address | None = None

    async def resolve(self) -> Address:
        if self._address is None:
            self._address = await self._search()
        return self._address

    def invalidate(self) -> None:
        """Search again, and ask the node that failed last."""
        if self._address is not None and self._address in self._known:
            self._known.remove(self._address)
            self._known.append(self._address)
        self._address = None

    def is_current(self, address: Address, /) -> bool:
        """Whether it is the node of the slot, as far as is known."""
        return address == (self._address or self._known[0])

    def redirect(self, address: Address) -> None:
        """Called when a node replied MOVED: ask the new node first."""
        self._known = [address, *(known for known in self._known if known != address)]
        self._address = None

    async def _search(self) -> Address:
        reasons = []
        for address in tuple(self._known):
            try:
                found = slot_owner(await self._client.execute(address, "CLUSTER", "SLOTS"), self._slot, address)
            except (refused.RedisError, OSError) as error:
                reasons.append(f"{address.host}:{address.port}: {error}")
                continue
            if found:
                self._known += [node for node in found if node not in self._known]
                return found[0]
            reasons.append(f"{address.host}:{address.port}: no node serves slot {self._slot}")
        raise refused.ConnectionError(
            f"no node of the cluster returned the address of the queue's hash slot ({'; '.join(reasons)})"
        )


def slot_owner(reply: Sequence[Any], slot: int, asked: Address) -> list[Address]:
    """From CLUSTER SLOTS, the primary of a slot, then all other nodes; empty when no node serves it. Pure."""
    first: Address | None = None
    others: list[Address] = []
    for start, end, *nodes in reply:
        addresses = [_address_of(node, asked) for node in nodes]
        others += addresses
        if start <= slot <= end and addresses:
            first = addresses[0]
    return [] if first is None else [first, *dict.fromkeys(address for address in others if address != first)]


def _address_of(node: Sequence[Any], asked: Address) -> Address:
    """The address of a node; a node that does not know its own host is the one that was asked."""
    host = (node[0] or b"").decode()
    return Address(asked.host if host in {"", "?"} else host, int(node[1]))
