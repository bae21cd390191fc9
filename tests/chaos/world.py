"""What a chaos round runs on: stores behind proxies, a provider, daemons, npm bull's worker. Started from a plan."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import asyncpg

from flowstate_daemon.dev.embedded import LOOPBACK, EmbeddedPostgres, EmbeddedValkey
from flowstate_daemon.dev.seed import create_tables
from flowstate_daemon.redis_client.keys import Keys
from tests.chaos.load import Producer, ScheduledLoad, insert_users, scheduled_load
from tests.chaos.plan import Plan
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.jumping_daemon import set_clock
from tests.support.proxy import FaultProxy
from tests.support.redis_topologies import LaggingPair, SentinelGroup, lagging_pair, sentinel_group

DATABASE = "flowstate"
PROVIDER_RATE = 8  # requests per second
PROVIDER_LATENCY_S = 0.06
USERS_PER_S = 0.5
CHUNK = 64 * 1024
PIPE_BYTES = 4096
READY_WITHIN_S = 180.0  # several processes start at once, perhaps on a busy machine
HERE = Path(__file__).parent
SETTINGS = {
    "FLOWSTATE_QUEUE_LOCK_DURATION_MS": "8000",
    "FLOWSTATE_QUEUE_STALLED_INTERVAL_MS": "4000",
    "FLOWSTATE_RESEND_TIMEOUT_S": "3",
}


class LogPipe:
    """The reader of a daemon's log, such as journald: it copies a pipe to a file, and can stop."""

    def __init__(self, file: Path) -> None:
        self._reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(self._reader, False)
        self._file = file.open("ab", buffering=0)
        self.resume()

    def _copy(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._file.write(os.read(self._reader, CHUNK))

    def pause(self) -> None:
        asyncio.get_running_loop().remove_reader(self._reader)

    def resume(self) -> None:
        asyncio.get_running_loop().add_reader(self._reader, self._copy)

    def close(self) -> None:
        self.pause()
        self._copy()
        os.close(self._reader)
        os.close(self.writer)
        self._file.close()


class Host:
    """A daemon on a machine of its own: its clock, its log, its links to the stores."""

    def __init__(self, number: int, daemon: Daemon, clock: Path, log: LogPipe | None) -> None:
        self.number = number
        self.daemon = daemon
        self.clock = clock
        self.log = log
        self.redis: FaultProxy | None = None
        self.database: FaultProxy
        self.lock = asyncio.Lock()  # held while it is killed, paused or restarted
        self.expected_end = False

    @property
    def pid(self) -> int | None:
        process = self.daemon.process
        return process.pid if process is not None and process.returncode is None else None

    def send(self, number: signal.Signals) -> None:
        """To the daemon, unless it has ended by itself, which is a violation that the end of the round reports."""
        if self.pid is not None:
            self.daemon.send(number)


class BullWorker:
    """npm bull's worker, and the jobs that it took: recipient by job id."""

    def __init__(self, url: str, keys: Keys) -> None:
        self.taken: dict[str, str] = {}
        self._command = ("node", "bull_worker.mjs", "--redis", url, "--prefix", keys.prefix)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, cwd=HERE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        self._reading = asyncio.create_task(self._read(self._process), name="bull worker")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            job_id, _, to = line.decode().strip().partition(" ")
            self.taken[job_id] = to

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None


@dataclass
class World:
    """Everything of one round."""

    plan: Plan
    folder: Path
    keys: Keys
    provider: FakeResend
    postgres: EmbeddedPostgres
    redis_url: str  # where tests reach Redis, past all proxies
    producer: Producer
    scheduled: ScheduledLoad
    single: EmbeddedValkey | None = None
    pair: LaggingPair | None = None
    sentinel: SentinelGroup | None = None
    hosts: list[Host] = field(default_factory=list)
    bull: BullWorker | None = None
    redis_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    postgres_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def database_url(self) -> str:
        return self.postgres.url(DATABASE)

    def aimed_at(self, target: int) -> list[Host]:
        return [host for host in self.hosts if target in (-1, host.number)]


async def _start_database(stack: AsyncExitStack) -> EmbeddedPostgres:
    store = await stack.enter_async_context(EmbeddedPostgres())
    server = await asyncpg.connect(store.url())
    await server.execute(f"CREATE DATABASE {DATABASE}")
    await server.close()
    await create_tables(store.url(DATABASE))
    return store


@asynccontextmanager
async def open_world(plan: Plan, folder: Path) -> AsyncIterator[World]:
    """Start all of it; the daemons are ready when this returns."""
    async with AsyncExitStack() as stack:
        postgres = await _start_database(stack)
        single = pair = sentinel = None
        if plan.redis == "single":
            single = await stack.enter_async_context(EmbeddedValkey(appendonly=True))
            redis_url = single.url
        elif plan.redis == "pair":
            pair = await stack.enter_async_context(lagging_pair())
            redis_url = pair.primary.url
        else:
            sentinel = await stack.enter_async_context(sentinel_group())
            redis_url = sentinel.primary.url
        provider = FakeResend(rate=PROVIDER_RATE, journal=folder / "accepted.jsonl")
        await provider.start()
        stack.push_async_callback(provider.stop)
        provider.latency_s = PROVIDER_LATENCY_S
        keys = Keys(f"chaos-{plan.seed}")
        producer = Producer(redis_url, keys, plan.rate, Random(f"load {plan.seed}"))
        stack.push_async_callback(producer.close)
        scheduled = scheduled_load(round(plan.seconds * USERS_PER_S), datetime.now(UTC), plan.seconds)
        world = World(plan, folder, keys, provider, postgres, redis_url, producer, scheduled, single, pair, sentinel)
        await insert_users(world.database_url, scheduled)
        for number in range(plan.daemons):
            await _add_host(world, number, stack)
        await asyncio.gather(*(host.daemon.ready(within_s=READY_WITHIN_S) for host in world.hosts))
        if plan.bull:
            world.bull = BullWorker(pair.url if pair is not None else redis_url, keys)
            stack.push_async_callback(world.bull.kill)
            await world.bull.start()
        yield world


async def _add_host(world: World, number: int, stack: AsyncExitStack) -> None:
    """Start a daemon behind its own proxies."""
    postgres_folder = world.postgres.url().partition("host=")[2]
    database = await stack.enter_async_context(FaultProxy(postgres_folder, 5432))
    settings = {
        **SETTINGS,
        **world.scheduled.settings,
        "RESEND_API_URL": world.provider.url,
        "RESEND_API_KEY": world.provider.api_key,
        "FLOWSTATE_QUEUE_PREFIX": world.keys.prefix,
        "DATABASE_URL": f"postgresql://postgres@{LOOPBACK}:{database.port}/{DATABASE}",
        "CLOCK_OFFSET_FILE": str(world.folder / f"clock-{number}"),
    }
    redis = None
    if world.sentinel is not None:
        settings["FLOWSTATE_REDIS_SENTINELS"] = f"{LOOPBACK}:{world.sentinel.sentinel.port}"
    else:
        address = world.pair.url if world.pair is not None else world.redis_url
        redis = await stack.enter_async_context(FaultProxy(LOOPBACK, urlsplit(address).port or 0))
        settings["REDIS_URL"] = f"redis://{LOOPBACK}:{redis.port}"
    clock = world.folder / f"clock-{number}"
    set_clock(clock, 0.0)
    log = LogPipe(world.folder / f"daemon-pipe-{number}.log") if number % 2 else None
    daemon = Daemon(
        settings,
        world.folder,
        instance=f"chaos-{number}",
        module="tests.support.jumping_daemon",
        stderr=None if log is None else log.writer,
    )
    host = Host(number, daemon, clock, log)
    host.redis, host.database = redis, database
    world.hosts.append(host)
    if log is not None:
        stack.callback(log.close)
    stack.push_async_callback(daemon.kill)
    await daemon.start()


async def stop_all(world: World, within_s: float) -> list[int | None]:
    """SIGTERM to each daemon; its exit code, None if it did not end in time."""
    codes: list[int | None] = []
    for host in world.hosts:
        if host.pid is None:
            continue
        host.expected_end = True
        host.daemon.send(signal.SIGTERM)
        try:
            codes.append(await host.daemon.ended(within_s=within_s))
        except TimeoutError:
            codes.append(None)
    return codes


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
