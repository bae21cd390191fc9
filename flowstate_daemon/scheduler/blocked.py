"""Kinds that have to wait for a person: tables of the application that are missing, different, or closed to us.

What a kind lacks is said once and counted as long as it lacks it; the other kinds, and all mails of producers, go on.
"""

from __future__ import annotations

import structlog

from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.database.app_database import AppTablesUnavailableError

log = structlog.get_logger()

RETRY_AFTER_S = 60.0


class BlockedSchedules:
    """Which kinds rest, by their names."""

    def __init__(self, context: ServiceContext, who: str) -> None:
        self._metrics = context.metrics
        self._clock = context.clock
        self._who = who
        self._until: dict[str, float] = {}
        self._said: dict[str, str] = {}

    def active(self, kind: str) -> bool:
        return kind in self._until and self._clock.monotonic() < self._until[kind]

    def block(self, kind: str, lack: AppTablesUnavailableError) -> None:
        """Ask for this kind no more for a while, and say why if that is news."""
        self._until[kind] = self._clock.monotonic() + RETRY_AFTER_S
        if self._said.get(kind) != lack.reason:
            self._said[kind] = lack.reason
            log.error("schedule_blocked", kind=kind, service=self._who, reason=lack.reason, next_try_s=RETRY_AFTER_S)
        self._metrics.set_schedule_blocked(kind, waits=True)

    def unblock(self, kind: str) -> None:
        """This kind has what it needs."""
        if self._said.pop(kind, None) is not None:
            log.info("schedule_unblocked", kind=kind, service=self._who)
            self._metrics.set_schedule_blocked(kind, waits=False)
