"""The instance lease, with real connections and real processes."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import perf_counter
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import LeaseHeldError, StoreUnavailableError
from flowstate_daemon.config.settings import RedisSettings
from flowstate_daemon.dev.embedded import EmbeddedValkey
from flowstate_daemon.queue import lease as lease_module
from flowstate_daemon.queue.lease import TTL_MS, Lease, connection_name
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.proxy import FaultProxy
from tests.support.redis_flavours import Flavour, with_port
from tests.support.waiting import eventually

HOLD = """
import asyncio, json, sys
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.queue.lease import Lease, connection_name

async def hold(url, prefix, token):
    keys = Keys(prefix)
    connection = Connection(url, client_name=connection_name(keys, token))
    await Lease(connection, keys, instance_id="vm1", token=token).acquire()
    print("held", flush=True)
    await asyncio.Event().wait()

asyncio.run(hold(*json.loads(sys.argv[1])))
"""


class Daemons:
    """Makes leases, each with connections of its own, as daemons have them."""

    def __init__(self, url: str, keys: Keys, stack: AsyncExitStack) -> None:
        self.url = url
        self.keys = keys
        self._stack = stack

    def lease(self, token: str, *, url: str | None = None, ttl_ms: int = TTL_MS) -> Lease:
        connection = Connection(url or self.url, client_name=connection_name(self.keys, token), block_timeout_s=1.0)
        self._stack.push_async_callback(connection.close)
        return Lease(connection, self.keys, instance_id="vm1", token=token, ttl_ms=ttl_ms)

    @asynccontextmanager
    async def process(self, token: str) -> AsyncIterator[Process]:
        """A process that holds the lease."""
        argument = json.dumps([self.url, self.keys.prefix, token])
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLD, argument, stdout=PIPE)
        assert child.stdout is not None
        try:
            async with asyncio.timeout(20):
                assert await child.stdout.readline() == b"held\n"
            yield child
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()


@pytest.fixture
def keys(flavour: Flavour) -> Keys:
    """One kind of prefix is enough here, the one that must suit Redis Cluster."""
    return flavour.keys(f"t{uuid4().hex[:12]}", "email", tagged=True)


@pytest.fixture
async def daemons(flavour: Flavour, keys: Keys) -> AsyncIterator[Daemons]:
    async with AsyncExitStack() as stack:
        yield Daemons(flavour.login_url, keys, stack)  # what a restricted user sees is in the tests of silent servers


@pytest.fixture
def key(keys: Keys) -> str:
    return keys.own("instance:vm1")


async def test_free_id_is_taken(daemons: Daemons, redis: Redis, keys: Keys, key: str) -> None:
    """Acquiring a free id writes the token with its time to live, and nothing else."""
    assert await daemons.lease("vm1/a").acquire() is False
    assert await redis.get(key) == "vm1/a"
    assert 0 < await redis.pttl(key) <= TTL_MS
    assert [name async for name in redis.scan_iter(f"{keys.base}*")] == [key]


async def test_live_holder_keeps_it(daemons: Daemons, redis: Redis, key: str) -> None:
    """A second daemon is refused with a reason that names the id, the holder's address and the remedy, no token."""
    await daemons.lease("vm1/secret").acquire()
    with pytest.raises(LeaseHeldError) as refused:
        await daemons.lease("vm1/b").acquire()
    assert "'vm1'" in refused.value.reason
    assert "127.0.0.1:" in refused.value.reason
    assert "FLOWSTATE_QUEUE_INSTANCE_ID" in refused.value.reason
    assert "secret" not in refused.value.reason
    assert await redis.get(key) == "vm1/secret"


async def test_killed_holder_is_succeeded_at_once(daemons: Daemons, redis: Redis, key: str) -> None:
    """After kill -9 of the holder's process the next one has the lease within 2 s, long before it runs out."""
    async with daemons.process("vm1/a") as child:
        child.kill()
        started = perf_counter()
        assert await daemons.lease("vm1/b").acquire() is True
        assert perf_counter() - started < 2
    assert await redis.get(key) == "vm1/b"


async def test_live_process_is_not_succeeded(daemons: Daemons, redis: Redis, key: str) -> None:
    """As long as the holder's process lives, no other daemon acquires the lease."""
    async with daemons.process("vm1/a"):
        with pytest.raises(LeaseHeldError):
            await daemons.lease("vm1/b").acquire()
        assert await redis.get(key) == "vm1/a"


async def test_one_successor_wins(daemons: Daemons, redis: Redis, key: str) -> None:
    """Of three daemons that find the holder dead at the same time, one gets the lease and two are refused."""
    await redis.set(key, "vm1/dead", px=TTL_MS)
    attempts = (daemons.lease(f"vm1/{name}").acquire() for name in "abc")
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["LeaseHeldError", "LeaseHeldError", "bool"]
    assert await redis.get(key) == f"vm1/{'abc'[results.index(True)]}"


async def test_a_token_with_the_same_prefix_is_another_holder(daemons: Daemons) -> None:
    """A connection whose token merely begins like the holder's is no sign of life."""
    await daemons.lease("vm1/a").acquire()
    alive = Connection(daemons.url, client_name=connection_name(daemons.keys, "vm1/aa"))
    await alive.execute_blocking("PING")
    await daemons.lease("vm1/a").release()
    assert await daemons.lease("vm1/b").acquire() is False
    await alive.close()


async def test_release_gives_back_only_what_is_ours(daemons: Daemons, redis: Redis, key: str) -> None:
    """Releasing deletes the own token and leaves another's alone."""
    lease = daemons.lease("vm1/a")
    await lease.acquire()
    assert await lease.release() is True
    assert await redis.exists(key) == 0
    await redis.set(key, "vm1/b", px=1000)
    assert await lease.release() is False
    assert await redis.get(key) == "vm1/b"


async def test_renewal(daemons: Daemons, redis: Redis, key: str) -> None:
    """Renewing restores the full time, takes a lease again that ran out, and never one that another daemon has."""
    lease = daemons.lease("vm1/a")
    await lease.acquire()
    await redis.pexpire(key, 100)
    await lease.renew()
    assert await redis.pttl(key) > TTL_MS / 2
    await redis.delete(key)
    await lease.renew()
    assert await redis.get(key) == "vm1/a"
    await lease.release()
    await daemons.lease("vm1/b").acquire()
    with pytest.raises(LeaseHeldError):
        await lease.renew()
    assert await redis.get(key) == "vm1/b"


async def test_renewal_is_one_command(daemons: Daemons, redis: Redis) -> None:
    """Hosts bill an idle daemon by the command, those inside scripts included."""
    lease = daemons.lease("vm1/a")
    await lease.acquire()
    before = (await redis.info("stats"))["total_commands_processed"]
    for _ in range(20):
        await lease.renew()
    assert (await redis.info("stats"))["total_commands_processed"] - before < 40


async def test_lease_of_a_dead_predecessor_is_taken_back(daemons: Daemons, redis: Redis, key: str) -> None:
    """After a failover the lease may name the predecessor: its process is killed, or its host has died."""
    lease = daemons.lease("vm1/b")
    async with daemons.process("vm1/a") as child:
        child.kill()
        await child.wait()
        await lease.acquire()
    await redis.set(key, "vm1/a", px=TTL_MS)  # what the replica still had
    await lease.renew()
    assert await redis.get(key) == "vm1/b"
    assert await redis.pttl(key) > TTL_MS / 2


async def test_of_two_daemons_one_takes_it_back(daemons: Daemons, redis: Redis, key: str) -> None:
    """Both had it, one after the other, and Redis knows of neither: one goes on, and the other has to end."""
    leases = {name: daemons.lease(f"vm1/{name}") for name in "bc"}
    for lease in leases.values():
        await lease.acquire()
        await lease.release()
    await redis.set(key, "vm1/a", px=TTL_MS)
    results = await asyncio.gather(*(lease.renew() for lease in leases.values()), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["LeaseHeldError", "NoneType"]
    assert await redis.get(key) == f"vm1/{list(leases)[results.index(None)]}"


@pytest.fixture(params=["client|setname", "client|list"])
async def silent_url(request: pytest.FixtureRequest, redis: Redis, flavour: Flavour) -> AsyncIterator[str]:
    """A user with only one of the two: to name connections, or to ask who is connected."""
    await redis.execute_command(
        "ACL", "SETUSER", "silent", "on", ">pw", "~*", "&*", "+@all", "-client", f"+{request.param}"
    )
    yield flavour.url_for("silent", "pw")
    await redis.execute_command("ACL", "DELUSER", "silent")


async def test_silent_server_outwaits_a_dead_holder(daemons: Daemons, silent_url: str, redis: Redis, key: str) -> None:
    """When the server does not list clients, a lease that is not renewed is acquired after it expired."""
    await redis.set(key, "vm1/dead", px=700)
    assert await daemons.lease("vm1/b", url=silent_url).acquire() is True
    assert await redis.get(key) == "vm1/b"


async def test_silent_server_gives_no_lease_back(daemons: Daemons, silent_url: str, redis: Redis, key: str) -> None:
    """When the server does not list clients, the holder that it names may be alive."""
    lease = daemons.lease("vm1/b", url=silent_url)
    await lease.acquire()
    await redis.set(key, "vm1/a", px=TTL_MS)
    with pytest.raises(LeaseHeldError):
        await lease.renew()
    assert await redis.get(key) == "vm1/a"


async def test_silent_server_shows_life_by_renewal(daemons: Daemons, silent_url: str, redis: Redis, key: str) -> None:
    """When the server does not list clients, a lease that is renewed is not acquired."""
    holder = daemons.lease("vm1/a", url=silent_url, ttl_ms=5000)
    await holder.acquire()
    second = asyncio.create_task(daemons.lease("vm1/b", url=silent_url).acquire())

    async with asyncio.timeout(10):
        while not second.done():
            await holder.renew()
            await asyncio.wait([second], timeout=0.1)
    with pytest.raises(LeaseHeldError):
        await second
    assert await redis.get(key) == "vm1/a"


@pytest.mark.parametrize("appendonly", [True, False])
async def test_redis_restart(keys: Keys, appendonly: bool) -> None:
    """The holder keeps its lease through a restart of Redis, with and without persistence."""
    async with EmbeddedValkey(appendonly=appendonly) as daemon, AsyncExitStack() as stack:
        daemons = Daemons(daemon.url, keys, stack)
        lease = daemons.lease("vm1/a")
        await lease.acquire()
        await daemon.kill()
        with pytest.raises(StoreUnavailableError):
            await lease.renew()
        await daemon.start()
        await lease.renew()
        client = Redis.from_url(daemon.url, decode_responses=True, protocol=2)
        stack.push_async_callback(client.aclose)
        assert await client.get(keys.own("instance:vm1")) == "vm1/a"


async def test_half_open_holder_is_succeeded(
    daemons: Daemons, redis: Redis, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server keeps the connections of a host that died: once they are silent for too long, the lease is free."""
    monkeypatch.setattr(lease_module, "MAX_IDLE_S", 1)
    where = urlsplit(daemons.url)
    async with FaultProxy(where.hostname or "", where.port or 0) as proxy:
        holder = daemons.lease("vm1/a", url=with_port(daemons.url, proxy.port))
        await holder.acquire()
        await proxy.forget()
        successor = daemons.lease("vm1/b")
        with pytest.raises(LeaseHeldError):
            await successor.acquire()

        async def acquired() -> bool:
            try:
                return await successor.acquire()
            except LeaseHeldError:
                return False

        await eventually(acquired, "the lease is taken over")
        assert await redis.get(key) == "vm1/b"
        with pytest.raises(LeaseHeldError):
            await daemons.lease("vm1/a").renew()


async def test_busy_connection_of_the_holder_keeps_the_lease(
    daemons: Daemons, redis: Redis, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection in use is a sign of life, however long the others are silent."""
    monkeypatch.setattr(lease_module, "MAX_IDLE_S", 1)
    holder = daemons.lease("vm1/a")
    await holder.acquire()
    started = perf_counter()
    while perf_counter() - started < 3.5:
        await holder.renew()
        with pytest.raises(LeaseHeldError):
            await daemons.lease("vm1/b").acquire()
    assert await redis.get(key) == "vm1/a"


def test_live_daemon_is_never_silent_for_as_long_as_a_dead_one() -> None:
    """A daemon renews its lease, and ends its blocking pops, within the time after which it counts as dead."""
    assert lease_module.RENEW_S < lease_module.MAX_IDLE_S < TTL_MS / 1000
    assert max_block_s() < lease_module.MAX_IDLE_S


def max_block_s() -> float:
    [bound] = [each.le for each in RedisSettings.model_fields["block_timeout_s"].metadata if hasattr(each, "le")]
    return float(bound)
