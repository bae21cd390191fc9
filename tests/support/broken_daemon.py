"""The daemon with a bug: failing a job raises an error that no service expects."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flowstate_daemon.__main__ import main
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import JobFailed, WriteResult


async def fail(_queue: BullQueue, _results: Sequence[JobFailed]) -> list[WriteResult]:
    raise ValueError("a bug")


if __name__ == "__main__":
    BullQueue.fail = fail  # type: ignore[method-assign]
    sys.exit(main())
