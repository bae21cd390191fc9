"""PID 1, in a PID namespace of its own: signals that come early, and orphans. test_image.py sees the whole daemon."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

AS_FIRST = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
PRELUDE = "import os, signal; from flowstate_daemon.cli.pid1 import ignore_child_exits, exit_on_sigterm\n"


def ran(script: str, *, first: bool = True) -> int:
    """The exit code of a script, run as PID 1 or as anybody."""
    text = [*(AS_FIRST if first else ()), sys.executable, "-c", PRELUDE + script]
    return subprocess.run(text, check=False, timeout=20).returncode


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    try:
        done = subprocess.run([*AS_FIRST, "true"], check=False, capture_output=True, timeout=20)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if done.returncode:
        pytest.skip("this kernel gives no namespace to ordinary users")


EARLY = "assert os.getpid() == 1\n{}\nos.kill(1, signal.SIGTERM)\nprint('still here')"


def test_without_a_handler_the_kernel_would_keep_the_signal() -> None:
    """Which is why there is one."""
    assert ran(EARLY.format("pass")) == 0


def test_a_signal_while_starting_ends_the_process() -> None:
    """As a shell would tell it: 128 and the number of SIGTERM."""
    assert ran(EARLY.format("exit_on_sigterm()")) == 128 + signal.SIGTERM


def test_the_kernel_buries_orphans() -> None:
    """Nobody waits for a child that ended, and yet it is gone: waiting finds none."""
    script = """
ignore_child_exits()
if os.fork() == 0:
    os._exit(7)
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    os._exit(42)
"""
    assert ran(script) == 42


def test_any_other_process_is_left_alone() -> None:
    """A child's exit code would be lost, and a shell tells of SIGTERM by itself."""
    script = """
exit_on_sigterm()
ignore_child_exits()
assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
"""
    assert ran(script, first=False) == 0
