"""Redis changes its role while the daemon runs, or refuses writes at the start: the daemon reports it and waits."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import pytest

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.dev.embedded import EmbeddedValkey
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_lifecycle import enqueue
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually


@pytest.fixture
async def pair() -> AsyncIterator[tuple[EmbeddedValkey, EmbeddedValkey]]:
    """Two servers, of which the second can become the primary of the first."""
    async with EmbeddedValkey(appendonly=True) as first, EmbeddedValkey(appendonly=True) as second:
        yield first, second


async def command(daemon: EmbeddedValkey, *text: str) -> bytes:
    connection = Connection(daemon.url, client_name="test")
    answer: bytes = await connection.execute(*text)
    await connection.close()
    return answer


async def has_blocked_client(daemon: EmbeddedValkey) -> bool:
    """Whether a client waits in a blocking pop."""
    return b"cmd=blmove" in await command(daemon, "CLIENT", "LIST")


async def is_alive(daemon: Daemon) -> bool:
    assert daemon.process is not None
    assert daemon.process.returncode is None, daemon.log_text()[-3000:]
    return True


async def test_demoted_primary_is_an_outage(
    pair: tuple[EmbeddedValkey, EmbeddedValkey], make_daemon: MakeDaemon, provider: FakeResend, keys: Keys
) -> None:
    """After UNBLOCKED and READONLY an idle daemon waits, and continues once the server is primary again."""
    primary, other = pair
    async with make_daemon(REDIS_URL=primary.url) as daemon:
        await daemon.ready()
        await eventually(lambda: has_blocked_client(primary), "the daemon waits in its blocking pop")
        await command(primary, "REPLICAOF", "127.0.0.1", str(other.port))

        async def red() -> bool:
            return await is_alive(daemon) and await daemon.is_not_ready()

        await eventually(red, "not ready on a replica")
        await command(primary, "REPLICAOF", "NO", "ONE")
        await eventually(daemon.is_ready, "ready again")
        connection = Connection(primary.url, client_name="test")
        await enqueue(connection, keys, 1)
        await connection.close()

        async def sent() -> bool:
            return await is_alive(daemon) and len(provider.accepted) == 1

        await eventually(sent, "the email")


async def test_connections_follow_a_failover_behind_one_address(
    pair: tuple[EmbeddedValkey, EmbeddedValkey], make_daemon: MakeDaemon, provider: FakeResend, keys: Keys
) -> None:
    """The daemon closes its connections to the demoted primary, and becomes ready on the new one."""
    old, new = pair
    async with (
        FaultProxy("127.0.0.1", old.port) as proxy,
        make_daemon(REDIS_URL=f"redis://127.0.0.1:{proxy.port}") as daemon,
    ):
        await daemon.ready()
        proxy.redirect_to("127.0.0.1", new.port)
        await command(old, "REPLICAOF", "127.0.0.1", str(new.port))
        await eventually(daemon.is_not_ready, "not ready")
        await eventually(daemon.is_ready, "ready on the new primary", within_s=15)
        connection = Connection(new.url, client_name="test")
        await enqueue(connection, keys, 1)
        await connection.close()

        async def sent() -> bool:
            return await is_alive(daemon) and len(provider.accepted) == 1

        await eventually(sent, "the email", within_s=2)


async def test_daemon_waits_for_a_redis_that_is_full_at_the_start(
    pair: tuple[EmbeddedValkey, EmbeddedValkey], make_daemon: MakeDaemon
) -> None:
    """When Redis refuses writes, readiness fails with the remedy, and succeeds once there is memory."""
    store, _ = pair
    await command(store, "CONFIG", "SET", "maxmemory", "1")
    async with make_daemon(REDIS_URL=store.url) as daemon:

        async def red() -> bool:
            return await is_alive(daemon) and "raise maxmemory" in (await daemon.look("/health/ready"))[1]

        await eventually(red, "not ready and says why")
        await command(store, "CONFIG", "SET", "maxmemory", "0")
        await daemon.ready()


async def test_sigterm_ends_the_wait_for_a_lease(
    pair: tuple[EmbeddedValkey, EmbeddedValkey], make_daemon: MakeDaemon
) -> None:
    """Without CLIENT LIST a daemon waits up to 75 s for the lease of a dead holder, and SIGTERM ends the wait."""
    store, _ = pair
    await command(store, "ACL", "SETUSER", "hosted", "on", ">pass", "~*", "&*", "+@all", "-client|list")
    url = store.url.replace("//", "//hosted:pass@")
    async with make_daemon("twin", REDIS_URL=url) as first:
        await first.ready()
    async with make_daemon("twin", REDIS_URL=url) as second:
        await eventually(lambda: bool(second.events("lease_holder_unknown")), "it waits for the lease")
        second.send(signal.SIGTERM)
        assert await second.ended(within_s=5) == 0


async def test_missing_database_number_is_store_unavailable(pair: tuple[EmbeddedValkey, EmbeddedValkey]) -> None:
    """A database number that the server does not have raises StoreUnavailableError with its message."""
    connection = Connection(f"{pair[0].url}/99", client_name="test")
    with pytest.raises(StoreUnavailableError, match="DB index"):
        await connection.open()
    await connection.close()
