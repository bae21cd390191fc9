"""The log of a daemon whose reader has stopped, or whose standard streams were closed at the start."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_faults import seed
from tests.process.test_lifecycle import enqueue
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

STREAMS = (0, 1, 2)
PIPE_BYTES = 4096


def small_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reader, writer


def nonblocking_pipe() -> tuple[int, int]:
    """As a parent process leaves it that uses the same pipe with an event loop."""
    reader, writer = small_pipe()
    os.set_blocking(writer, False)
    return reader, writer


def terminal_after_ctrl_s() -> tuple[int, int]:
    reader, writer = pty.openpty()
    termios.tcflow(writer, termios.TCOOFF)
    return reader, writer


def journal_socket() -> tuple[int, int]:
    reader, writer = socket.socketpair()
    writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIPE_BYTES)
    return reader.detach(), writer.detach()


MakeLog = Callable[[], tuple[int, int]]
LOGS: list[MakeLog] = [small_pipe, nonblocking_pipe, terminal_after_ctrl_s, journal_socket]


async def log_lines_dropped(daemon: Daemon) -> float:
    _, page = await daemon.look("/metrics")
    return next(
        (float(line.split()[1]) for line in page.splitlines() if line.startswith("flowstate_log_lines_dropped_total")),
        0.0,
    )


@pytest.mark.parametrize("make_log", LOGS, ids=lambda make: make.__name__)
async def test_stopped_log_reader_does_not_stop_the_daemon(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, make_log: MakeLog
) -> None:
    """Emails are sent, ready stays green, and SIGTERM ends the process, with more log lines than the reader takes."""
    reader, writer = make_log()
    with ExitStack() as stack:
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        async with make_daemon(stderr=writer) as daemon:
            await daemon.ready()
            await enqueue(connection, keys, 200)
            await eventually(lambda: len(provider.accepted) == 200, "all emails accepted")
            assert await daemon.is_ready()
            daemon.send(signal.SIGTERM)
            assert await daemon.ended(within_s=10) == 0


@pytest.mark.parametrize(
    ("module", "settings", "code"),
    [
        ("tests.support.broken_daemon", {}, 1),
        ("flowstate_daemon", {"FLOWSTATE_QUEUE_CONCURRENCY": "many"}, 78),
    ],
)
async def test_process_that_fails_ends_with_a_stopped_log_reader(
    make_daemon: MakeDaemon, redis: Redis, keys: Keys, module: str, settings: dict[str, str], code: int
) -> None:
    """The error cannot be printed either; the exit code is the same, and the supervisor can restart the daemon."""
    await seed(redis, keys, "1", "welcome", "{}")
    reader, writer = nonblocking_pipe()
    with ExitStack() as stack:
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        os.write(writer, b"x" * PIPE_BYTES)
        os.set_blocking(writer, True)
        async with make_daemon(stderr=writer, module=module, **settings) as daemon:
            assert await daemon.ended(within_s=30) == code


async def test_dropped_lines_are_counted_and_reported(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """The metric shows them while the reader is stopped, and the log when it reads again."""
    reader, writer = small_pipe()
    count = 6_000
    async with make_daemon(stderr=writer, FLOWSTATE_LOG_LEVEL="debug") as daemon:
        os.close(writer)
        await daemon.ready()
        await enqueue(connection, keys, count)
        await eventually(lambda: len(provider.accepted) == count, "all emails accepted", within_s=60)
        await eventually(lambda: log_lines_dropped(daemon), "lines are dropped and counted")
        log = LogReader(reader)
        reading = asyncio.create_task(asyncio.to_thread(log.read))
        later: list[str] = []

        async def line_of_a_later_email_is_read() -> bool:
            """Only then has the reader caught up: until then more lines are dropped."""
            later.extend(await enqueue(connection, keys, 1, first=count + len(later)))
            await eventually(lambda: len(provider.accepted) == count + len(later), "one more email accepted")
            return any(line["event"] == "mail_sent" and line["job_id"] in later for line in log.lines())

        await eventually(line_of_a_later_email_is_read, "the log reader has caught up")
        dropped = await log_lines_dropped(daemon)
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
        await reading
        lines = log.lines()
    reported = [line for line in lines if line["event"] == "log_lines_dropped"]
    assert sum(line["count"] for line in reported) == dropped
    assert all(line["level"] == "error" and line["remedy"] for line in reported)
    sent = [line for line in lines if line["event"] == "mail_sent"]
    assert count - dropped <= len(sent) <= len(provider.accepted)
    assert lines[-1]["event"] == "stopped"


class LogReader:
    """Reads a log until its writer ends; `lines` are the complete lines so far."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._complete: list[str] = []

    def read(self) -> None:
        with os.fdopen(self._descriptor) as stream:
            self._complete.extend(stream)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._complete]


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), STREAMS], ids=str)
async def test_daemon_starts_with_closed_standard_streams(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, closed: tuple[int, ...]
) -> None:
    """It sends, and no file or connection gets the number of a standard stream: a traceback would be written to it."""
    async with make_daemon(closed=closed) as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 1)
        await eventually(lambda: len(provider.accepted) == 1, "one email accepted")
        assert daemon.process is not None
        descriptors = Path(f"/proc/{daemon.process.pid}/fd")
        assert {str((descriptors / str(number)).readlink()) for number in closed} == {os.devnull}
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0


@pytest.mark.parametrize(
    ("arguments", "code"), [(["queue", "status"], 0), (["check", "--config-only", "--json"], 78), (["nonsense"], 64)]
)
@pytest.mark.parametrize(
    "closed", [subset for size in (1, 2, 3) for subset in itertools.combinations(STREAMS, size)], ids=str
)
async def test_command_keeps_its_exit_code_with_closed_standard_streams(
    valkey_url: str, arguments: list[str], code: int, closed: tuple[int, ...]
) -> None:
    """Any combination of closed streams: the code is the same, and what is open shows no traceback."""
    redirections = " ".join(f"{number}>&-" for number in closed)
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "flowstate_daemon", *arguments]
    done = await asyncio.to_thread(
        subprocess.run, command, env={"REDIS_URL": valkey_url, "PATH": os.environ["PATH"]}, capture_output=True
    )
    assert done.returncode == code
    assert b"Traceback" not in done.stdout + done.stderr
