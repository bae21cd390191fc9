"""Base classes of all services: `name`, `run()`, `run_once()`, `stop()`.

A subclass implements `run_once()`, one pass of its loop. The base class records the heartbeat and waits with capped
backoff after StoreUnavailableError; any other error ends the process, which the supervisor restarts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import structlog

from flowstate_daemon.base.backoff import Backoff
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.health import HealthRegistry, Heartbeat
from flowstate_daemon.base.metrics import Metrics

if TYPE_CHECKING:  # it needs packages of the extra `otel`
    from flowstate_daemon.base.tracing import Tracing


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """What every service needs: health, metrics and clock of this daemon. `tracing` is None unless it is enabled."""

    health: HealthRegistry
    metrics: Metrics
    clock: Clock
    tracing: Tracing | None = None


log = structlog.get_logger()

T = TypeVar("T")

MIN_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
HEARTBEAT_TIMEOUT_S = 10.0
CANCEL_RETRY_S = 0.1


class Service:
    """One loop of the daemon. After `stop()`, `run()` returns at the end of the current pass."""

    name: ClassVar[str]

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat = heartbeat
        heartbeat.idle()  # a service that has not started, because the daemon waits for a store, is not stuck
        self._backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        self._stopping = asyncio.Event()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        self._stopping.set()

    async def run_once(self) -> None:
        """One pass: wait for work for a bounded time, and do it. Raises StoreUnavailableError."""
        raise NotImplementedError

    async def _step(self) -> None:
        await self.run_once()

    async def run(self) -> None:
        self.heartbeat.beat()  # from here on, a missing heartbeat counts as stuck
        while not self.stopping:
            try:
                await self._step()
            except StoreUnavailableError as outage:
                await self._back_off(outage)
            else:
                self.progress()
        # Other services may drain for longer than a heartbeat stays fresh: a service that has ended is not stuck.
        self.heartbeat.idle()

    def progress(self) -> None:
        """Record progress. Called after each pass, and by a pass itself before it waits for long."""
        if self._backoff.delay_s:
            log.info("store_recovered", service=self.name)
            self._backoff.reset()
        self.heartbeat.beat()

    async def _back_off(self, outage: StoreUnavailableError) -> None:
        if not self._backoff.delay_s:  # one warning per outage, not one per try
            log.warning("store_unavailable", service=self.name, reason=outage.reason)
        self.heartbeat.report_error(outage.reason)
        await self.sleep(self._backoff.next_s())

    async def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until `stop()`."""
        if seconds > 0:
            await self.wait(seconds, self._stopping.wait())

    async def wait(self, seconds: float, awaitable: Awaitable[object]) -> None:
        """Await something for at most `seconds`; a timeout is not an error."""
        try:
            async with asyncio.timeout(seconds):
                await awaitable
        except TimeoutError:
            return

    async def run_until_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await `work`, which must be safe to cancel; None when `stop()` came first."""
        return await run_until(self._stopping, work)


async def run_until(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Await `work`, which must be safe to cancel; None when `stopping` was set first."""
    task = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        stop.cancel()
        await cancel(task)


async def cancel(task: asyncio.Future[Any]) -> None:
    """Cancel a task until it is done.

    Once is not enough: `wait_for` in Python 3.11 loses a cancellation that arrives while its inner task ends, and
    redis-py runs every command inside `wait_for`.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=CANCEL_RETRY_S)


class PeriodicService(Service):
    """A service whose `run_once()` runs every `every_s` seconds; the heartbeat stays fresh in between."""

    def __init__(self, heartbeat: Heartbeat, clock: Clock, *, every_s: float, first_s: float | None = None) -> None:
        """`first_s` is the delay before the first run; the default is `every_s`."""
        super().__init__(heartbeat)
        self._clock = clock
        self._every_s = every_s
        self._next_at = clock.monotonic() + (every_s if first_s is None else first_s)

    async def run_once(self) -> None:
        """The periodic work. After StoreUnavailableError it runs again as soon as the backoff allows."""
        raise NotImplementedError

    async def _step(self) -> None:
        await self.sleep(min(HEARTBEAT_TIMEOUT_S, self._next_at - self._clock.monotonic()))
        if self._clock.monotonic() >= self._next_at and not self.stopping:
            await self.run_once()
            self._next_at = self._clock.monotonic() + self._every_s
