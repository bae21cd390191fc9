"""Renews this process's right to its instance id; losing it ends the house, since two would share one name."""

from __future__ import annotations

from typing import ClassVar

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.service import PeriodicService
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.queue.lease import RENEW_S, Lease


class LeaseKeeper(PeriodicService):
    """Two calls a minute, the price of noticing a second daemon under one name."""

    name: ClassVar[str] = "lease_keeper"

    def __init__(self, lease: Lease, pulse: Pulse, clock: Clock) -> None:
        super().__init__(pulse, clock, every_s=RENEW_S)
        self._lease = lease

    async def act(self) -> None:
        await self._lease.renew()
