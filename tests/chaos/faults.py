"""Injects the faults of a plan into a world. Every fault heals when it ends, and also when the round is cut short."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import asyncpg
from redis.asyncio import Redis

from tests.chaos.plan import Fault
from tests.chaos.world import Host, World
from tests.support.fake_resend import Answer, Scripted, error
from tests.support.jumping_daemon import set_clock
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually

FORGET_WITHIN_S = 2.0
KEPT_FORGOTTEN = 3  # rounds after which the server, too, loses connections that were dropped silently
STOP_WITHIN_S = 20.0
ANSWER_AFTER_S = 4.0  # after the time-out of the daemon
DEAD_PORT = 1
READY_WITHIN_S = 15.0
PROMOTED_WITHIN_S = 120.0
Injector = Callable[[World, Fault], Awaitable[None]]


class NotPossibleError(Exception):
    """The stores are not in a state for this fault: it is left out, and not counted."""


async def inject_all(world: World, counts: Counter[str]) -> None:
    """Inject each fault of the plan at its time; `counts` gets those that were injected."""
    started = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        for number, fault in enumerate(world.plan.faults):
            group.create_task(_inject_at(world, fault, started, counts), name=f"fault {number} {fault.kind}")


async def _inject_at(world: World, fault: Fault, started: float, counts: Counter[str]) -> None:
    await asyncio.sleep(started + fault.at_s - asyncio.get_running_loop().time())
    with contextlib.suppress(NotPossibleError):
        await INJECTORS[fault.kind](world, fault)
        counts[fault.kind] += 1


async def _each(hosts: list[Host], act: Callable[[Host], Awaitable[None]]) -> None:
    await asyncio.gather(*(act(host) for host in hosts))


@asynccontextmanager
async def _out_of_service(host: Host) -> AsyncIterator[None]:
    """The daemon may end, and is started again in any case."""
    async with host.lock:
        host.expected_end = True
        try:
            yield
        finally:
            await host.daemon.start()
            host.expected_end = False


async def kill(world: World, fault: Fault) -> None:
    async def act(host: Host) -> None:
        async with _out_of_service(host):
            await host.daemon.kill()
            await asyncio.sleep(fault.lasts_s)

    await _each(world.aimed_at(fault.target), act)


async def restart(world: World, fault: Fault) -> None:
    async def act(host: Host) -> None:
        async with _out_of_service(host):
            host.send(signal.SIGTERM)
            try:
                await host.daemon.ended(within_s=STOP_WITHIN_S)
            except TimeoutError:
                await host.daemon.kill()
            await asyncio.sleep(fault.lasts_s)

    await _each(world.aimed_at(fault.target), act)


async def pause(world: World, fault: Fault) -> None:
    async def act(host: Host) -> None:
        async with host.lock:
            host.send(signal.SIGSTOP)
            try:
                await asyncio.sleep(fault.lasts_s)
            finally:
                host.send(signal.SIGCONT)

    await _each(world.aimed_at(fault.target), act)


async def clock_jump(world: World, fault: Fault) -> None:
    hosts = world.aimed_at(fault.target)
    try:
        for host in hosts:
            set_clock(host.clock, fault.size)
        await asyncio.sleep(fault.lasts_s)
    finally:
        for host in hosts:
            set_clock(host.clock, 0.0)


async def log_full(world: World, fault: Fault) -> None:
    with contextlib.ExitStack() as stack:
        for host in world.aimed_at(fault.target):
            stack.enter_context(_stopped_log(host))
        await asyncio.sleep(fault.lasts_s)


@contextmanager
def _stopped_log(host: Host) -> Iterator[None]:
    if host.log is not None:
        host.log.pause()
        try:
            yield
        finally:
            host.log.resume()
    elif (pid := host.pid) is not None:
        with _limited_files(pid, host.daemon._log):
            yield
    else:
        yield


@contextmanager
def _limited_files(pid: int, file: Path) -> Iterator[None]:
    """Files of this process cannot grow beyond the present size of `file`, as on a full disk."""
    limit = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (file.stat().st_size, limit[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)


async def redis_restart(world: World, fault: Fault) -> None:
    assert world.single is not None
    async with world.redis_lock:
        await world.single.kill()
        await asyncio.sleep(fault.lasts_s)
        await world.single.start()


async def redis_disk_full(world: World, fault: Fault) -> None:
    assert world.single is not None
    store = world.single
    async with world.redis_lock:
        assert store.pid is not None
        newest = max((store.folder / "appendonlydir").glob("*.incr.aof"), key=lambda file: file.stat().st_size)
        with _limited_files(store.pid, newest):
            await asyncio.sleep(fault.lasts_s)
        if store.pid is None:
            await store.start()


async def redis_failover(world: World, fault: Fault) -> None:
    async with world.redis_lock:
        if world.pair is not None:
            await _promote(world, fault)
        else:
            await _fail_over_by_sentinel(world, fault)


async def _promote(world: World, fault: Fault) -> None:
    pair = world.pair
    assert pair is not None
    pair.hold_up()
    await asyncio.sleep(fault.lasts_s)
    async with world.producer.lock:
        last_id = int(await pair.replica.client.get(world.keys("id")) or 0)
        world.redis_url = pair.replica.url
        await pair.fail_over()
        await world.producer.redis_replaced(world.redis_url, last_id)
    await pair.swap()


async def _fail_over_by_sentinel(world: World, fault: Fault) -> None:
    group = world.sentinel
    assert group is not None
    try:
        await eventually(group.ready_to_fail_over, "the sentinel knows the replica", within_s=READY_WITHIN_S)
    except AssertionError as error:
        raise NotPossibleError(str(error)) from None
    old, new = group.primary, group.replica
    await new.run("REPLICAOF", "127.0.0.1", DEAD_PORT)  # from now on it gets no writes
    await asyncio.sleep(fault.lasts_s)
    async with world.producer.lock:
        last_id = int(await new.client.get(world.keys("id")) or 0)
        await old.kill()

        async def promoted() -> bool:
            return bool((await new.client.info("replication"))["role"] == "master")

        await eventually(promoted, "the sentinel has promoted the replica", within_s=PROMOTED_WITHIN_S)
        world.redis_url = new.url
        await world.producer.redis_replaced(new.url, last_id)
    group.primary, group.replica = new, old
    await old.start()
    await old.run("REPLICAOF", "127.0.0.1", new.port)


async def redis_full(world: World, fault: Fault) -> None:
    async with world.redis_lock:
        try:
            await _set_max_memory(world, "1")
            await asyncio.sleep(fault.lasts_s)
        finally:
            await _set_max_memory(world, "0")


async def _set_max_memory(world: World, limit: str) -> None:
    client = Redis.from_url(world.redis_url, protocol=2)
    try:
        await client.config_set("maxmemory", limit)
    finally:
        await client.aclose()


def _redis_links(world: World, fault: Fault) -> list[FaultProxy]:
    return [host.redis for host in world.aimed_at(fault.target) if host.redis is not None]


def _database_links(world: World, fault: Fault) -> list[FaultProxy]:
    return [host.database for host in world.aimed_at(fault.target)]


async def _slow(proxies: list[FaultProxy], fault: Fault) -> None:
    for proxy in proxies:
        proxy.latency_s = fault.size
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        for proxy in proxies:
            proxy.latency_s = 0.0


async def redis_slow(world: World, fault: Fault) -> None:
    await _slow(_redis_links(world, fault), fault)


async def postgres_slow(world: World, fault: Fault) -> None:
    await _slow(_database_links(world, fault), fault)


async def redis_freeze(world: World, fault: Fault) -> None:
    proxies = _redis_links(world, fault)
    for proxy in proxies:
        proxy.freeze()
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        for proxy in proxies:
            proxy.unfreeze()


async def redis_reset(world: World, fault: Fault) -> None:
    for proxy in _redis_links(world, fault):
        proxy.cut()


async def _forget(proxies: list[FaultProxy]) -> None:
    for proxy in proxies:
        with contextlib.suppress(TimeoutError, OSError):  # a connection that is just being closed
            async with asyncio.timeout(FORGET_WITHIN_S):
                await proxy.forget()
        proxy.end_forgotten(rounds=KEPT_FORGOTTEN)


async def redis_half_open(world: World, fault: Fault) -> None:
    await _forget(_redis_links(world, fault))


async def postgres_half_open(world: World, fault: Fault) -> None:
    await _forget(_database_links(world, fault))


async def postgres_restart(world: World, fault: Fault) -> None:
    async with world.postgres_lock:
        await world.postgres.kill()
        await asyncio.sleep(fault.lasts_s)
        await world.postgres.start()


async def postgres_outage(world: World, fault: Fault) -> None:
    async with world.postgres_lock:
        proxies = _database_links(world, fault)
        for proxy in proxies:
            await proxy.refuse()
            proxy.cut()
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            for proxy in proxies:
                await proxy.admit()


async def postgres_read_only(world: World, fault: Fault) -> None:
    async with world.postgres_lock:
        await _configure(world, "ALTER SYSTEM SET default_transaction_read_only = on")
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            await _configure(world, "ALTER SYSTEM RESET default_transaction_read_only")


async def _configure(world: World, statement: str) -> None:
    server = await asyncpg.connect(world.postgres.url(), server_settings={"default_transaction_read_only": "off"})
    try:
        await server.execute(statement)
        await server.execute("SELECT pg_reload_conf()")
    finally:
        await server.close()


async def _scripted(world: World, fault: Fault, *answers: Answer) -> None:
    """A share of the requests gets one of these answers, for a while."""
    random = Random(f"{world.plan.seed} {fault}")
    scripted = [
        Scripted(answer, lambda request: request.method == "POST" and random.random() < fault.size / len(answers), None)
        for answer in answers
    ]
    world.provider._scripted += scripted
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        for one in scripted:
            world.provider._scripted.remove(one)


async def provider_429(world: World, fault: Fault) -> None:
    await _scripted(world, fault, error(429, "rate_limit_exceeded", retry_after="1"))


async def provider_5xx(world: World, fault: Fault) -> None:
    await _scripted(world, fault, error(500, "application_error"), error(503, "service_unavailable"))


async def provider_late(world: World, fault: Fault) -> None:
    await _scripted(world, fault, Answer(delay_s=ANSWER_AFTER_S))


async def provider_cut(world: World, fault: Fault) -> None:
    await _scripted(world, fault, Answer(cut=True), Answer(drop=True))


async def provider_refusals(world: World, fault: Fault) -> None:
    world.producer.refused_share = fault.size
    await asyncio.sleep(fault.lasts_s)
    world.producer.refused_share = 0.0


async def provider_key(world: World, fault: Fault) -> None:
    await _scripted(world, replace(fault, size=1.0), error(403, "invalid_api_key", "API key is invalid."))


async def bull_kill(world: World, fault: Fault) -> None:
    assert world.bull is not None
    await world.bull.kill()
    await asyncio.sleep(fault.lasts_s)
    await world.bull.start()


INJECTORS: dict[str, Injector] = {
    "kill": kill,
    "restart": restart,
    "pause": pause,
    "clock-jump": clock_jump,
    "log-full": log_full,
    "redis-restart": redis_restart,
    "redis-disk-full": redis_disk_full,
    "redis-failover": redis_failover,
    "redis-full": redis_full,
    "redis-slow": redis_slow,
    "redis-freeze": redis_freeze,
    "redis-reset": redis_reset,
    "redis-half-open": redis_half_open,
    "postgres-restart": postgres_restart,
    "postgres-outage": postgres_outage,
    "postgres-slow": postgres_slow,
    "postgres-half-open": postgres_half_open,
    "postgres-read-only": postgres_read_only,
    "provider-429": provider_429,
    "provider-5xx": provider_5xx,
    "provider-late": provider_late,
    "provider-cut": provider_cut,
    "provider-refusals": provider_refusals,
    "provider-key": provider_key,
    "bull-kill": bull_kill,
}
