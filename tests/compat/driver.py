"""The Python side of driver.mjs: one node process with npm bull, which executes commands sent over a pipe.

Every command has a timeout. An uncaught error in node fails the current command and all later ones.
"""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from tests.support.waiting import WITHIN_S, eventually

HERE = Path(__file__).parent
MAX_LINE = 2**26
RECEIVED = (
    "waiting", "active", "completed", "failed", "stalled", "progress",
    "drained", "paused", "resumed", "duplicated", "debounced",
)  # fmt: skip


class NodeError(Exception):
    """An error thrown in node, with its message."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event of npm bull. `at` is node's wall time in ms."""

    name: str
    at: int
    args: list[Any]

    @property
    def job_id(self) -> str:
        """The id of the job, for events of one job."""
        return str(self.args[0])


class Driver:
    """The node process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._numbers = count(1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._queues: dict[str, NodeQueue] = {}
        self._reader = asyncio.create_task(self._read(), name="node driver")
        self.fatal: str | None = None

    @classmethod
    async def start(cls) -> Driver:
        return cls(
            await asyncio.create_subprocess_exec(
                "node", "driver.mjs", cwd=HERE, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=MAX_LINE
            )
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def open(self, redis: str, prefix: str, name: str = "email", **options: Any) -> NodeQueue:
        """A `Queue` of npm bull; `options` are its third argument. All its global events are collected."""
        handle = f"q{next(self._numbers)}"
        queue = self._queues[handle] = NodeQueue(self, handle)
        await self.ask("open", queue=handle, name=name, redis=redis, options={"prefix": prefix, **options})
        await self.ask("listen", queue=handle, events=[f"global:{event}" for event in RECEIVED])
        return queue

    async def ask(self, command: str, *, within_s: float = WITHIN_S, **fields: Any) -> Any:
        """Send one command and return its value. Raises NodeError."""
        if self.fatal:
            raise NodeError(self.fatal)
        number = next(self._numbers)
        future = self._pending[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        line = json.dumps({"id": number, "command": command, **fields})
        self._process.stdin.write(f"{line}\n".encode())
        try:
            async with asyncio.timeout(within_s):
                return await future
        finally:
            del self._pending[number]

    async def close(self) -> None:
        """Close the input of node, which ends its process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(WITHIN_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reader

    async def ended(self) -> int:
        """Wait until the process has ended."""
        return await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._receive(json.loads(line))
        self._fail(self.fatal or "node has ended")

    def _receive(self, message: dict[str, Any]) -> None:
        if "event" in message:
            queue = self._queues.get(message["queue"])
            if queue is not None:
                queue.events.append(Event(message["event"].removeprefix("global:"), message["at"], message["args"]))
        elif "fatal" in message:
            self.fatal = message["fatal"]
        elif (future := self._pending.get(message["id"])) is not None and not future.done():
            if "error" in message:
                future.set_exception(NodeError(message["error"]))
            else:
                future.set_result(message["value"])

    def _fail(self, reason: str) -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_exception(NodeError(reason))


@dataclass(slots=True)
class NodeQueue:
    """One `Queue` object in the node process, and the events it has received."""

    driver: Driver
    handle: str
    events: list[Event] = field(default_factory=list)

    async def add(self, name: str, data: Any, **opts: Any) -> str:
        """`queue.add`; returns the job's id."""
        job = await self.call("add", name, data, opts)
        return str(job["id"])

    async def add_bulk(self, jobs: Sequence[dict[str, Any]], *, within_s: float = WITHIN_S) -> list[str]:
        """`queue.addBulk`; returns the ids."""
        added = await self.driver.ask("call", queue=self.handle, method="addBulk", args=[list(jobs)], within_s=within_s)
        return [str(job["id"]) for job in added]

    async def call(self, method: str, *args: Any) -> Any:
        """Any method of `Queue` whose result is JSON."""
        return await self.driver.ask("call", queue=self.handle, method=method, args=args)

    async def job(self, job_id: str, method: str, *args: Any, within_s: float = WITHIN_S) -> Any:
        """Any method of a `Job`: retry, promote, remove, getState, finished…"""
        return await self.driver.ask("job", queue=self.handle, job=job_id, method=method, args=args, within_s=within_s)

    async def process(self, name: str = "*", *, concurrency: int = 1, **behaviour: Any) -> None:
        """Process jobs: kind "return", "echo", "throw" or "die", after `ms`. Each run emits an event."""
        await self.driver.ask("process", queue=self.handle, name=name, concurrency=concurrency, behaviour=behaviour)

    async def board(self, **options: Any) -> str:
        """Start bull-board for this queue; returns its URL. `options` are those of its adapter."""
        return f"http://127.0.0.1:{await self.driver.ask('board', queue=self.handle, options=options)}"

    async def counts(self) -> dict[str, int]:
        return dict(await self.call("getJobCounts"))

    async def state(self, job_id: str) -> str:
        return str(await self.job(job_id, "getState"))

    def received(self, name: str, job_id: str | None = None) -> list[Event]:
        """The events with this name (of this job) so far."""
        return [e for e in self.events if e.name == name and (job_id is None or e.job_id == job_id)]

    async def wait_for_event(
        self, name: str, job_id: str | None = None, *, times: int = 1, within_s: float = WITHIN_S
    ) -> Event:
        """Wait until an event was received `times` times; returns the last of them."""

        async def matching() -> list[Event]:
            return self.received(name, job_id)[times - 1 :]

        return (await eventually(matching, f"event {name}", within_s=within_s))[0]

    async def close(self) -> None:
        await self.driver.ask("close", queue=self.handle)


OpenNode: TypeAlias = Callable[..., Awaitable[NodeQueue]]
