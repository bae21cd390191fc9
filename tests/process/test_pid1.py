"""Signals and orphaned processes of PID 1, in a PID namespace. test_image.py tests the whole daemon as PID 1."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

AS_PID1 = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
PRELUDE = "import os, signal; from flowstate_daemon.cli.pid1 import ignore_child_exits, exit_on_sigterm\n"


def run_script(script: str, *, as_pid1: bool = True) -> int:
    """The exit code of a script that runs as PID 1, or as another process."""
    command = [*(AS_PID1 if as_pid1 else ()), sys.executable, "-c", PRELUDE + script]
    return subprocess.run(command, check=False, timeout=20).returncode


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    try:
        done = subprocess.run([*AS_PID1, "true"], check=False, capture_output=True, timeout=20)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode:
        pytest.skip("this kernel does not allow user namespaces")


EARLY = "assert os.getpid() == 1\n{}\nos.kill(1, signal.SIGTERM)\nprint('still here')"


def test_sigterm_to_pid1_is_ignored_without_a_handler() -> None:
    """The kernel drops signals to PID 1 that have no handler, which is why the daemon installs one."""
    assert run_script(EARLY.format("pass")) == 0


def test_sigterm_during_the_start_exits_143() -> None:
    """The exit code is 128 plus the number of SIGTERM, as in a shell."""
    assert run_script(EARLY.format("exit_on_sigterm()")) == 128 + signal.SIGTERM


def test_orphaned_children_are_reaped() -> None:
    """A child that ended is reaped without a wait, so waiting for it finds none."""
    script = """
ignore_child_exits()
if os.fork() == 0:
    os._exit(7)
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    os._exit(42)
"""
    assert run_script(script) == 42


def test_signal_handlers_are_unchanged_without_pid1() -> None:
    """Other processes keep the default handlers, since ignoring child exits would lose their exit codes."""
    script = """
exit_on_sigterm()
ignore_child_exits()
assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
"""
    assert run_script(script, as_pid1=False) == 0
