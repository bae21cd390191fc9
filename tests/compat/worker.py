"""The Python worker under test: the daemon's worker with scripted handlers instead of emails.

It runs in the test's process, or as a child process (`python -m tests.compat.worker`) when a test kills it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import uuid4

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import RetryableError
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.mail.kinds import KINDS, parse_request
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import QueueEvents
from flowstate_daemon.queue.lease import Lease, connection_name
from flowstate_daemon.queue.repeat import RepeatableJobs
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.worker.in_flight import JobRun
from flowstate_daemon.worker.worker import Worker, WorkerOptions

STOP_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Call:
    """The argument of a handler: the parsed data, and methods to report progress and to log."""

    bull: BullQueue
    run: JobRun
    data: Any

    async def report(self, value: Any) -> None:
        await self.bull.progress(self.run.job.id, value)

    async def log(self, row: str) -> None:
        await self.bull.log(self.run.job.id, row)


ScriptedHandler: TypeAlias = Callable[[Call], Awaitable[Any]]


async def echo(call: Call) -> Any:
    """Return the job's data, after `ms`."""
    await asyncio.sleep(call.data.get("ms", 0) / 1000)
    return call.data


async def throw(call: Call) -> Any:
    """Fail with `message`, if there is one, as an ordinary failed attempt."""
    if "message" in call.data:
        raise RetryableError(call.data["message"])
    return call.data


async def report(call: Call) -> Any:
    """Report progress 50 and two log rows, then do the same as `throw`."""
    await call.report(50)
    await call.log("half of it")
    await call.log("nearly there")
    return await throw(call)


HANDLERS: dict[str, ScriptedHandler] = {
    "echo": echo,
    "throw": throw,
    "report": report,
    **dict.fromkeys(KINDS, echo),
}


class WorkerHarness:
    """One worker on one queue, built as the daemon builds it."""

    def __init__(self, url: str, keys: Keys, options: WorkerOptions) -> None:
        clock = Clock()
        instance = f"w{uuid4().hex[:8]}"
        token = f"{instance}/{uuid4().hex}"
        self._connection = Connection(url, client_name=connection_name(keys, token), block_timeout_s=5.0)
        repeats = RepeatableJobs(self._connection, keys, clock, token=token)
        self._bull = BullQueue(
            self._connection, keys, clock, token=token, lock_duration_ms=options.lock_duration_ms, repeats=repeats
        )
        self._lease = Lease(self._connection, keys, instance_id=instance, token=token)
        context = ServiceContext(HealthRegistry(clock), Metrics(HANDLERS), clock)
        self.token = token
        self.worker = Worker(
            self._bull,
            QueueEvents(self._connection, keys),
            self._lease,
            self._handle,
            SendGate(context.health, context.metrics, clock),
            options,
            context,
        )
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._connection.open()
        await self._lease.acquire()
        self._running = asyncio.create_task(self.worker.run(), name="worker")

    async def ended(self) -> None:
        """Wait until the worker has stopped; raises its error."""
        if self._running is None:
            return
        running, self._running = self._running, None
        await running
        await self._lease.release()
        await self._connection.close()

    async def stop(self) -> None:
        self.worker.stop()
        async with asyncio.timeout(STOP_WITHIN_S):
            await self.ended()

    async def _handle(self, run: JobRun) -> Any:
        handler = HANDLERS.get(run.job.name)
        if handler is None:
            parse_request(run.job.name, run.job.data)  # raises the product's error for an unknown name
            raise AssertionError(f"{run.job.name} is a kind of email without a scripted handler")
        return await handler(Call(self._bull, run, run.job.payload()))


StartWorker: TypeAlias = Callable[..., Awaitable[WorkerHarness]]
StartChild: TypeAlias = Callable[..., Awaitable[Process]]


async def start_child(url: str, keys: Keys, options: WorkerOptions) -> Process:
    """Start the worker in its own process, which the test can kill."""
    numbers = (options.concurrency, options.lock_duration_ms, options.stalled_interval_ms, options.shutdown_timeout_s)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.compat.worker", url, keys.prefix, keys.name, *map(str, numbers),
        stdout=DEVNULL,
    )  # fmt: skip


async def main() -> None:
    """The child process: work until SIGTERM."""
    parser = argparse.ArgumentParser()
    for name in ("url", "prefix", "name"):
        parser.add_argument(name)
    for name in ("concurrency", "lock_duration_ms", "stalled_interval_ms"):
        parser.add_argument(name, type=int)
    parser.add_argument("shutdown_timeout_s", type=float)
    given = vars(parser.parse_args())
    url, keys = given.pop("url"), Keys(given.pop("prefix"), given.pop("name"))
    worker = WorkerHarness(url, keys, WorkerOptions(**given))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.worker.stop)
    await worker.start()
    await worker.ended()


if __name__ == "__main__":
    asyncio.run(main())
