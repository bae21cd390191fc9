"""A service that waits for a store, and loses cancellations as drivers may."""

from __future__ import annotations

import asyncio

from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import Service


class WaitingService(Service):
    """A pass waits `answer_s` for a store. The first cancellations are lost, as `wait_for` in Python 3.11 may do."""

    name = "waiting"

    def __init__(self, heartbeat: Heartbeat, lost_cancellations: int, *, answer_s: float) -> None:
        super().__init__(heartbeat)
        self.begun = asyncio.Event()
        self.ended = False
        self._lost = lost_cancellations
        self._answer_s = answer_s

    async def run_once(self) -> None:
        self.begun.set()
        while True:
            try:
                await asyncio.wait_for(asyncio.Event().wait(), self._answer_s)
            except TimeoutError:
                return
            except asyncio.CancelledError:
                if not self._lost:
                    self.ended = True
                    raise
                self._lost -= 1
