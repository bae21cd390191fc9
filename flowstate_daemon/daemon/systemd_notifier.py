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
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.systemd import SdNotifier, SystemdEnvironment, status_line, usec

log = structlog.get_logger()

MAX_STATUS_AGE_S = 5.0  # how old a status may be
EXTEND_TIMEOUT_S = 30.0  # each sign of life while starting or draining buys as much time


class Phase(Enum):
    """Where the house is in its life, as systemd sees it."""

    STARTING = "starting"
    READY = "ready"
    RELOADING = "reloading"
    STOPPING = "stopping"


class SystemdNotifier(Service):
    """One per house, from before the first store is asked until after the last is closed."""

    name: ClassVar[str] = "notifier"

    def __init__(
        self, supervisor: SystemdEnvironment, health: HealthRegistry, clock: Clock, dashboard: Callable[[], str]
    ) -> None:
        super().__init__(health.register("notifier"))
        self._socket = SdNotifier(supervisor.notify_socket)
        self._watchdog = supervisor.watchdog_s > 0
        half_s = supervisor.watchdog_s / 2 if self._watchdog else MAX_STATUS_AGE_S
        self._every_s = min(half_s, MAX_STATUS_AGE_S)
        self._health = health
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
            self._socket.send("READY=1", self._status())

    def reloading(self) -> None:
        """The configuration is being read again; `reloaded` must follow."""
        if self._phase is Phase.READY:
            self._phase = Phase.RELOADING
            self._socket.send("RELOADING=1", usec("MONOTONIC_USEC", self._clock.monotonic()), self._status())

    def reloaded(self) -> None:
        """Whatever came of it: the house works on."""
        if self._phase is Phase.RELOADING:
            self._phase = Phase.READY
            self._socket.send("READY=1", self._status())

    def announce_stopping(self) -> None:
        """The drain begins."""
        if self._phase is not Phase.STOPPING:
            self._phase = Phase.STOPPING
            self._socket.send("STOPPING=1", self._status(), usec("EXTEND_TIMEOUT_USEC", EXTEND_TIMEOUT_S))

    def failed(self, reason: str) -> None:
        """The house ends because of this: `systemctl status` goes on showing it."""
        self._socket.send(status_line(reason))

    async def run_once(self) -> None:
        self._tell()
        await self.sleep(self._every_s)

    def _tell(self) -> None:
        """Only a house whose loops all make progress is fed to the watchdog, or given more time."""
        stuck = self._health.stale_services()
        output = [] if stuck else self._signs_of_life()
        if (shown := self._status()) != self._shown:
            output.append(shown)
            self._shown = shown
        if output:
            self._socket.send(*output)
        if stuck and not self._silent:
            remedy = "the watchdog restarts the daemon; please report this"
            log.critical("services_stuck", services=stuck, remedy=remedy)
        self._silent = bool(stuck)

    def _signs_of_life(self) -> list[str]:
        output = ["WATCHDOG=1"] if self._watchdog else []
        if self._phase in {Phase.STARTING, Phase.STOPPING}:
            output.append(usec("EXTEND_TIMEOUT_USEC", EXTEND_TIMEOUT_S))
        return output

    def _status(self) -> str:
        return status_line(f"{'' if self._phase is Phase.READY else self._phase.value + ' · '}{self._dashboard()}")
