"""Beside `dev`, where nothing is sent on purpose, nothing is reported as wrong."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from pathlib import Path

from tests.process.test_terminal import DEV, TerminalProgram

EXPORT = "export "


def exported(output: str) -> dict[str, str]:
    """The variables that `dev` prints for other shells."""
    (line,) = [line for line in output.splitlines() if EXPORT in line]
    return dict(one.split("=", 1) for one in shlex.split(line.partition(EXPORT)[2]))


async def test_dev_and_status_beside_it_report_no_problem(tmp_path: Path) -> None:
    """No risk in the log of `dev`, no warning in its health document, and `status` with what `dev` prints exits 0."""
    async with TerminalProgram(
        "dev", "--no-open", "--folder", str(tmp_path / "dev"), environment={**DEV, "TERM": "dumb"}, cwd=tmp_path
    ) as dev:
        await dev.shows("stop    Ctrl-C")
        assert "risk_found" not in dev.text()
        assert "unset FLOWSTATE_DELIVERY" not in dev.text()
        environment = {"PATH": os.environ["PATH"], **exported(dev.text())}
        command = (sys.executable, "-m", "flowstate_daemon", "status", "--json")
        status = await asyncio.create_subprocess_exec(
            *command, env=environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        out, _ = await status.communicate()
        document = json.loads(out)
        assert (document["problems"], status.returncode) == ([], 0)
        assert (document["daemon"]["delivery"], document["daemon"]["warnings"]) == ("outbox", [])
        await dev.interrupt()
