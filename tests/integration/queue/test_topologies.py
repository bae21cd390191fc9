"""Redis as hosts offer it: found through sentinels, in a cluster, behind TLS; each with real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError, StoreUnavailableError
from flowstate_daemon.config.loader import load
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import JobWaiter, QueueEvents
from flowstate_daemon.queue.job import JobSucceeded, NewJob
from flowstate_daemon.redis_client.connection import Connection, from_settings
from flowstate_daemon.redis_client.discovery import Address, SentinelResolver
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.server_info import pin_cluster_slot
from tests.support.proxy import FaultProxy
from tests.support.redis_flavours import system_server, tls_proxy
from tests.support.redis_topologies import (
    RedisCluster,
    SentinelGroup,
    Server,
    cluster,
    sentinel_group,
    tls_server,
)
from tests.support.waiting import eventually

TAGGED = Keys("{bull}", "email")


@pytest.fixture(scope="module")
async def formed() -> AsyncIterator[RedisCluster]:
    async with cluster(TAGGED.base) as formed:
        yield formed


def connect(**environment: str) -> Connection:
    return from_settings(load(environment).redis, client_name="test", block_timeout_s=1.0)


async def answers(connection: Connection) -> bool:
    try:
        await connection.execute("SET", TAGGED("probe"), "1", "PX", 100)
    except StoreUnavailableError:
        return False
    return True


async def one_mails_life(connection: Connection, keys: Keys) -> None:
    """Add, wait for, take and finish one job, hearing its end."""
    bull = BullQueue(connection, keys, Clock(), token="test/1")
    async with JobWaiter(connection, keys) as watch:
        added = await bull.add(NewJob("welcome", {"to": "ada"}))
        assert await bull.wait_for_jobs()
        [job] = await bull.claim(5)
        assert job.id == added.id
        await bull.complete([JobSucceeded(job, b'"done"')])
        assert (await watch.wait(job.id, 5)).value == "done"


@pytest.mark.parametrize("first", ["owner", "other"])
async def test_a_queue_lives_in_a_cluster_whichever_node_is_named(formed: RedisCluster, first: str) -> None:
    """Scripts, blocking pops and events all go to the node that serves the slot."""
    node: Server = getattr(formed, first)
    connection = connect(REDIS_URL=node.url)
    await one_mails_life(connection, TAGGED)
    await connection.close()


async def test_a_cluster_without_a_hash_tag_is_refused_with_its_remedy(formed: RedisCluster) -> None:
    """At the start, before anything was written."""
    connection = connect(REDIS_URL=formed.other.url)
    with pytest.raises(ConfigError, match=r"set FLOWSTATE_QUEUE_PREFIX='\{bull\}'"):
        await pin_cluster_slot(connection, Keys("bull", "email"))
    await connection.close()


async def test_a_cli_command_without_hash_tag_is_rejected_too(formed: RedisCluster) -> None:
    """The error names the setting, because the server's message about slots does not help."""
    connection = connect(REDIS_URL=formed.other.url)
    with pytest.raises(ConfigError, match=r"like \{bull\}"):
        await BullQueue(connection, Keys("bull", "email"), Clock(), token="x").add(NewJob("welcome", {}))
    await connection.close()


async def test_the_new_node_is_used_after_a_cluster_failover() -> None:
    """When the owner of the slot dies, there is an outage until the failover; then commands, pops and events work."""
    async with cluster(TAGGED.base) as formed:
        connection = connect(REDIS_URL=formed.owner.url)
        await pin_cluster_slot(connection, TAGGED)
        signals = QueueEvents(connection, TAGGED)
        assert (await signals.next(1)) is not None
        assert await answers(connection)
        await formed.owner.kill()
        assert not await answers(connection)
        await eventually(lambda: answers(connection), "the replica serves the slot", within_s=30)
        with pytest.raises(StoreUnavailableError):
            await signals.next(1)
        await one_mails_life(connection, TAGGED)
        await signals.close()
        await connection.close()


async def take_over(node: Server, formed: RedisCluster) -> None:
    """A planned failover to this replica, until all nodes know of it: meanwhile they redirect to each other."""
    name = (await node.run("CLUSTER", "MYID")).decode()

    async def is_primary_everywhere() -> bool:
        for each in (*formed.primaries, formed.replica):
            lines = (await each.run("CLUSTER", "NODES")).decode().splitlines()
            if not any(line.startswith(name) and "master" in line.split()[2] for line in lines):
                return False
        return True

    await node.run("CLUSTER", "FAILOVER")
    await eventually(is_primary_everywhere, "the replica is the primary", within_s=30)


async def test_a_moved_slot_is_followed_without_an_error(formed: RedisCluster) -> None:
    """After a planned failover: a node that replies MOVED has executed nothing, so another node gets the command."""
    connection = connect(REDIS_URL=formed.owner.url)
    await pin_cluster_slot(connection, TAGGED)
    await take_over(formed.replica, formed)
    key = TAGGED(f"flowstate:{uuid4().hex}")
    counted = [await connection.execute("INCR", key) for _ in range(20)]
    assert counted == list(range(1, 21))
    await connection.close()
    await take_over(formed.owner, formed)


async def test_concurrent_commands_follow_a_moved_slot(formed: RedisCluster) -> None:
    """Each of them is redirected: none of them cuts the connection of another one, whose command would be lost."""
    connection = connect(REDIS_URL=formed.other.url)
    key = TAGGED(f"flowstate:{uuid4().hex}")
    counted = await asyncio.gather(*(connection.execute("INCR", key) for _ in range(200)))
    assert sorted(counted) == list(range(1, 201))
    await connection.close()


@pytest.fixture
async def group() -> AsyncIterator[SentinelGroup]:
    async with sentinel_group() as group:
        yield group


async def test_sentinels_find_the_primary_before_and_after_failover(group: SentinelGroup) -> None:
    """The first sentinel is unreachable, which is tolerated; after the primary dies, the new one is found."""
    sentinels = f"127.0.0.1:1,127.0.0.1:{group.sentinel.port}"
    connection = connect(FLOWSTATE_REDIS_SENTINELS=sentinels)
    await one_mails_life(connection, TAGGED)
    waiting = asyncio.create_task(connection.execute_blocking("BLMOVE", "a", "b", "RIGHT", "LEFT", 30))
    await group.primary.kill()
    with pytest.raises(StoreUnavailableError):
        await waiting
    await eventually(lambda: answers(connection), "the replica is primary", within_s=40)
    assert (await group.replica.client.info("replication"))["role"] == "master"
    await one_mails_life(connection, TAGGED)
    await connection.close()


async def test_replaced_primary_that_is_alive_gets_no_more_commands(group: SentinelGroup) -> None:
    """It accepts writes until the sentinels demote it, and then loses them: one new connection is enough to know."""
    connection = connect(FLOWSTATE_REDIS_SENTINELS=f"127.0.0.1:{group.sentinel.port}")

    async def ports() -> set[str]:
        replies = await asyncio.gather(*(connection.execute("CONFIG", "GET", "port") for _ in range(4)))
        return {reply[1].decode() for reply in replies}

    assert await ports() == {str(group.primary.port)}
    await group.replica.run("REPLICAOF", "NO", "ONE")
    await group.sentinel.run("SENTINEL", "REMOVE", "mymaster")
    await group.sentinel.run("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", group.replica.port, 1)
    await connection.execute_blocking("PING")  # on a connection of its own
    assert await ports() == {str(group.replica.port)}
    await connection.close()


async def test_connections_ask_the_sentinel_at_the_same_time(group: SentinelGroup) -> None:
    """One that has its answer does not cut the question of another one, whose command would fail."""
    connection = connect(FLOWSTATE_REDIS_SENTINELS=f"127.0.0.1:{group.sentinel.port}")
    for _ in range(10):
        assert await asyncio.gather(*(connection.execute("PING") for _ in range(12)))
        await connection._disconnect()

    async def ours() -> list[str]:
        return [
            client["addr"] for client in await group.sentinel.client.client_list() if client["cmd"] != "client|list"
        ]

    open_before = await ours()
    await connection.execute("PING")
    await eventually(ours, "no connection to the sentinel stays open", equals=open_before)
    await connection.close()


async def test_question_to_a_sentinel_is_not_cut_by_the_end_of_another_one(group: SentinelGroup) -> None:
    """It may begin at the moment when the other one closes its connection."""
    async with FaultProxy("127.0.0.1", group.sentinel.port) as proxy:
        resolver = SentinelResolver([Address("127.0.0.1", proxy.port)], "mymaster", "redis://127.0.0.1")

        async def ask_often(step: int) -> None:
            for turn in range(40):
                proxy.latency_s = 0.0003 * ((turn + step) % 4)  # they begin and end at different times
                assert await resolver.resolve() == ("127.0.0.1", group.primary.port)

        async with asyncio.TaskGroup() as asking:
            for step in range(8):
                asking.create_task(ask_often(step))
        await eventually(lambda: not proxy.open_connections, "no connection to the sentinel stays open")


async def test_sentinel_that_answered_last_is_asked_first(group: SentinelGroup) -> None:
    """A new connection does not try again one that does not work."""
    async with FaultProxy("127.0.0.1", group.sentinel.port) as broken:
        broken.reset_new_connections = True
        ports = (broken.port, group.sentinel.port)
        resolver = SentinelResolver([Address("127.0.0.1", port) for port in ports], "mymaster", "redis://127.0.0.1")
        assert await resolver.resolve() == ("127.0.0.1", group.primary.port)
        asked_first = broken.accepted
        assert await resolver.resolve() == ("127.0.0.1", group.primary.port)
        assert broken.accepted == asked_first > 0


async def test_sentinels_without_a_primary_are_named_in_the_error(group: SentinelGroup) -> None:
    """One sentinel is unreachable, the other does not know the primary."""
    port = group.sentinel.port
    connection = connect(
        FLOWSTATE_REDIS_SENTINELS=f"127.0.0.1:1,127.0.0.1:{port}", FLOWSTATE_REDIS_SENTINEL_MASTER="unknown"
    )
    with pytest.raises(
        StoreUnavailableError, match=f"127.0.0.1:1, 127.0.0.1:{port} is reachable and knows a primary called unknown"
    ):
        await connection.open()
    await connection.close()


async def test_password_for_the_primary_and_none_for_the_sentinel() -> None:
    """The login of the URL goes to the primary only."""
    async with sentinel_group("geheim") as group:
        connection = connect(REDIS_PASSWORD="geheim", FLOWSTATE_REDIS_SENTINELS=f"127.0.0.1:{group.sentinel.port}")
        await connection.open()
        await connection.close()


@dataclass(frozen=True, slots=True)
class TlsServer:
    """A server with a password that speaks TLS at `port`; `authority` is the file of its private authority."""

    port: int
    authority: Path

    @property
    def url(self) -> str:
        return f"rediss://:geheim@127.0.0.1:{self.port}"


@pytest.fixture(params=["proxy", *(["server"] if system_server() is not None else [])])
async def tls(request: pytest.FixtureRequest) -> AsyncIterator[TlsServer]:
    """TLS ends in a proxy, as with many hosts; where the machine has a redis-server, also in the server itself."""
    async with AsyncExitStack() as stack:
        if request.param == "server":
            server = await stack.enter_async_context(tls_server(system_server(), "--requirepass", "geheim"))
            yield TlsServer(server.port, server.folder / "ca.pem")
        else:
            server = await stack.enter_async_context(Server("--requirepass", "geheim"))
            proxy = await stack.enter_async_context(tls_proxy(server.port, server.folder))
            yield TlsServer(proxy.port, server.folder / "ca.pem")


async def test_tls_with_a_private_authority(tls: TlsServer) -> None:
    """By the setting, by the URL's parameter, and with host and port apart."""
    authority = str(tls.authority)
    apart = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(tls.port), "REDIS_PASSWORD": "geheim", "REDIS_TLS": "true"}
    for environment in (
        {"REDIS_URL": tls.url, "FLOWSTATE_REDIS_CA_FILE": authority},
        {"REDIS_URL": f"{tls.url}?ssl_ca_certs={authority}"},
        {**apart, "FLOWSTATE_REDIS_CA_FILE": authority},
    ):
        connection = connect(**environment)
        await one_mails_life(connection, TAGGED)
        await connection.close()


@pytest.mark.parametrize(
    ("change", "remedy"),
    [(("", ""), "FLOWSTATE_REDIS_CA_FILE"), (("rediss:", "redis:"), "begin REDIS_URL with rediss://")],
)
async def test_tls_errors_name_the_remedy(tls: TlsServer, change: tuple[str, str], remedy: str) -> None:
    """An unknown authority, and no TLS towards a server that wants it."""
    connection = connect(REDIS_URL=tls.url.replace(*change))
    with pytest.raises(StoreUnavailableError, match=remedy):
        await connection.open()
    await connection.close()


async def test_tls_to_a_server_without_tls_names_the_remedy() -> None:
    """The error of the TLS library alone does not help an operator."""
    async with Server() as server:
        connection = connect(REDIS_URL=server.url.replace("redis:", "rediss:"))
        with pytest.raises(StoreUnavailableError, match="does it speak TLS"):
            await connection.open()
        await connection.close()


def test_a_missing_authority_is_a_configuration_error() -> None:
    """Otherwise the error would occur at the first connection only."""
    with pytest.raises(ConfigError, match="FLOWSTATE_REDIS_CA_FILE"):
        load({"FLOWSTATE_REDIS_CA_FILE": "/nowhere/ca.pem"})


@pytest.mark.parametrize("text", ["a b:1", "redis://h:26379", "h:99999", "user@h:1", "h:0"])
def test_sentinels_are_hosts_and_ports(text: str) -> None:
    """Everything else is refused at the start."""
    with pytest.raises(ConfigError, match="FLOWSTATE_REDIS_SENTINELS"):
        load({"FLOWSTATE_REDIS_SENTINELS": text})
