"""The daemon as a child process: started from its console script, watched through its own windows, killed at will."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from flowstate_daemon.dev.embedded import free_port

PATIENCE_S = 20.0
TICK_S = 0.01
# What systemd does between fork and exec: the socket becomes descriptor 3, and the process learns that it is meant.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, *, within_s: float = PATIENCE_S) -> None:
    """Wait until the condition holds. Fails with `what` when it does not come true in time."""
    try:
        async with asyncio.timeout(within_s):
            while not await condition():
                await asyncio.sleep(TICK_S)
    except TimeoutError:
        raise AssertionError(f"not within {within_s} s: {what}") from None


class Daemon:
    """One `flowstate-daemon run`, with a configuration made of environment variables only."""

    def __init__(
        self,
        environment: Mapping[str, str],
        folder: Path,
        *,
        instance: str = "test",
        module: str = "flowstate_daemon",
        handed_over: socket.socket | None = None,
    ) -> None:
        """`module` is what is run instead, `handed_over` a listening socket as a socket unit hands it over."""
        self.port = free_port()
        self.folder = folder
        self._environment = {
            "PATH": os.environ["PATH"],
            "RESEND_FROM_EMAIL": "FlowState <hello@flowstate.example>",
            "FLOWSTATE_HTTP_PORT": str(self.port),
            "FLOWSTATE_QUEUE_INSTANCE_ID": instance,
            "FLOWSTATE_LOG_FORMAT": "json",
            **environment,
        }
        self._command = [sys.executable, "-m", module, "run"]
        self._handed_over = handed_over
        if handed_over is not None:
            self._command = [sys.executable, "-c", HAND_OVER, str(handed_over.fileno()), *self._command]
        self.process: asyncio.subprocess.Process | None = None
        self._log = folder / f"daemon-{instance}-{self.port}.log"

    async def start(self) -> None:
        """Start the process; does not wait until it is ready."""
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=() if self._handed_over is None else (self._handed_over.fileno(),),
            )

    async def ready(self, *, within_s: float = PATIENCE_S) -> None:
        """Wait until `/health/ready` says 200."""

        async def is_ready() -> bool:
            assert self.process is not None
            assert self.process.returncode is None, f"the daemon ended: {self.log_text()}"
            return (await self.look("/health/ready"))[0] == 200

        try:
            await eventually(is_ready, "ready", within_s=within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_text()}") from None

    async def look(self, path: str, *, within_s: float = 5.0) -> tuple[int, str]:
        """Status and body of a page; status 0 while nobody answers."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within_s)) as session,
                session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
            ):
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, ""

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def ended(self, *, within_s: float = PATIENCE_S) -> int:
        """The exit code, once the process has ended by itself."""
        assert self.process is not None
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    async def kill(self) -> None:
        """kill -9, and wait until the kernel has buried it."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def log_text(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's events of that name, parsed."""
        lines = (line for line in self.log_text().splitlines() if line.startswith("{"))
        return [event for event in map(json.loads, lines) if event.get("event") == name]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()
