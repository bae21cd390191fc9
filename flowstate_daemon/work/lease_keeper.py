"""Renews this process's right to its instance id; losing it ends the house, since two would share one name."""

from __future__ import annotations

from typing import ClassVar

from flowstate_daemon.base.service import Service
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.queue.lease import Lease

EVERY_S = 10.0


class LeaseKeeper(Service):
    """Six commands a minute, the price of noticing a second daemon under one name."""

    name: ClassVar[str] = "lease_keeper"

    def __init__(self, lease: Lease, pulse: Pulse) -> None:
        super().__init__(pulse)
        self._lease = lease

    async def turn(self) -> None:
        await self.pause(EVERY_S)
        if not self.stopping:
            await self._lease.renew()
