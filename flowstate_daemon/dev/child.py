"""One server process of ours: started on a leash, waited for until it answers, stopped or killed.

`embedded.py` builds the two stores on it. What the server prints goes to a log file, whose last
lines are part of the error when it does not come up.
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

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.dev import leash

READY_S = 30.0
STOP_S = 15.0
PROBE_PAUSE_S = 0.02
LAST_LINES = 8


class Child:
    """A server process. `last_signal` is what asks it to end in order: by us, or by our death."""

    def __init__(self, name: str, folder: Path, *, last_signal: Signals, owner: str = "") -> None:
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self._last_signal = last_signal
        self._owner = owner
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id while the server runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    def argv(self, command: Sequence[str]) -> list[str]:
        """The command, on its leash."""
        bond = [str(self._last_signal.value), str(os.getpid()), self._owner]
        return [sys.executable, "-I", "-S", leash.__file__, *bond, *command]

    async def start(self, command: Sequence[str], answers: Callable[[], Awaitable[bool]]) -> None:
        """Start and wait until the server answers. Raises Outage with the server's last words."""
        if self.pid is not None:
            raise Outage(f"{self.name} runs already")
        self._process = await self._spawn(command)
        try:
            async with asyncio.timeout(READY_S):
                while not await answers():
                    if self.pid is None:
                        raise Outage(f"{self.name} did not start; its log ends with:\n{self.last_words()}")
                    await asyncio.sleep(PROBE_PAUSE_S)
        except TimeoutError:
            raise Outage(f"{self.name} does not answer after {READY_S:g} s; its log: {self.log}") from None
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
                start_new_session=True,  # Ctrl-C belongs to us: the stores end after those who use them
            )

    async def finish(self, command: Sequence[str]) -> None:
        """Run a command of the same owner to its end. Raises Outage when it fails."""
        process = await self._spawn(command)
        if await process.wait():
            raise Outage(f"{Path(command[0]).name} failed; its log ends with:\n{self.last_words()}")

    async def stop(self) -> None:
        """End in order; a server that does not within its time is killed. Does nothing when none runs."""
        if self._process is None or self.pid is None:
            return
        self._process.send_signal(self._last_signal)
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it and its own children by SIGKILL: no goodbye, no last save."""
        if self._process is None or self.pid is None:
            return
        family = children_of(self.pid)
        self._process.kill()
        await self._process.wait()
        # A server that starts while the children of its last life linger refuses the folder.
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, Signals.SIGKILL)
        async with asyncio.timeout(STOP_S):
            while any(map(runs, family)):  # noqa: ASYNC110 -- nobody tells us of the end of somebody else's child
                await asyncio.sleep(PROBE_PAUSE_S)

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LAST_LINES:])


def children_of(pid: int) -> list[int]:
    """The children of a process, where the kernel tells; none elsewhere."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def runs(pid: int) -> bool:
    """Whether a process runs: one that only waits to be buried does not."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
