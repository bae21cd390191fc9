"""The duties of PID 1, as in a container; for any other process these functions do nothing.

The kernel treats PID 1 differently: a signal without a handler is ignored, and orphaned processes become its children.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def exit_on_sigterm() -> None:
    """Let SIGTERM end the process before the daemon handles it; otherwise only SIGKILL would."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, _exit_on_signal)


def ignore_child_exits() -> None:
    """Let the kernel reap processes that `exec` sessions left behind.

    For `run` only, which starts no processes: a program that does could not read their exit codes.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)  # the shell's convention
