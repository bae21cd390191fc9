"""Where the primary is that holds our queue: asked of sentinels, or of the nodes of a cluster, at every new connection.

`Connection` asks before it connects, and says when nobody was there. All keys of a queue lie in one slot, so that a
cluster is one node for us: the one that serves the slot now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from redis import exceptions as refused
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

QUERY_TIMEOUT_S = 2.0


class Address(NamedTuple):
    """A server's address."""

    host: str
    port: int


class PrimaryResolver(Protocol):
    """Somebody who knows where the primary is."""

    async def resolve(self) -> Address:
        """Where it is now. Raises redis-py's ConnectionError when nobody knows."""

    def invalidate(self) -> None:
        """Hear that nobody answered there."""


class OneShotClient:
    """Asks one server one question, on a connection for that alone, with the login and the TLS of a URL."""

    def __init__(self, url: str, login: Mapping[str, str | None] | None = None) -> None:
        """`login` replaces the URL's."""
        given: dict[str, Any] = {**parse_url(url), **({} if login is None else login)}
        for name in ("host", "port", "db"):
            given.pop(name, None)
        self._kind: type[Connection] = given.pop("connection_class", Connection)
        self._given = given

    async def execute(self, place: Address, *question: str) -> Any:
        """The answer. Raises what redis-py raises."""
        connection = self._kind(
            host=place.host,
            port=place.port,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=QUERY_TIMEOUT_S,
            socket_connect_timeout=QUERY_TIMEOUT_S,
            driver_info=None,
            **self._given,
        )
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command(*question)
            return await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)


class Sentinels:
    """A group of sentinels that watch over the primary `master`."""

    def __init__(self, places: Sequence[Address], master: str, asker: OneShotClient) -> None:
        self._places = list(places)
        self._master = master
        self._asker = asker

    async def resolve(self) -> Address:
        reasons = []
        for place in tuple(self._places):
            try:
                answer = await self._asker.execute(place, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master)
            except (refused.RedisError, OSError) as error:
                reasons.append(f"{place.host}:{place.port}: {error}")
                continue
            if answer is not None:
                self._prefer(place)
                return Address(answer[0].decode(), int(answer[1]))
            reasons.append(f"{place.host}:{place.port} knows no primary called {self._master}")
        raise refused.ConnectionError(f"no sentinel tells where the primary is ({'; '.join(reasons)})")

    def invalidate(self) -> None:
        """Each connection asks anew: nothing is remembered that could be wrong."""

    def _prefer(self, place: Address) -> None:
        self._places.remove(place)
        self._places.insert(0, place)


class ClusterResolver:
    """The nodes of a cluster, of which one serves our slot."""

    def __init__(self, slot: int, seeds: Iterable[Address], asker: OneShotClient) -> None:
        self._slot = slot
        self._known = list(seeds)
        self._asker = asker
        self._place: Address | None = None

    async def resolve(self) -> Address:
        if self._place is None:
            self._place = await self._search()
        return self._place

    def invalidate(self) -> None:
        """Ask all nodes again, that one last."""
        if self._place is not None and self._place in self._known:
            self._known.remove(self._place)
            self._known.append(self._place)
        self._place = None

    def redirect(self, place: Address) -> None:
        """A node says that the slot is there now: ask that one first."""
        self._known = [place, *(known for known in self._known if known != place)]
        self._place = None

    async def _search(self) -> Address:
        reasons = []
        for place in tuple(self._known):
            try:
                found = slot_owner(await self._asker.execute(place, "CLUSTER", "SLOTS"), self._slot, place)
            except (refused.RedisError, OSError) as error:
                reasons.append(f"{place.host}:{place.port}: {error}")
                continue
            if found:
                self._known += [node for node in found if node not in self._known]
                return found[0]
            reasons.append(f"{place.host}:{place.port}: nobody serves slot {self._slot}")
        raise refused.ConnectionError(f"no node of the cluster tells where our slot is ({'; '.join(reasons)})")


def slot_owner(answer: Sequence[Any], slot: int, asked: Address) -> list[Address]:
    """Of CLUSTER SLOTS the primary that serves a slot, then all other nodes; empty when nobody does. Pure."""
    first: Address | None = None
    others: list[Address] = []
    for start, end, *nodes in answer:
        places = [_place(node, asked) for node in nodes]
        others += places
        if start <= slot <= end and places:
            first = places[0]
    return [] if first is None else [first, *dict.fromkeys(place for place in others if place != first)]


def _place(node: Sequence[Any], asked: Address) -> Address:
    """A node without an address of its own is the one that was asked."""
    host = (node[0] or b"").decode()
    return Address(asked.host if host in {"", "?"} else host, int(node[1]))
