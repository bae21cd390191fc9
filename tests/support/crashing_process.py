"""The daemon as a process that kills itself between two operations: calls of Redis scripts, changes in Postgres,
requests to the provider.

CRASH_TRAIL names a file that gets one line before and one after each operation. The process kills itself after
CRASH_AFTER lines, or never if that is not set. The waits before abandoned scheduled emails are taken up are shorter.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

import asyncpg

from flowstate_daemon.__main__ import main
from flowstate_daemon.database import scheduled_mails
from flowstate_daemon.delivery.resend_gateway import ResendGateway
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.scripts import load_scripts
from flowstate_daemon.scheduler import enqueuer, reconciler
from tests.support.crashing_daemon import SEND_PATH

T = TypeVar("T")

SCRIPTS = (*SEND_PATH, "lease_take", "jobs_ahead", "add", "claim", "journal_drop")
NAMES = {load_scripts()[name].sha: name for name in SCRIPTS}
CHANGE = re.compile(r"COMMIT|\b(?:INSERT INTO|UPDATE|DELETE FROM)\s+[\w.]+", re.IGNORECASE)


class Steps:
    """Counts the steps of this process, and ends it."""

    def __init__(self, trail: str, limit: int | None) -> None:
        self._trail = os.open(trail, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._limit = limit
        self._count = 0

    def hook(self, owner: type, method: str, operation: Callable[..., str | None]) -> None:
        """Count the calls of a method as operations.

        `operation` gets the arguments of a call, and returns its name, or None if the call does not count.
        """
        original: Callable[..., Awaitable[T]] = getattr(owner, method)

        @functools.wraps(original)
        async def call(*args: Any, **options: Any) -> T:
            name = operation(*args[1:])
            if name is None:
                return await original(*args, **options)
            self._step(f"before {name}")
            try:
                return await original(*args, **options)
            finally:
                self._step(f"after {name}")

        setattr(owner, method, call)

    def _step(self, name: str) -> None:
        if self._count == self._limit:
            os.kill(os.getpid(), signal.SIGKILL)
        self._count += 1
        os.write(self._trail, f"{name}\n".encode())


def script(*command: Any) -> str | None:
    return NAMES.get(command[1]) if command[0] == "EVALSHA" else None


def change(query: str, *_: Any) -> str | None:
    found = CHANGE.search(query)
    return found[0] if found else None


if __name__ == "__main__":
    limit = os.environ.get("CRASH_AFTER")
    steps = Steps(os.environ["CRASH_TRAIL"], int(limit) if limit else None)
    steps.hook(Connection, "execute", script)
    steps.hook(ResendGateway, "send", lambda path, *_: f"POST {path}")
    for method in ("fetch", "fetchrow", "fetchval", "execute", "executemany"):
        steps.hook(asyncpg.Connection, method, change)
    scheduled_mails.LEASE_DURATION = timedelta(seconds=2)
    enqueuer.POLL_INTERVAL_S = 0.5
    reconciler.INTERVAL_S = 1.0
    reconciler.QUEUED_GRACE = timedelta(seconds=2)
    sys.exit(main())
