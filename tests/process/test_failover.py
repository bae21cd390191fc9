"""Redis changes its role under the daemon, or is unfit from the start: waited for, said, never the end of the house."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.dev.embedded import EmbeddedValkey
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_faults import is_green, is_red
from tests.process.test_lifecycle import enqueue
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually


@pytest.fixture
async def pair() -> AsyncIterator[tuple[EmbeddedValkey, EmbeddedValkey]]:
    """Two stores, the second of which may become the primary of the first."""
    async with EmbeddedValkey(appendonly=True) as one, EmbeddedValkey(appendonly=True) as two:
        yield one, two


async def command(daemon: EmbeddedValkey, *text: str) -> bytes:
    connection = Connection(daemon.url, client_name="test")
    answer: bytes = await connection.execute(*text)
    await connection.close()
    return answer


async def sleeps(daemon: EmbeddedValkey) -> bool:
    """Whether some client waits in a blocking pop."""
    return b"cmd=blmove" in await command(daemon, "CLIENT", "LIST")


async def alive(daemon: Daemon) -> bool:
    assert daemon.process is not None
    assert daemon.process.returncode is None, daemon.log_text()[-3000:]
    return True


async def test_a_demoted_primary_is_an_outage_for_an_idle_daemon(
    pair: tuple[EmbeddedValkey, EmbeddedValkey], make_daemon: MakeDaemon, provider: FakeResend, keys: Keys
) -> None:
    """The blocking pop ends with UNBLOCKED, then READONLY: the daemon waits, and works on once promoted again."""
    primary, other = pair
    async with make_daemon(REDIS_URL=primary.url) as daemon:
        await daemon.ready()
        await eventually(lambda: sleeps(primary), "the daemon sleeps in its blocking pop")
        await command(primary, "REPLICAOF", "127.0.0.1", str(other.port))

        async def red() -> bool:
            return await alive(daemon) and await is_red(daemon)

        await eventually(red, "ready is red on a replica")
        await command(primary, "REPLICAOF", "NO", "ONE")
        await eventually(lambda: is_green(daemon), "ready is green again")
        connection = Connection(primary.url, client_name="test")
        await enqueue(connection, keys, 1)
        await connection.close()

        async def sent() -> bool:
            return await alive(daemon) and len(provider.accepted) == 1

        await eventually(sent, "the mail")


async def test_all_connections_follow_a_failover_behind_one_name(
    pair: tuple[EmbeddedValkey, EmbeddedValkey], make_daemon: MakeDaemon, provider: FakeResend, keys: Keys
) -> None:
    """The demoted primary keeps its connections: none of ours stays there, so ready turns green on the new one."""
    old, new = pair
    async with (
        FaultProxy("127.0.0.1", old.port) as proxy,
        make_daemon(REDIS_URL=f"redis://127.0.0.1:{proxy.port}") as daemon,
    ):
        await daemon.ready()
        proxy.redirect_to("127.0.0.1", new.port)
        await command(old, "REPLICAOF", "127.0.0.1", str(new.port))
        await eventually(lambda: is_red(daemon), "ready is red")
        await eventually(lambda: is_green(daemon), "ready is green on the new primary", within_s=15)
        connection = Connection(new.url, client_name="test")
        await enqueue(connection, keys, 1)
        await connection.close()

        async def sent() -> bool:
            return await alive(daemon) and len(provider.accepted) == 1

        await eventually(sent, "the mail", within_s=2)


async def test_a_redis_that_is_full_at_the_start_is_waited_for(
    pair: tuple[EmbeddedValkey, EmbeddedValkey], make_daemon: MakeDaemon
) -> None:
    """It answers PING and refuses to write: ready is red and says why, and turns green once there is room."""
    store, _ = pair
    await command(store, "CONFIG", "SET", "maxmemory", "1")
    async with make_daemon(REDIS_URL=store.url) as daemon:

        async def red() -> bool:
            return await alive(daemon) and "raise maxmemory" in (await daemon.look("/health/ready"))[1]

        await eventually(red, "ready is red and says why")
        await command(store, "CONFIG", "SET", "maxmemory", "0")
        await daemon.ready()


async def test_sigterm_ends_the_wait_for_a_predecessors_lease(
    pair: tuple[EmbeddedValkey, EmbeddedValkey], make_daemon: MakeDaemon
) -> None:
    """Where CLIENT LIST is refused, a dead holder's lease is waited out, for up to 75 s, but not longer than wanted."""
    store, _ = pair
    await command(store, "ACL", "SETUSER", "hosted", "on", ">word", "~*", "&*", "+@all", "-client|list")
    url = store.url.replace("//", "//hosted:word@")
    async with make_daemon("twin", REDIS_URL=url) as first:
        await first.ready()
    async with make_daemon("twin", REDIS_URL=url) as second:

        async def waiting() -> bool:
            return bool(second.events("lease_holder_unknown"))

        await eventually(waiting, "it waits for the lease")
        second.send(signal.SIGTERM)
        assert await second.ended(within_s=5) == 0


async def test_a_database_that_the_server_lacks_is_an_outage(pair: tuple[EmbeddedValkey, EmbeddedValkey]) -> None:
    """REDIS_URL names number 99: said in words, not in a traceback."""
    connection = Connection(f"{pair[0].url}/99", client_name="test")
    with pytest.raises(StoreUnavailableError, match="DB index"):
        await connection.open()
    await connection.close()
