"""Connections and scripts: what is sent, what is loaded again, what counts as an outage."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.clock import FakeClock
from tests.support.redis_flavours import Flavour


async def test_commands_arrive_as_they_were_meant(connection: Connection, keys: Keys) -> None:
    """Text, bytes, numbers, spaces and line ends, and values of a megabyte."""
    parts = ["Zoë 🙂", b"\x00\xff\r\n", 7, 1.5, "a b", "", b"x" * 1_000_000]
    await connection.execute("RPUSH", keys("x"), *parts)
    plain = ["Zoë 🙂".encode(), b"\x00\xff\r\n", b"7", b"1.5", b"a b", b"", b"x" * 1_000_000]
    assert await connection.execute("LRANGE", keys("x"), 0, -1) == plain


async def test_forgotten_scripts_are_loaded_again(bull: BullQueue, redis: Redis) -> None:
    """After a restart or a failover the server knows no script any more."""
    await bull.add(NewJob("x", {}))
    await redis.script_flush()
    assert (await bull.add(NewJob("x", {}))).id == "2"
    assert [job.id for job in await bull.claim(5)] == ["1", "2"]


async def test_the_blocking_connection_has_the_workers_name(
    flavour: Flavour, redis: Redis, keys: Keys, clock: FakeClock
) -> None:
    """Bull's `getWorkers()` counts one connection of this process."""
    connection = Connection(flavour.login_url, client_name=keys.client_name, block_timeout_s=1.0)
    await BullQueue(connection, keys, clock, token="me/2").wait_for_jobs()
    names = [client["name"] for client in await redis.client_list()]
    assert names.count(keys.client_name) == 1
    await connection.close()


async def test_no_server(unused_tcp_port: int) -> None:
    """A refused connection is an outage with a remedy, not a bug."""
    connection = Connection(f"redis://127.0.0.1:{unused_tcp_port}", client_name="x")
    with pytest.raises(StoreUnavailableError, match="REDIS_URL"):
        await connection.open()
    with pytest.raises(StoreUnavailableError):
        await connection.execute_blocking("BLMOVE", "a", "a", "RIGHT", "RIGHT", 1)
    await connection.close()


async def test_a_wrong_password(flavour: Flavour) -> None:
    """It says which setting to look at and does not repeat the password."""
    connection = Connection(flavour.url_for("", "hunter2"), client_name="x")
    with pytest.raises(StoreUnavailableError, match="REDIS_PASSWORD") as outage:
        await connection.open()
    assert "hunter2" not in outage.value.reason
    await connection.close()


async def test_a_user_without_channels_loses_nothing(
    flavour: Flavour, redis: Redis, bull: BullQueue, keys: Keys, clock: FakeClock
) -> None:
    """Redis 7 gives new users no channels: an outage with a remedy, and every job stays where it is."""
    await bull.add(NewJob("x", {}))
    await bull.add(NewJob("x", {}, delay_ms=1))
    clock.advance(1)
    await redis.acl_setuser("mute", enabled=True, nopass=True, keys=["*"], categories=["+@all"], reset_channels=True)
    connection = Connection(flavour.url_for("mute", "x"), client_name="x")
    mute = BullQueue(connection, keys, clock, token="mute/1")
    for verb in (mute.claim(1), mute.promote()):
        with pytest.raises(StoreUnavailableError, match="channels"):
            await verb
    assert await redis.lrange(keys("wait"), 0, -1) == ["1"]
    assert await redis.zcard(keys("delayed")) == 1
    await connection.close()
    await redis.acl_deluser("mute")
