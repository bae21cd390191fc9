"""`check` on real Redis servers: permissions, roles, memory, timeouts, and other workers of the queue."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.dev.embedded import EmbeddedValkey
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.server_info import inspect_server
from tests.integration.cli.conftest import Check
from tests.support.clock import FakeClock
from tests.support.proxy import FaultProxy
from tests.support.redis_topologies import cluster


@pytest.fixture
async def store() -> AsyncIterator[EmbeddedValkey]:
    """A server of the test's own, whose configuration it may change."""
    async with EmbeddedValkey(appendonly=True) as store:
        yield store


async def execute(store: EmbeddedValkey, *command: str) -> None:
    client = Redis.from_url(store.url, protocol=2)
    await client.execute_command(*command)
    await client.aclose()


def url_for_user(store: EmbeddedValkey, name: str) -> str:
    return store.url.replace("//", f"//{name}:pass@")


async def test_healthy_server_passes_and_no_key_is_left_behind(check: Check, store: EmbeddedValkey, keys: Keys) -> None:
    """Every check of Redis is ok, and the server holds only the producer's key afterwards."""
    client = Redis.from_url(store.url, protocol=2)
    await client.set(keys("id"), 1)
    results = await check(REDIS_URL=store.url)
    levels = {name: results[name].level for name in results if name.startswith(("redis", "queue", "other"))}
    assert set(levels.values()) == {Level.OK}, results
    assert len(levels) == 8
    assert await client.keys() == [keys("id").encode()]
    await client.aclose()


async def test_remedy_of_missing_permissions_grants_them(check: Check, store: EmbeddedValkey, keys: Keys) -> None:
    """Missing commands, keys and channels are named, and the ACL line of the remedy makes the check pass."""
    await execute(store, "ACL", "SETUSER", "hosted", "on", ">pass", "~other:*", "&other:*", "+@all", "-lrem", "-zadd")
    url = url_for_user(store, "hosted")
    result = (await check(REDIS_URL=url))["redis permissions"]
    assert result.message == f"hosted lacks lrem, zadd, the keys {keys.base}*, the channels {keys.base}*"
    await execute(store, *result.remedy.replace("'", "").split())
    assert (await check(REDIS_URL=url))["redis permissions"].level is Level.OK


@pytest.mark.parametrize("lacking", ["eval", "evalsha", "blmove", "subscribe", "hstrlen", "publish"])
async def test_missing_command_is_named(check: Check, store: EmbeddedValkey, lacking: str) -> None:
    """Commands called by scripts, commands that run scripts, and commands called directly are checked."""
    await execute(store, "ACL", "SETUSER", "hosted", "on", ">pass", "~*", "&*", "+@all", f"-{lacking}")
    result = (await check(REDIS_URL=url_for_user(store, "hosted")))["redis permissions"]
    assert f"hosted lacks {lacking}" in result.message


async def test_server_that_refuses_info_is_a_warning(check: Check, store: EmbeddedValkey) -> None:
    """Without INFO, CONFIG, CLIENT and ACL, as on hosted Redis, the facts are "not visible", which is no failure."""
    refused = ("-info", "-config", "-client", "-acl")
    await execute(store, "ACL", "SETUSER", "hosted", "on", ">pass", "~*", "&*", "+@all", *refused)
    results = await check(REDIS_URL=url_for_user(store, "hosted"))
    for name in ("redis memory", "redis persistence", "other workers"):
        assert "not visible" in results[name].message
        assert results[name].level is Level.WARN
    assert results["redis permissions"].level is Level.OK


async def test_replica_fails(check: Check, store: EmbeddedValkey) -> None:
    """A replica answers reads and refuses writes, so the check fails."""
    await execute(store, "REPLICAOF", "127.0.0.1", "1")
    assert (await check(REDIS_URL=store.url))["redis role"].level is Level.FAIL


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
async def test_full_server_is_reported(check: Check, store: EmbeddedValkey, policy: str) -> None:
    """A server above `maxmemory` is reported as full, whatever its eviction policy."""
    await execute(store, "CONFIG", "SET", "maxmemory-policy", policy)
    await execute(store, "CONFIG", "SET", "maxmemory", "1000000")
    assert (await check(REDIS_URL=store.url))["redis memory"].message.startswith("full")


async def test_evicting_policy_is_reported_with_a_remedy(check: Check, store: EmbeddedValkey) -> None:
    """The remedy of an eviction policy names `noeviction`."""
    await execute(store, "CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    assert "noeviction" in (await check(REDIS_URL=store.url))["redis memory"].remedy


async def test_server_that_hangs_costs_only_the_timeout(check: Check, valkey_url: str) -> None:
    """A server that does not answer is unreachable after the timeout, and the other checks still run."""
    async with FaultProxy("127.0.0.1", int(valkey_url.rpartition(":")[2])) as proxy:
        proxy.freeze()
        results = await check(REDIS_URL=f"redis://127.0.0.1:{proxy.port}", within_s=0.5)
    assert results["redis"].unreachable
    assert results["http port"].level is Level.OK


async def test_bull_worker_is_reported_and_a_daemon_is_not(check: Check, valkey_url: str, keys: Keys) -> None:
    """The client name of a Bull worker is exactly that of the queue; a daemon adds its instance."""
    own = Connection(valkey_url, client_name=f"{keys.client_name}:vm-1/{'a' * 32}")
    node = Redis.from_url(valkey_url, protocol=2, client_name=keys.client_name)
    await own.execute_blocking("PING")
    assert (await check())["other workers"].level is Level.OK
    await node.ping()
    result = (await check())["other workers"]
    assert result.message.startswith("1 Bull worker(s)")
    await node.aclose()
    await own.close()


async def test_clock_skew_of_the_server_is_measured(connection: Connection, clock: FakeClock) -> None:
    """`skew_s` is how far the clock of the server is ahead of this machine."""
    server = await inspect_server(connection, clock)
    assert server.skew_s is not None
    seconds, _ = await connection.execute("TIME")
    assert server.skew_s == pytest.approx(seconds - clock.now_ms() / 1000, abs=2)


async def test_cluster_requires_a_hash_tag_in_the_prefix(check: Check) -> None:
    """With a hash tag the cluster passes through any of its nodes; without one it is a configuration error."""
    async with cluster("{bull}:email:") as formed:
        tagged = await check(REDIS_URL=formed.other.url, FLOWSTATE_QUEUE_PREFIX="{bull}")
        spread = await check(REDIS_URL=formed.other.url, FLOWSTATE_QUEUE_PREFIX="bull")
    assert {tagged[name].level for name in ("redis cluster", "redis permissions")} == {Level.OK}
    assert "no job was ever added" in tagged["queue"].message
    assert spread["redis cluster"].misconfigured
