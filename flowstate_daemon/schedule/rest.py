"""Kinds that have to wait for a person: tables of the application that are missing, different, or closed to us.

What a kind lacks is said once and counted as long as it lacks it; the other kinds, and all mails of producers, go on.
"""

from __future__ import annotations

import structlog

from flowstate_daemon.base.instruments import Instruments
from flowstate_daemon.database.application import Unreadable

log = structlog.get_logger()

REST_S = 60.0


class Rests:
    """Which kinds rest, by their names."""

    def __init__(self, instruments: Instruments, who: str) -> None:
        self._metrics = instruments.metrics
        self._clock = instruments.clock
        self._who = who
        self._until: dict[str, float] = {}
        self._said: dict[str, str] = {}

    def resting(self, kind: str) -> bool:
        return kind in self._until and self._clock.mono() < self._until[kind]

    def rest(self, kind: str, lack: Unreadable) -> None:
        """Ask for this kind no more for a while, and say why if that is news."""
        self._until[kind] = self._clock.mono() + REST_S
        if self._said.get(kind) != lack.reason:
            self._said[kind] = lack.reason
            log.error("schedule_waits", kind=kind, service=self._who, reason=lack.reason, next_try_s=REST_S)
        self._metrics.schedule_waits(kind, waits=True)

    def over(self, kind: str) -> None:
        """This kind has what it needs."""
        if self._said.pop(kind, None) is not None:
            log.info("schedule_goes_on", kind=kind, service=self._who)
            self._metrics.schedule_waits(kind, waits=False)
