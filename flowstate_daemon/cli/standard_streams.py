"""Standard streams that the parent process has closed are opened on /dev/null."""

from __future__ import annotations

import os
import sys


def open_standard_streams() -> None:
    """Open the missing ones of standard input, output and error.

    Otherwise the next file or connection gets the number of a standard stream, and a traceback is written to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is used, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - open until the process ends
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
