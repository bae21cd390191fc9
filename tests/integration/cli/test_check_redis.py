"""`check` on real servers: rights, roles, memory, silence, and who else works on the queue."""

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
    """A server of the test's own, whose set-up it may change."""
    async with EmbeddedValkey(appendonly=True) as store:
        yield store


async def command(store: EmbeddedValkey, *text: str) -> None:
    client = Redis.from_url(store.url, protocol=2)
    await client.execute_command(*text)
    await client.aclose()


def as_user(store: EmbeddedValkey, name: str) -> str:
    return store.url.replace("//", f"//{name}:word@")


async def test_all_is_well_and_nothing_is_left_behind(check: Check, store: EmbeddedValkey) -> None:
    """Every line on Redis is ok, and the server holds no key afterwards."""
    found = await check(REDIS_URL=store.url)
    about = {name: found[name].level for name in found if name.startswith(("redis", "queue", "other"))}
    assert set(about.values()) == {Level.OK}, found
    assert len(about) == 8
    client = Redis.from_url(store.url, protocol=2)
    assert await client.keys() == []
    await client.aclose()


async def test_missing_commands_are_named_and_the_remedy_grants_them(
    check: Check, store: EmbeddedValkey, keys: Keys
) -> None:
    """The line that `check` tells makes the next `check` green."""
    await command(store, "ACL", "SETUSER", "hosted", "on", ">word", "~other:*", "&other:*", "+@all", "-lrem", "-zadd")
    url = as_user(store, "hosted")
    result = (await check(REDIS_URL=url))["redis permissions"]
    assert result.message == f"hosted lacks lrem, zadd, the keys {keys.base}*, the channels {keys.base}*"
    await command(store, *result.remedy.replace("'", "").split())
    assert (await check(REDIS_URL=url))["redis permissions"].level is Level.OK


@pytest.mark.parametrize("lacking", ["eval", "evalsha", "blmove", "subscribe", "hstrlen", "publish"])
async def test_each_missing_command_is_found(check: Check, store: EmbeddedValkey, lacking: str) -> None:
    """Those of scripts, the scripts themselves, and those beside them."""
    await command(store, "ACL", "SETUSER", "hosted", "on", ">word", "~*", "&*", "+@all", f"-{lacking}")
    assert f"hosted lacks {lacking}" in (await check(REDIS_URL=as_user(store, "hosted")))["redis permissions"].message


async def test_a_hosted_server_that_says_little_is_said_to_say_little(check: Check, store: EmbeddedValkey) -> None:
    """INFO, CONFIG, CLIENT and ACL are refused there: not visible, and no failure."""
    refused = ("-info", "-config", "-client", "-acl")
    await command(store, "ACL", "SETUSER", "hosted", "on", ">word", "~*", "&*", "+@all", *refused)
    found = await check(REDIS_URL=as_user(store, "hosted"))
    for subject in ("redis memory", "redis persistence", "other workers"):
        assert "not visible" in found[subject].message
        assert found[subject].level is Level.WARN
    assert found["redis permissions"].level is Level.OK


async def test_a_replica_is_told(check: Check, store: EmbeddedValkey) -> None:
    """It would answer everything and take nothing."""
    await command(store, "REPLICAOF", "127.0.0.1", "1")
    assert (await check(REDIS_URL=store.url))["redis role"].level is Level.FAIL


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
async def test_a_full_server_is_told(check: Check, store: EmbeddedValkey, policy: str) -> None:
    """Whatever happens there to the next job, it is not what anybody wants."""
    await command(store, "CONFIG", "SET", "maxmemory-policy", policy)
    await command(store, "CONFIG", "SET", "maxmemory", "1000000")
    assert (await check(REDIS_URL=store.url))["redis memory"].message.startswith("full")


async def test_a_policy_that_evicts_is_told(check: Check, store: EmbeddedValkey) -> None:
    """A warning with the line to set."""
    await command(store, "CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    assert "noeviction" in (await check(REDIS_URL=store.url))["redis memory"].remedy


async def test_a_server_that_does_not_answer_costs_its_time_and_no_more(check: Check, valkey_url: str) -> None:
    """The other parts are told all the same."""
    async with FaultProxy("127.0.0.1", int(valkey_url.rpartition(":")[2])) as proxy:
        proxy.freeze()
        found = await check(REDIS_URL=f"redis://127.0.0.1:{proxy.port}", within_s=0.5)
    assert found["redis"].unreachable
    assert found["http port"].level is Level.OK


async def test_a_live_bull_worker_is_seen_and_a_daemon_is_not(check: Check, valkey_url: str, keys: Keys) -> None:
    """The name of a node worker is the queue's alone."""
    own = Connection(valkey_url, client_name=f"{keys.client_name}:vm-1/{'a' * 32}")
    node = Redis.from_url(valkey_url, protocol=2, client_name=keys.client_name)
    await own.execute_blocking("PING")
    assert (await check())["other workers"].level is Level.OK
    await node.ping()
    result = (await check())["other workers"]
    assert result.message.startswith("1 Bull worker(s)")
    await node.aclose()
    await own.close()


async def test_a_clock_that_differs_is_measured(connection: Connection, clock: FakeClock) -> None:
    """By how much the server is ahead of this machine."""
    server = await inspect_server(connection, clock)
    assert server.skew_s is not None
    seconds, _ = await connection.execute("TIME")
    assert server.skew_s == pytest.approx(seconds - clock.now_ms() / 1000, abs=2)


async def test_a_cluster_is_fine_with_a_hash_tag_and_refused_without(check: Check) -> None:
    """Also when the node that is named serves other slots; without a tag `run` would exit 78."""
    async with cluster("{bull}:email:") as formed:
        tagged = await check(REDIS_URL=formed.other.url, FLOWSTATE_QUEUE_PREFIX="{bull}")
        spread = await check(REDIS_URL=formed.other.url, FLOWSTATE_QUEUE_PREFIX="bull")
    assert {tagged[name].level for name in ("redis cluster", "redis permissions", "queue")} == {Level.OK}
    assert spread["redis cluster"].misconfigured
