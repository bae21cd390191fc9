"""A daemon in this process that crashes at a chosen step between two operations of the send path, as by kill -9.

After the crash nothing that it does has an effect: calls hang, and its tasks are cancelled. At other steps it may
run an action, while its other tasks continue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon.daemon import Daemon
from flowstate_daemon.database.request_records import JobRef
from flowstate_daemon.delivery.gateway import SendResult
from flowstate_daemon.redis_client.scripts import load_scripts
from tests.support.waiting import eventually

T = TypeVar("T")

STOP_WITHIN_S = 15.0
SEND_PATH = ("request_save", "request_adopt", "request_save_response", "request_detach", "complete", "fail", "retry")
NAMES = {load_scripts()[name].sha: name for name in SEND_PATH}


class CrashingDaemon:
    """A daemon that crashes after `steps`; None: never. `trail` lists the operations before the crash.

    `actions` are run after that many steps.
    """

    def __init__(
        self,
        settings: Mapping[str, str],
        steps: int | None = None,
        clock: Clock | None = None,
        *,
        actions: Mapping[int, Callable[[], Awaitable[None]]] | None = None,
    ) -> None:
        self.daemon = Daemon(load(settings), clock)
        self.trail: list[str] = []
        self._steps = steps
        self._actions = dict(actions or {})
        self._crashed = asyncio.Event()
        self._call = self.daemon.components.connection.execute
        self._send = self.daemon.components.gateway.send
        self.daemon.components.connection.execute = self._crashing_call  # type: ignore[method-assign]
        self.daemon.components.gateway.send = self._crashing_send  # type: ignore[method-assign]
        records = self.daemon.components.dispatcher.records
        if records is not None:
            self._record = records.record
            records.record = self._crashing_record  # type: ignore[method-assign]

    @property
    def crashed(self) -> bool:
        return self._crashed.is_set()

    async def run_until(self, until: Callable[[], Awaitable[bool]], *, within_s: float = 20) -> None:
        """Run until the crash, and stop without a shutdown; or until `until` is true, and shut down."""
        running = asyncio.create_task(self.daemon.run())

        async def ended() -> bool:
            assert not running.done(), running
            return self.crashed or await until()

        try:
            await eventually(ended, "all done", within_s=within_s)
            if not self.crashed:
                self.daemon.components.worker.stop()
                stopped, _ = await asyncio.wait((running,), timeout=STOP_WITHIN_S)
                assert stopped, "the daemon did not stop"
        finally:
            self._crashed.set()
            # More than once: `wait_for` in Python 3.11 may swallow a cancellation.
            async with asyncio.timeout(10):
                while not running.done():
                    running.cancel()
                    await asyncio.wait((running,), timeout=0.1)
            assert running.cancelled() or running.exception() is None

    async def _crashing_call(self, *command: Any) -> Any:
        name = NAMES.get(command[1]) if command[0] == "EVALSHA" else None
        if name is None:
            return await self._unless_crashed(self._call(*command))
        return await self._operation(name, self._call(*command))

    async def _crashing_send(self, path: str, body: bytes, key: str, mails: int) -> SendResult:
        return await self._operation(f"POST {path}", self._send(path, body, key, mails))

    async def _crashing_record(self, *args: Any, **kwargs: Any) -> set[JobRef]:
        return await self._operation("record in Postgres", self._record(*args, **kwargs))

    async def _operation(self, name: str, operation: Awaitable[T]) -> T:
        """One operation, with a step before it and one after it."""
        await self._step(f"before {name}")
        try:
            result = await self._unless_crashed(operation)
        except Exception:
            await self._after(name)
            raise
        await self._after(name)
        return result

    async def _after(self, name: str) -> None:
        await self._step(f"after {name}")
        if self.crashed:
            await asyncio.Event().wait()

    async def _step(self, name: str) -> None:
        if self.crashed:
            return
        if self._steps is not None and len(self.trail) >= self._steps:
            self._crashed.set()
            return
        self.trail.append(name)
        if action := self._actions.pop(len(self.trail), None):
            await action()

    async def _unless_crashed(self, operation: Awaitable[T]) -> T:
        task = asyncio.ensure_future(operation) if not self.crashed else None
        if task is None:
            operation.close()  # type: ignore[attr-defined]
            await asyncio.Event().wait()
            raise AssertionError
        return await task
