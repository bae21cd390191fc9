"""What a process owes when it is PID 1, as in a container; for any other process this does nothing.

The kernel treats PID 1 apart: a signal that it has no handler for is lost, and orphans become its children.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def exit_on_sigterm() -> None:
    """Let SIGTERM end a process that is not yet ready to drain; it would be killed after its grace otherwise."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, _exit_on_signal)


def ignore_child_exits() -> None:
    """Let the kernel clear away what `exec` sessions left behind.

    For `run` only, which starts no process of its own: whoever does could not learn how it ended.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)  # as a shell tells of it
