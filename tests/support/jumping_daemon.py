"""The daemon on a machine whose wall clock is set while it runs; monotonic time goes on as always.

The file that CLOCK_OFFSET_FILE names holds how far the clock is ahead, in seconds, as a double; the test changes it.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

from flowstate_daemon.__main__ import main

OFFSET = struct.Struct("d")


def set_clock(file: Path, ahead_s: float) -> None:
    """Set the clock of the daemon that reads this file."""
    file.touch()
    with file.open("r+b") as opened:
        opened.write(OFFSET.pack(ahead_s))


def follow(file: Path) -> None:
    """Make the wall time of this process differ by what the file says now."""
    time_ns = time.time_ns
    with file.open("rb") as opened:
        offset = mmap.mmap(opened.fileno(), OFFSET.size, access=mmap.ACCESS_READ)

    def jumping_ns() -> int:
        ahead_s: float = OFFSET.unpack_from(offset)[0]
        return time_ns() + round(ahead_s * 1e9)

    time.time_ns = jumping_ns
    time.time = lambda: jumping_ns() / 1e9


if __name__ == "__main__":
    follow(Path(os.environ["CLOCK_OFFSET_FILE"]))
    main()
