"""The daemon as a child process: started with `run`, observed through HTTP and its log, killed at any time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from flowstate_daemon.dev.embedded import free_port
from tests.support.waiting import WITHIN_S, eventually

# What systemd does between fork and exec: the socket becomes descriptor 3, and LISTEN_PID names the process.
PASS_SOCKET = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""

# What a terminal emulator does: a new session, whose controlling terminal is standard input.
TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Daemon:
    """One `flowstate-daemon run`, configured by environment variables only."""

    def __init__(
        self,
        environment: Mapping[str, str],
        folder: Path,
        *,
        instance: str = "test",
        module: str = "flowstate_daemon",
        inherited_socket: socket.socket | None = None,
        stderr: int | None = None,
        closed: Sequence[int] = (),
        terminal: int | None = None,
    ) -> None:
        """`module` is run instead of the daemon; `inherited_socket` is a listening socket, as from a socket unit.

        `stderr` is a descriptor that takes the place of the log file. The descriptors in `closed` are closed at the
        start. `terminal` becomes standard input and the controlling terminal.
        """
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
        self._inherited_socket = inherited_socket
        if inherited_socket is not None:
            self._command = [sys.executable, "-c", PASS_SOCKET, str(inherited_socket.fileno()), *self._command]
        if closed:
            redirections = " ".join(f"{number}>&-" for number in closed)
            self._command = ["sh", "-c", f'exec "$@" {redirections}', "sh", *self._command]
        if terminal is not None:
            self._command = [sys.executable, "-c", TAKE_TERMINAL, *self._command]
        self._stdin = asyncio.subprocess.DEVNULL if terminal is None else terminal
        self._stderr = stderr
        self.process: asyncio.subprocess.Process | None = None
        self._log = folder / f"daemon-{instance}-{self.port}.log"

    async def start(self) -> None:
        """Start the process; does not wait until it is ready."""
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=self._stdin,
                stdout=log,
                stderr=log if self._stderr is None else self._stderr,
                pass_fds=() if self._inherited_socket is None else (self._inherited_socket.fileno(),),
            )

    async def ready(self, *, within_s: float = WITHIN_S) -> None:
        """Wait until `/health/ready` returns 200."""

        async def is_ready() -> bool:
            assert self.process is not None
            assert self.process.returncode is None, f"the daemon ended: {self.log_text()}"
            return (await self.look("/health/ready"))[0] == 200

        try:
            await eventually(is_ready, "ready", within_s=within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_text()}") from None

    async def is_ready(self) -> bool:
        return (await self.look("/health/ready"))[0] == 200

    async def is_not_ready(self) -> bool:
        """Whether the daemon answers that it is not ready; a failed connection is neither."""
        return (await self.look("/health/ready"))[0] == 503

    async def look(self, path: str, *, within_s: float = 5.0) -> tuple[int, str]:
        """Status and body of a page; status 0 when the connection fails."""
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

    async def ended(self, *, within_s: float = WITHIN_S) -> int:
        """Wait until the process has ended by itself; returns the exit code."""
        assert self.process is not None
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    async def kill(self) -> None:
        """Kill the process with SIGKILL and wait until it has ended."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def log_text(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log events with that name, parsed."""
        lines = (line for line in self.log_text().splitlines() if line.startswith("{"))
        return [event for event in map(json.loads, lines) if event.get("event") == name]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()
