"""Connections that are reset at any moment are an outage, never a bug; on both event loops, with and without TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.queue.events import FinishedJob, JobWaiter, QueueEvents
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.redis_topologies import ProxiedRedis
from tests.support.waiting import eventually

pytestmark = pytest.mark.both_loops

ROUNDS = 12
LOADS = (b"x", b"x" * 300_000, b"x" * 3_000_000)


@pytest.fixture
async def link(target: ProxiedRedis) -> AsyncIterator[Connection]:
    connection = Connection(target.url, client_name="resets", block_timeout_s=1.0)
    yield connection
    await connection.close()


async def outage_or_reply(work: Awaitable[object]) -> bool:
    """Await a command; False for an outage. Any other error fails the test."""
    try:
        await work
    except StoreUnavailableError:
        return False
    return True


async def works_again(link: Connection) -> None:
    await eventually(lambda: outage_or_reply(link.execute("PING")), "commands work again")
    blocking = link.execute_blocking
    await eventually(lambda: outage_or_reply(blocking("BLPOP", "nothing-here", 0.01)), "blocking pops work again")


async def until_open(target: ProxiedRedis, link: Connection, count: int) -> None:
    """Open `count` connections by as many commands at a time."""

    async def opened() -> bool:
        await asyncio.gather(*(outage_or_reply(link.execute("PING")) for _ in range(count)))
        return target.proxy.open_connections >= count

    await eventually(opened, f"{count} connections")


async def test_idle_connections_that_were_reset_are_replaced(target: ProxiedRedis, link: Connection) -> None:
    """The next commands succeed: a connection known to be broken is replaced before anything is sent."""
    for _ in range(ROUNDS):
        await until_open(target, link, 4)
        target.proxy.cut()
        await eventually(lambda: target.proxy.open_connections, "the resets", equals=0)
        await asyncio.sleep(0)
        await asyncio.gather(*(outage_or_reply(link.execute("PING")) for _ in range(6)))
        await works_again(link)


async def test_resets_under_load(target: ProxiedRedis, link: Connection) -> None:
    """Commands of all sizes, blocking pops and events meet resets at any byte: an outage each time, and no end."""
    events = QueueEvents(link, Keys("resets"))
    done = asyncio.Event()
    succeeded = [0, 0, 0, 0, 0]

    async def repeat(number: int, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        while not done.is_set():
            succeeded[number] += await outage_or_reply(work())
            await asyncio.sleep(0)

    async def resets() -> None:
        for _ in range(ROUNDS * 4):
            before = sum(succeeded)
            await eventually(lambda before=before: sum(succeeded) > before, "something worked")  # type: ignore[misc]
            target.proxy.cut()
        done.set()

    async with asyncio.TaskGroup() as group:
        for number, load in enumerate(LOADS):
            group.create_task(repeat(number, lambda load=load: link.execute("SET", "load", load)))  # type: ignore[misc]
        group.create_task(repeat(3, lambda: link.execute_blocking("BLPOP", "nothing-here", 0.01)))
        group.create_task(repeat(4, lambda: events.next(0.01)))
        group.create_task(resets())
    await events.close()
    await works_again(link)


@pytest.mark.parametrize("after", [0, 1, 7])
async def test_a_reply_that_ends_in_a_reset(target: ProxiedRedis, link: Connection, after: int) -> None:
    """Before its first byte and in the middle."""
    await link.execute("PING")
    target.proxy.reset_reply_after = after
    for command in (link.execute("ECHO", "x" * 50), link.execute_blocking("ECHO", "x" * 50)):
        assert not await outage_or_reply(command)
    target.proxy.reset_reply_after = None
    await works_again(link)


async def test_new_connections_that_are_reset_at_once(target: ProxiedRedis, link: Connection) -> None:
    """During the connect, the TLS handshake or the name of the connection, wherever the reset arrives."""
    target.proxy.reset_new_connections = True
    for _ in range(ROUNDS):
        results = await asyncio.gather(*(outage_or_reply(link.execute("PING")) for _ in range(4)))
        assert results == [False] * 4
    target.proxy.reset_new_connections = False
    await works_again(link)


async def test_a_waiting_pop_and_a_subscriber_that_are_reset(target: ProxiedRedis, link: Connection) -> None:
    """Those that wait for the server end at once."""
    events = QueueEvents(link, Keys("resets"))
    for _ in range(ROUNDS):
        await eventually(lambda: outage_or_reply(events.next(0.01)), "the events listen")
        pop = asyncio.create_task(outage_or_reply(link.execute_blocking("BLPOP", "nothing-here", 30)))
        received = asyncio.create_task(outage_or_reply(events.next(30)))
        await eventually(lambda: target.proxy.open_connections >= 2, "both connections")
        target.proxy.cut()
        async with asyncio.timeout(5):
            assert await received is False
            await pop
    await events.close()


async def test_a_job_waiter_listens_again(target: ProxiedRedis, link: Connection, keys: Keys, redis: Redis) -> None:
    """`enqueue --wait` survives resets, and finds a job that removes itself afterwards."""
    async with JobWaiter(link, keys, poll_interval_s=0.05) as waiter:
        for number in range(3):
            await redis.hset(keys.job(str(number)), "name", "welcome")
            target.proxy.cut()

            async def received(number: int = number) -> FinishedJob | None:
                await redis.publish(keys("completed"), f'{{"jobId":"{number}","val":"1"}}')
                try:
                    return await waiter.wait(str(number), 0.2)
                except (StoreUnavailableError, TimeoutError):
                    return None

            finished = await eventually(received, "the waiter receives events again")
            assert finished is not None
            assert finished.state == "completed"
            await redis.delete(keys.job(str(number)))


async def test_closing_broken_connections(target: ProxiedRedis) -> None:
    """A client whose connections were all reset closes without an error."""
    for _ in range(ROUNDS):
        link = Connection(target.url, client_name="resets")
        await until_open(target, link, 3)
        target.proxy.cut()
        await link.close()
