"""Redis topologies: a cluster of several nodes, a primary with replica and sentinel, a server with TLS.

Cluster and sentinels are the embedded Valkey in other roles. It speaks no TLS: for that there is a proxy, or a
redis-server of the machine.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from signal import Signals
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis import exceptions as refused
from redis.asyncio import Redis
from redis.crc import key_slot

from flowstate_daemon.dev.embedded import LOOPBACK, free_port, valkey_binary
from flowstate_daemon.dev.process import ManagedProcess
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually

SLOTS = 16384


class Server:
    """One server process with its own options; `client` is connected to it directly."""

    def __init__(
        self, *options: str, binary: Path | None = None, plain: bool = True, first: Sequence[str] = ()
    ) -> None:
        """`first` are words before the options, such as the name of a configuration file."""
        self.port, self.bus_port = free_port(), free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="flowstate-redis-"))
        self._child = ManagedProcess("redis", self.folder, last_signal=Signals.SIGTERM)
        listen = ("--port", str(self.port)) if plain else ("--port", "0", "--tls-port", str(self.port))
        common = (*listen, "--bind", LOOPBACK, "--dir", ".", "--save", "", "--repl-diskless-sync-delay", "0")
        self._command = [str(binary or valkey_binary()), *first, *common, *options]
        secret = options[options.index("--requirepass") + 1] if "--requirepass" in options else None
        self.client = Redis(host=LOOPBACK, port=self.port, protocol=2, socket_timeout=5, password=secret)

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}"

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def run(self, *command: str | int) -> Any:
        return await self.client.execute_command(*command)

    async def start(self) -> None:
        await self._child.start(self._command, self._answers)

    async def kill(self) -> None:
        await self._child.kill()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.aclose()
        await self._child.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisCluster:
    """Three primaries, each with a third of the slots, and a replica of the one that serves `key`."""

    def __init__(self, nodes: list[Server], key: str) -> None:
        *self.primaries, self.replica = nodes
        self.owner = self.primaries[key_slot(key.encode()) * 3 // SLOTS]
        self.other = next(node for node in self.primaries if node is not self.owner)

    async def form(self) -> None:
        """Share the slots out and introduce all nodes to each other."""
        for number, node in enumerate(self.primaries):
            first, last = (-(-SLOTS * part // 3) for part in (number, number + 1))
            await node.run("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
        for node in (*self.primaries[1:], self.replica):
            await node.run("CLUSTER", "MEET", LOOPBACK, self.primaries[0].port, self.primaries[0].bus_port)
        for node in (*self.primaries, self.replica):
            await eventually(lambda node=node: self._knows_all(node), "all nodes know each other")  # type: ignore[misc]
        await self.replica.run("CLUSTER", "REPLICATE", (await self.owner.run("CLUSTER", "MYID")).decode())
        await eventually(self._replicates, "the replica is in step")

    async def _knows_all(self, node: Server) -> bool:
        output = await node.run("CLUSTER", "INFO")
        text = output if isinstance(output, dict) else dict(line.split(":") for line in output.decode().split())
        return text["cluster_state"] == "ok" and text["cluster_known_nodes"] == "4"

    async def _replicates(self) -> bool:
        return (await self.replica.client.info("replication")).get("master_link_status") == "up"


@asynccontextmanager
async def cluster(key: str) -> AsyncIterator[RedisCluster]:
    """A formed cluster, for the queue whose keys start with `key`."""
    async with AsyncExitStack() as opened:
        nodes = []
        for _ in range(4):
            node = Server("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--appendonly", "no")
            node._command += ["--cluster-port", str(node.bus_port)]
            nodes.append(await opened.enter_async_context(node))
        formed = RedisCluster(nodes, key)
        await formed.form()
        yield formed


class SentinelGroup:
    """A primary, its replica, and a sentinel that fails over after a second of silence."""

    def __init__(self, primary: Server, replica: Server, sentinel: Server) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinel = sentinel
        self._events = sentinel.client.pubsub()
        self._failovers = 0

    async def watch(self) -> None:
        await self._events.subscribe("+switch-master")

    async def failovers(self) -> int:
        """How often the sentinel has replaced the primary since `watch`, for whatever reason."""
        while message := await self._events.get_message(timeout=0.1):
            self._failovers += message["type"] == "message"
        return self._failovers

    async def ready_to_fail_over(self) -> bool:
        try:
            found = await self.sentinel.run("SENTINEL", "REPLICAS", "mymaster")
        except refused.ResponseError:
            return False
        status = (await self.replica.client.info("replication")).get("master_link_status")
        return len(found) == 1 and status == "up"


@asynccontextmanager
async def sentinel_group(password: str = "") -> AsyncIterator[SentinelGroup]:
    """Primary and replica require `password`, if there is one; the sentinel requires none."""
    secret = ("--requirepass", password, "--masterauth", password) if password else ()
    async with AsyncExitStack() as opened:
        primary = await opened.enter_async_context(Server(*secret))
        replica = await opened.enter_async_context(Server(*secret, "--replicaof", f"{LOOPBACK} {primary.port}"))
        sentinel = Server(first=("sentinel.conf", "--sentinel"))
        lines = [f"sentinel monitor mymaster {LOOPBACK} {primary.port} 1"]
        lines += [f"sentinel auth-pass mymaster {password}"] if password else []
        lines += ["sentinel down-after-milliseconds mymaster 1000", "sentinel failover-timeout mymaster 5000"]
        (sentinel.folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
        sentinel._command = sentinel._command[: sentinel._command.index("--save")]  # a sentinel keeps no data
        await opened.enter_async_context(sentinel)
        made = SentinelGroup(primary, replica, sentinel)
        await made.watch()
        await eventually(made.ready_to_fail_over, "the sentinel knows the replica", within_s=30)
        yield made


class LaggingPair:
    """A primary and its replica, which clients reach through one proxy; the link between the two can be held up.

    What is written while the link is held up is lost by the failover, as with any replica that lags.
    """

    def __init__(self, primary: Server, replica: Server, link: FaultProxy, address: FaultProxy) -> None:
        self.primary = primary
        self.replica = replica
        self._link = link
        self._address = address

    @property
    def url(self) -> str:
        """Where clients find the primary, before and after a failover."""
        return f"redis://{LOOPBACK}:{self._address.port}"

    def hold_up(self) -> None:
        """From now on the replica gets no more writes."""
        self._link.freeze()

    async def fail_over(self) -> None:
        """Kill the primary, and let the replica take its place with what it has."""
        await self.primary.kill()
        self._link.cut()
        await self.replica.run("REPLICAOF", "NO", "ONE")
        self._address.redirect_to(LOOPBACK, self.replica.port)
        self._address.cut()
        self._link.unfreeze()

    async def swap(self) -> None:
        """Make the old primary, empty, the replica of the new one: ready for the next failover."""
        self.primary, self.replica = self.replica, self.primary
        self._link.redirect_to(LOOPBACK, self.primary.port)
        await self.replica.start()
        await self.replica.run("REPLICAOF", LOOPBACK, self._link.port)
        await eventually(self.in_step, "the replica is in step", within_s=30)

    async def in_step(self) -> bool:
        found = await self.replica.client.info("replication")
        return found.get("master_link_status") == "up"


@asynccontextmanager
async def lagging_pair() -> AsyncIterator[LaggingPair]:
    async with AsyncExitStack() as opened:
        primary = await opened.enter_async_context(Server())
        link = await opened.enter_async_context(FaultProxy(LOOPBACK, primary.port))
        replica = await opened.enter_async_context(Server("--repl-timeout", "60"))
        address = await opened.enter_async_context(FaultProxy(LOOPBACK, primary.port))
        await replica.run("REPLICAOF", LOOPBACK, link.port)
        pair = LaggingPair(primary, replica, link, address)
        await eventually(pair.in_step, "the replica is in step", within_s=30)
        yield pair


def make_certificate(folder: Path, *, host: str = LOOPBACK) -> Path:
    """An authority, `ca.pem`, whose path is returned, and a certificate signed by it, `cert.pem` and `key.pem`."""
    now = datetime.now(tz=UTC)

    def build(name: str, key: ec.EllipticCurvePrivateKey, issuer: str, *more: x509.ExtensionType) -> Any:
        named = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, word)]) for word in (name, issuer))
        builder = x509.CertificateBuilder().subject_name(next(named)).issuer_name(next(named))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        for extension in more:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    usage = x509.KeyUsage(*([False] * 5), key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False)
    authority = build(
        "test authority", root_key, "test authority", x509.BasicConstraints(True, None), identifier, usage
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
    signed_by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    server = build("test server", key, "test authority", names, signed_by)
    files = {
        "ca.pem": authority.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        "cert.pem": server.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        "key.pem": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / "ca.pem"


@asynccontextmanager
async def tls_server(binary: Path | None, *options: str) -> AsyncIterator[Server]:
    """A server that speaks TLS only, and asks its clients for no certificate; `ca.pem` lies in its folder."""
    server = Server(*options, binary=binary, plain=False)
    make_certificate(server.folder)
    server._command += ["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-ca-cert-file", "ca.pem"]
    server._command += ["--tls-auth-clients", "no"]
    async with server:
        yield server


@dataclass(frozen=True, slots=True)
class ProxiedRedis:
    """A Redis behind a proxy that injects faults into its TCP connections; `settings` lead a daemon there."""

    proxy: FaultProxy
    settings: Mapping[str, str]

    @property
    def url(self) -> str:
        """The URL for a client, with the authority of the certificate where there is one."""
        ca_file = self.settings.get("FLOWSTATE_REDIS_CA_FILE")
        return self.settings["REDIS_URL"] + (f"/0?ssl_ca_certs={ca_file}" if ca_file else "")


@asynccontextmanager
async def proxied_redis(url: str, folder: Path, *, tls: bool) -> AsyncIterator[ProxiedRedis]:
    """The Redis at `url`, behind a proxy. With `tls` a second proxy speaks TLS, its certificate lies in `folder`."""
    port = urlsplit(url).port or 0
    async with AsyncExitStack() as stack:
        settings = {}
        if tls:
            settings["FLOWSTATE_REDIS_CA_FILE"] = str(make_certificate(folder))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
            port = (await stack.enter_async_context(FaultProxy(LOOPBACK, port, tls=context))).port
        proxy = await stack.enter_async_context(FaultProxy(LOOPBACK, port))
        settings["REDIS_URL"] = f"{'rediss' if tls else 'redis'}://{LOOPBACK}:{proxy.port}"
        yield ProxiedRedis(proxy, settings)
