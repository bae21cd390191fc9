"""A server process: started with a parent-death signal, awaited until it responds, stopped or killed.

Its output goes to a log file. When it does not start, the error contains the last lines of that file.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from signal import Signals

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.dev import parent_death

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
PROBE_INTERVAL_S = 0.02
TAIL_LINES = 8


class ManagedProcess:
    """A server process. `last_signal` asks it to shut down; it also gets this signal when we die."""

    def __init__(self, name: str, folder: Path, *, last_signal: Signals, owner: str = "") -> None:
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self._last_signal = last_signal
        self._owner = owner
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id while the server is running."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    def argv(self, command: Sequence[str]) -> list[str]:
        """The command, wrapped in `parent_death.py`."""
        options = [str(self._last_signal.value), str(os.getpid()), self._owner]
        return [sys.executable, "-I", "-S", parent_death.__file__, *options, *command]

    async def start(self, command: Sequence[str], responds: Callable[[], Awaitable[bool]]) -> None:
        """Start, and wait until the server responds. Raises StoreUnavailableError with the end of its log."""
        if self.pid is not None:
            raise StoreUnavailableError(f"{self.name} is already running")
        self._process = await self._spawn(command)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await responds():
                    if self.pid is None:
                        raise StoreUnavailableError(
                            f"{self.name} did not start; its log ends with:\n{self.output_tail()}"
                        )
                    await asyncio.sleep(PROBE_INTERVAL_S)
        except TimeoutError:
            raise StoreUnavailableError(
                f"{self.name} did not respond within {START_TIMEOUT_S:g} s; its log: {self.log}"
            ) from None
        finally:
            if sys.exc_info()[0] is not None:
                await self.kill()

    async def _spawn(self, command: Sequence[str]) -> Process:
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *self.argv(command),
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C must not reach the stores: they stop after the daemon
            )

    async def run_to_completion(self, command: Sequence[str]) -> None:
        """Run a command as the same owner to completion. Raises StoreUnavailableError when it fails."""
        process = await self._spawn(command)
        if await process.wait():
            raise StoreUnavailableError(f"{Path(command[0]).name} failed; its log ends with:\n{self.output_tail()}")

    async def stop(self) -> None:
        """End in order; a server that does not within its time is killed. Does nothing when none runs."""
        if self._process is None or self.pid is None:
            return
        self._process.send_signal(self._last_signal)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """Kill the server and its children with SIGKILL."""
        if self._process is None or self.pid is None:
            return
        children = children_of(self.pid)
        self._process.kill()
        await self._process.wait()
        # PostgreSQL refuses to start while children of the previous process still use the folder.
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, Signals.SIGKILL)
        async with asyncio.timeout(STOP_TIMEOUT_S):
            while any(map(is_running, children)):  # noqa: ASYNC110 - no notification exists for the end of another process' child
                await asyncio.sleep(PROBE_INTERVAL_S)

    def output_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


def children_of(pid: int) -> list[int]:
    """The child processes of a process; empty where /proc does not list them."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_running(pid: int) -> bool:
    """Whether a process is running; a zombie is not."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
