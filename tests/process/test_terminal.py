"""Programs on a terminal: Ctrl-C in `dev` at any moment, the drain of `run`, and colours."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest

from flowstate_daemon.dev.embedded import free_port
from tests.support.waiting import eventually

STOP_S = 20.0  # of a busy machine; the samples alone are waited for longer


class TerminalProgram:
    """A command whose standard error is a terminal."""

    def __init__(self, *arguments: str, environment: Mapping[str, str], cwd: Path) -> None:
        self._command = (sys.executable, "-m", "flowstate_daemon", *arguments)
        self._environment = {"PATH": os.environ["PATH"], **environment}
        self._cwd = cwd
        self._output = bytearray()

    async def __aenter__(self) -> Self:
        self._terminal, other_end = os.openpty()
        self.process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            cwd=self._cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=other_end,
            stderr=other_end,
        )
        os.close(other_end)
        os.set_blocking(self._terminal, False)
        asyncio.get_running_loop().add_reader(self._terminal, self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._terminal)
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        os.close(self._terminal)

    def _read(self) -> None:
        try:
            self._output += os.read(self._terminal, 65536)
        except OSError:  # the program has ended
            asyncio.get_running_loop().remove_reader(self._terminal)

    def text(self) -> str:
        return self._output.decode(errors="replace")

    async def shows(self, text: str, *, within_s: float = 60.0) -> None:
        await eventually(lambda: text in self.text(), f"{text!r} on the terminal", within_s=within_s)

    async def interrupt(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal, and wait until the program has ended; returns the exit code."""
        self.process.send_signal(number)
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()


DEV = {"FLOWSTATE_HTTP_PORT": "0"}
# In shadow mode the samples are never sent, so that the command waits for them until the signal comes.
WAITING_DEV = {**DEV, "FLOWSTATE_QUEUE_MODE": "shadow"}


@pytest.mark.parametrize(
    ("options", "number"), [((), signal.SIGINT), ((), signal.SIGTERM), (("--once", "--json"), signal.SIGINT)]
)
async def test_signal_while_samples_go_out_ends_dev(
    tmp_path: Path, options: tuple[str, ...], number: signal.Signals
) -> None:
    """It ends within seconds, without a traceback and without the text of a bug; nothing is printed as a result."""
    folder = str(tmp_path / "dev")
    async with TerminalProgram("dev", *options, "--folder", folder, environment=WAITING_DEV, cwd=tmp_path) as dev:
        log = tmp_path / "dev" / "valkey" / "valkey.log"
        await eventually(log.exists, "the store has started", within_s=60)
        await eventually(lambda: samples_wait(tmp_path / "dev"), "the samples are in the queue", within_s=60)
        assert await dev.interrupt(number) == 130
        for word in ("Traceback", "bug", "One email of each kind", '"mails"'):
            assert word not in dev.text(), dev.text()


def samples_wait(folder: Path) -> bool:
    """Whether the samples are in the queue: Valkey's append-only file contains them."""
    return any(b"project-invitation" in file.read_bytes() for file in folder.glob("valkey/appendonlydir/*.aof"))


async def test_ctrl_c_while_the_stores_start_ends_dev(tmp_path: Path) -> None:
    """Also before the daemon handles signals."""
    async with TerminalProgram("dev", "--folder", str(tmp_path / "dev"), environment=WAITING_DEV, cwd=tmp_path) as dev:
        await eventually((tmp_path / "dev" / "lock").exists, "the folder is locked", within_s=60)
        assert await dev.interrupt() == 130
        assert "Traceback" not in dev.text()


async def test_ctrl_c_ends_dev_when_it_is_ready(tmp_path: Path) -> None:
    """As before: 0, because nothing failed."""
    async with TerminalProgram("dev", "--folder", str(tmp_path / "dev"), environment=DEV, cwd=tmp_path) as dev:
        await dev.shows("stop    Ctrl-C", within_s=100)
        assert await dev.interrupt() == 0
        assert "Traceback" not in dev.text()


@pytest.mark.parametrize(
    ("environment", "colours"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm-256color", "NO_COLOR": "1", "FLOWSTATE_LOG_COLORS": "true"}, True),
        ({"TERM": "xterm-256color", "FLOWSTATE_LOG_COLORS": "false"}, False),
    ],
    ids=lambda value: " ".join(f"{name}={text}" for name, text in value.items()) if isinstance(value, dict) else "",
)
async def test_run_has_colours_only_where_they_are_wanted(
    tmp_path: Path, environment: dict[str, str], colours: bool
) -> None:
    """NO_COLOR and TERM=dumb apply to the log of `run`, also after a reload; a setting wins over both."""
    config = tmp_path / "flowstate-daemon.toml"
    config.write_text('[log]\nformat = "console"\ncolors = true\n')
    settings = {
        "FLOWSTATE_CONFIG": str(config),
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}",
        "RESEND_FROM_EMAIL": "hello@flowstate.dev",
        "RESEND_API_KEY": "re_test_key",
        "FLOWSTATE_HTTP_PORT": "0",
        **environment,
    }
    async with TerminalProgram("run", environment=settings, cwd=tmp_path) as run:
        await run.shows("store_unavailable")
        config.write_text('[log]\nformat = "console"\nlevel = "debug"\n')
        run.process.send_signal(signal.SIGHUP)
        await run.shows("reloaded")
        assert await run.interrupt() == 0
        assert ("\x1b[" in run.text().partition("reloaded")[2]) is colours
        assert ("\x1b[" in run.text()) is colours
