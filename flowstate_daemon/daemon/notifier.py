"""Tells systemd how the house is: ready, reloading, stopping, and alive as long as no loop is stuck.

`house` calls it at the turns of its life; in between it feeds the watchdog and shows the dashboard as the unit's
status. A frozen event loop falls silent by itself; for a stuck loop we fall silent on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import ClassVar

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.systemd import NotifySocket, Supervisor, microseconds, status
from flowstate_daemon.base.vitals import Vitals

log = structlog.get_logger()

LONGEST_TURN_S = 5.0  # how old a status may be
EXTENSION_S = 30.0  # each sign of life while starting or draining buys as much time


class Phase(Enum):
    """Where the house is in its life, as systemd sees it."""

    STARTING = "starting"
    READY = "ready"
    RELOADING = "reloading"
    STOPPING = "stopping"


class Notifier(Service):
    """One per house, from before the first store is asked until after the last is closed."""

    name: ClassVar[str] = "notifier"

    def __init__(self, supervisor: Supervisor, vitals: Vitals, clock: Clock, dashboard: Callable[[], str]) -> None:
        super().__init__(vitals.pulse("notifier"))
        self._socket = NotifySocket(supervisor.notify_socket)
        self._watchdog = supervisor.watchdog_s > 0
        half_s = supervisor.watchdog_s / 2 if self._watchdog else LONGEST_TURN_S
        self._every_s = min(half_s, LONGEST_TURN_S)
        self._vitals = vitals
        self._clock = clock
        self._dashboard = dashboard
        self._phase = Phase.STARTING
        self._shown = ""
        self._silent = False

    def open(self) -> None:
        self._socket.open()

    def close(self) -> None:
        self._socket.close()

    def ready(self) -> None:
        """Mails go out from now on."""
        if self._phase is Phase.STARTING:
            self._phase = Phase.READY
            self._socket.tell("READY=1", self._status())

    def reloading(self) -> None:
        """The configuration is being read again; `reloaded` must follow."""
        if self._phase is Phase.READY:
            self._phase = Phase.RELOADING
            self._socket.tell("RELOADING=1", microseconds("MONOTONIC_USEC", self._clock.mono()), self._status())

    def reloaded(self) -> None:
        """Whatever came of it: the house works on."""
        if self._phase is Phase.RELOADING:
            self._phase = Phase.READY
            self._socket.tell("READY=1", self._status())

    def leaving(self) -> None:
        """The drain begins."""
        if self._phase is not Phase.STOPPING:
            self._phase = Phase.STOPPING
            self._socket.tell("STOPPING=1", self._status(), microseconds("EXTEND_TIMEOUT_USEC", EXTENSION_S))

    def fell(self, reason: str) -> None:
        """The house ends because of this: `systemctl status` goes on showing it."""
        self._socket.tell(status(reason))

    async def turn(self) -> None:
        self._tell()
        await self.pause(self._every_s)

    def _tell(self) -> None:
        """Only a house whose loops all make progress is fed to the watchdog, or given more time."""
        stuck = self._vitals.stuck()
        told = [] if stuck else self._signs_of_life()
        if (shown := self._status()) != self._shown:
            told.append(shown)
            self._shown = shown
        if told:
            self._socket.tell(*told)
        if stuck and not self._silent:
            remedy = "the watchdog restarts the daemon; please report this"
            log.critical("loops_stuck", loops=stuck, remedy=remedy)
        self._silent = bool(stuck)

    def _signs_of_life(self) -> list[str]:
        told = ["WATCHDOG=1"] if self._watchdog else []
        if self._phase in {Phase.STARTING, Phase.STOPPING}:
            told.append(microseconds("EXTEND_TIMEOUT_USEC", EXTENSION_S))
        return told

    def _status(self) -> str:
        return status(f"{'' if self._phase is Phase.READY else self._phase.value + ' · '}{self._dashboard()}")
