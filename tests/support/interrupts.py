"""Ends a long command that is interrupted, by Ctrl-C or SIGTERM, with a line instead of a traceback."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # as a shell reports SIGINT


@contextmanager
def interruptible(command: str) -> Iterator[None]:
    """Exit with 130 when the block is interrupted; coroutines have cleaned up by then."""
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(f"{command}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
