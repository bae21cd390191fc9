"""Reports the state of the daemon to systemd: ready, reloading, stopping, and the watchdog.

`daemon.py` reports the changes of phase. In between, this service feeds the watchdog and updates the status line. A
frozen event loop stops the watchdog messages by itself; while a service is stuck, they are withheld on purpose.
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

MAX_STATUS_AGE_S = 5.0  # maximum age of the status line
EXTEND_TIMEOUT_S = 30.0  # what each message adds while starting or draining


class Phase(Enum):
    """The phase of the daemon, as systemd knows it."""

    STARTING = "starting"
    READY = "ready"
    RELOADING = "reloading"
    STOPPING = "stopping"


class SystemdNotifier(Service):
    """Runs from before the first connection is opened until after the last one is closed."""

    name: ClassVar[str] = "systemd_notifier"

    def __init__(
        self, supervisor: SystemdEnvironment, health: HealthRegistry, clock: Clock, format_status: Callable[[], str]
    ) -> None:
        super().__init__(health.register(self.name))
        self._socket = SdNotifier(supervisor.notify_socket)
        self._watchdog_enabled = supervisor.watchdog_s > 0
        half_s = supervisor.watchdog_s / 2 if self._watchdog_enabled else MAX_STATUS_AGE_S
        self._interval_s = min(half_s, MAX_STATUS_AGE_S)
        self._health = health
        self._clock = clock
        self._format_status = format_status
        self._phase = Phase.STARTING
        self._last_status = ""
        self._was_stuck = False

    def open(self) -> None:
        self._socket.open()

    def close(self) -> None:
        self._socket.close()

    def ready(self) -> None:
        """The daemon sends emails from now on."""
        if self._phase is Phase.STARTING:
            self._phase = Phase.READY
            self._socket.send("READY=1", self._status())

    def reloading(self) -> None:
        """The configuration is being reloaded; `reloaded()` must follow."""
        if self._phase is Phase.READY:
            self._phase = Phase.RELOADING
            self._socket.send("RELOADING=1", usec("MONOTONIC_USEC", self._clock.monotonic()), self._status())

    def reloaded(self) -> None:
        """The reload has ended, successfully or not."""
        if self._phase is Phase.RELOADING:
            self._phase = Phase.READY
            self._socket.send("READY=1", self._status())

    def announce_stopping(self) -> None:
        """The drain begins."""
        if self._phase is not Phase.STOPPING:
            self._phase = Phase.STOPPING
            self._socket.send("STOPPING=1", self._status(), usec("EXTEND_TIMEOUT_USEC", EXTEND_TIMEOUT_S))

    def failed(self, reason: str) -> None:
        """Show why the daemon ends; `systemctl status` keeps the text."""
        self._socket.send(status_line(reason))

    async def run_once(self) -> None:
        self._report()
        await self.sleep(self._interval_s)

    def _report(self) -> None:
        """Feed the watchdog and extend time-outs only while all services make progress; update the status."""
        stuck = self._health.stale_services()
        assignments = [] if stuck else self._alive_assignments()
        if (status := self._status()) != self._last_status:
            assignments.append(status)
            self._last_status = status
        if assignments:
            self._socket.send(*assignments)
        if stuck and not self._was_stuck:
            remedy = "the watchdog restarts the daemon; please report this"
            log.critical("services_stuck", services=stuck, remedy=remedy)
        self._was_stuck = bool(stuck)

    def _alive_assignments(self) -> list[str]:
        assignments = ["WATCHDOG=1"] if self._watchdog_enabled else []
        if self._phase in {Phase.STARTING, Phase.STOPPING}:
            assignments.append(usec("EXTEND_TIMEOUT_USEC", EXTEND_TIMEOUT_S))
        return assignments

    def _status(self) -> str:
        return status_line(f"{'' if self._phase is Phase.READY else self._phase.value + ' · '}{self._format_status()}")
