"""Long commands end with a line when they are interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.support.interrupts import INTERRUPTED
from tests.support.source_strings import ROOT

SCRIPT = """
import asyncio, signal
from tests.support.interrupts import interruptible

async def work():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    print("working", flush=True)
    await asyncio.sleep(60)

with interruptible("make bench"):
    asyncio.run(work())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_command_prints_no_traceback(number: signal.Signals) -> None:
    """Ctrl-C, and the end of a CI job."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=ROOT, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "working\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (INTERRUPTED, "make bench: interrupted\n")
