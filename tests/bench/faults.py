"""The faults of `fault_runs`: each starts its stores, says how daemons reach them, and is injected again and again."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import ClassVar

import asyncpg

from flowstate_daemon.dev.embedded import LOOPBACK, EmbeddedPostgres, EmbeddedValkey
from flowstate_daemon.dev.seed import create_tables
from flowstate_daemon.redis_client.keys import Keys
from tests.bench.fault_load import Producer
from tests.support.jumping_daemon import set_clock
from tests.support.proxy import FaultProxy
from tests.support.redis_topologies import LaggingPair, lagging_pair

DATABASE = "flowstate"
FORGET_WITHIN_S = 2.0
KEPT_FORGOTTEN = 3  # rounds after which the server, too, loses connections that were dropped silently
CHUNK = 64 * 1024
PIPE_BYTES = 4096


@dataclass
class Launch:
    """How a daemon is started under a fault."""

    module: str = "flowstate_daemon"
    stderr: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


class Fault:
    """No fault at all, and the base of the others: one Redis and one Postgres, each behind a proxy."""

    name: ClassVar[str] = "none"
    text: ClassVar[str] = "nothing happens, for comparison"
    interval_s: ClassVar[float] = 5.0
    postgres: ClassVar[bool] = True

    def __init__(self, random: Random, folder: Path, keys: Keys) -> None:
        self.random = random
        self.folder = folder
        self.keys = keys
        self.count = 0
        self.producer_url = ""
        self.database_url: str | None = None
        self.settings: dict[str, str] = {}

    async def start(self, stack: AsyncExitStack) -> None:
        """Start the stores; they end with the stack."""
        await self.start_redis(stack)
        if self.postgres:
            store = await stack.enter_async_context(EmbeddedPostgres())
            server = await asyncpg.connect(store.url())
            await server.execute(f"CREATE DATABASE {DATABASE}")
            await server.close()
            self.database_url = store.url(DATABASE)
            await create_tables(self.database_url)
            self.database = await stack.enter_async_context(FaultProxy(store.url().partition("host=")[2], 5432))
            self.settings["DATABASE_URL"] = f"postgresql://postgres@{LOOPBACK}:{self.database.port}/{DATABASE}"

    async def start_redis(self, stack: AsyncExitStack) -> None:
        store = await stack.enter_async_context(EmbeddedValkey())
        self.redis = await stack.enter_async_context(FaultProxy(LOOPBACK, store.port))
        self.producer_url = store.url
        self.settings["REDIS_URL"] = f"redis://{LOOPBACK}:{self.redis.port}"

    def launch(self, _instance: str) -> Launch:
        return Launch()

    async def inject(self, producer: Producer) -> None:
        """Cause the fault once."""

    async def heal(self) -> None:
        """End what is still broken."""


class Resets(Fault):
    name = "resets"
    text = "all connections to Redis are reset"
    interval_s = 4.0

    async def inject(self, _producer: Producer) -> None:
        self.redis.cut()
        self.count += 1


class Failovers(Fault):
    name = "failovers"
    text = "a replica that lacks the last second of writes replaces Redis"
    interval_s = 20.0
    lag_s: ClassVar[float] = 1.0
    _pair: LaggingPair

    async def start_redis(self, stack: AsyncExitStack) -> None:
        self._pair = await stack.enter_async_context(lagging_pair())
        self.producer_url = self._pair.primary.url
        self.settings["REDIS_URL"] = self._pair.url

    async def inject(self, producer: Producer) -> None:
        self._pair.hold_up()
        await asyncio.sleep(self.lag_s)
        async with producer.lock:
            last_id = int(await self._pair.replica.client.get(self.keys("id")) or 0)
            survivor = self._pair.replica.url
            await self._pair.fail_over()
            await producer.redis_replaced(survivor, last_id)
            self.producer_url = survivor
        await self._pair.swap()
        self.count += 1


class FailoversWithoutPostgres(Failovers):
    name = "failovers-without-postgres"
    text = "the same, without Postgres"
    postgres = False


class HalfOpen(Fault):
    name = "half-open"
    text = "open connections to Redis, every third time those to Postgres too, drop all packets silently"
    interval_s = 15.0

    async def inject(self, _producer: Producer) -> None:
        for proxy in (self.redis, self.database) if self.count % 3 == 2 else (self.redis,):
            with contextlib.suppress(TimeoutError, OSError):  # a connection that is just being closed
                async with asyncio.timeout(FORGET_WITHIN_S):
                    await proxy.forget()
            proxy.end_forgotten(rounds=KEPT_FORGOTTEN)
        self.count += 1


class ClockJumps(Fault):
    name = "clock-jumps"
    text = "the clock of a daemon's machine jumps by up to three days, and back"
    interval_s = 15.0
    jumps_s: ClassVar[tuple[float, ...]] = (660, -660, 3600, -3600, 45, -45, 3 * 86_400.0, -3 * 86_400.0)

    def _file(self, instance: str) -> Path:
        return self.folder / f"clock-{instance}"

    def launch(self, instance: str) -> Launch:
        set_clock(self._file(instance), 0.0)
        return Launch("tests.support.jumping_daemon", settings={"CLOCK_OFFSET_FILE": str(self._file(instance))})

    async def inject(self, _producer: Producer) -> None:
        files = sorted(self.folder.glob("clock-*"))
        if self.count % 2:
            await self.heal()
        else:
            for file in self.random.sample(files, self.random.randint(1, len(files))):
                set_clock(file, self.random.choice(self.jumps_s))
        self.count += 1

    async def heal(self) -> None:
        for file in self.folder.glob("clock-*"):
            set_clock(file, 0.0)


class StoppedLogReader(Fault):
    name = "stopped-log-reader"
    text = "the reader of the log stops until lines are dropped, reads for 10 seconds, and stops again"
    interval_s = 150.0
    reads_s: ClassVar[float] = 10.0

    def __init__(self, random: Random, folder: Path, keys: Keys) -> None:
        super().__init__(random, folder, keys)
        self._readers: list[int] = []
        self._writers: list[int] = []

    def launch(self, _instance: str) -> Launch:
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(reader, False)
        self._readers.append(reader)
        self._writers.append(writer)
        return Launch(stderr=writer, settings={"FLOWSTATE_LOG_LEVEL": "debug"})

    async def inject(self, _producer: Producer) -> None:
        await self.heal()
        await asyncio.sleep(self.reads_s)
        for reader in self._readers:
            asyncio.get_running_loop().remove_reader(reader)
        self.count += 1

    async def heal(self) -> None:
        for reader in self._readers:
            asyncio.get_running_loop().add_reader(reader, _read_some, reader)


def _read_some(reader: int) -> None:
    with contextlib.suppress(BlockingIOError):
        if not os.read(reader, CHUNK):
            asyncio.get_running_loop().remove_reader(reader)


FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (Resets, Failovers, FailoversWithoutPostgres, HalfOpen, ClockJumps, StoppedLogReader, Fault)
}
