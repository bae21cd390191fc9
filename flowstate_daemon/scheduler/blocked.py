"""Schedules that wait for an operator: tables of the application that are missing, changed, or not readable.

The cause is logged once per kind and shown in a metric; the other kinds and all jobs of producers continue.
"""

from __future__ import annotations

import structlog

from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.database.app_database import AppTablesUnavailableError

log = structlog.get_logger()

RETRY_AFTER_S = 60.0


class BlockedSchedules:
    """The kinds that one service does not process at the moment. `service` names it in log events."""

    def __init__(self, context: ServiceContext, service: str) -> None:
        self._metrics = context.metrics
        self._clock = context.clock
        self._service = service
        self._until: dict[str, float] = {}
        self._logged: dict[str, str] = {}

    def contains(self, kind: str) -> bool:
        return kind in self._until and self._clock.monotonic() < self._until[kind]

    def block(self, kind: str, error: AppTablesUnavailableError) -> None:
        """Stop processing this kind for RETRY_AFTER_S, and log the reason when it is new."""
        self._until[kind] = self._clock.monotonic() + RETRY_AFTER_S
        if self._logged.get(kind) != error.reason:
            self._logged[kind] = error.reason
            log.error(
                "schedule_blocked", kind=kind, service=self._service, reason=error.reason, next_try_s=RETRY_AFTER_S
            )
        self._metrics.set_schedule_blocked(kind, waits=True)

    def unblock(self, kind: str) -> None:
        """Record that the tables of this kind can be read."""
        if self._logged.pop(kind, None) is not None:
            log.info("schedule_unblocked", kind=kind, service=self._service)
            self._metrics.set_schedule_blocked(kind, waits=False)
