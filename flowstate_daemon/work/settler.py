"""Writes down how runs ended: finish, retry, fail or hand back, up to 100 in one call.

An ending that cannot be written because Redis is away waits here, while the lock keeper holds the job's lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, ClassVar

import structlog

from flowstate_daemon.base.service import Service
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.job import Failed, Finished, Retried, Settled
from flowstate_daemon.work.fate import Ending, Released
from flowstate_daemon.work.inflight import InFlight
from flowstate_daemon.work.report import Reporter
from flowstate_daemon.work.right_of_way import RightOfWay

log = structlog.get_logger()

BATCH = 100
IDLE_S = 10.0


class Settler(Service):
    """The only loop that ends jobs."""

    name: ClassVar[str] = "settler"

    def __init__(
        self,
        bull: Bull,
        inflight: InFlight,
        reporter: Reporter,
        right_of_way: RightOfWay,
        pulse: Pulse,
        notice: Callable[[], None] | None = None,
    ) -> None:
        """`notice` is called when outcomes have been written to the journal."""
        super().__init__(pulse)
        self._notice = notice
        self._bull = bull
        self._inflight = inflight
        self._reporter = reporter
        self._right_of_way = right_of_way
        self._waiting: dict[type, deque[Any]] = {cls: deque() for cls in (Finished, Retried, Failed, Released)}
        self._arrived = asyncio.Event()

    def put(self, ending: Ending) -> None:
        """Take charge of an ending; what waits here is bounded by the jobs in flight."""
        self._waiting[type(ending)].append(ending)
        self._arrived.set()

    def stop(self) -> None:
        super().stop()
        self._arrived.set()

    async def turn(self) -> None:
        if not any(self._waiting.values()):
            await self._something_arrived()
        for endings in self._waiting.values():
            if endings:
                await self._settle(endings)

    async def _settle(self, endings: deque[Any]) -> None:
        """Write up to one batch; nothing leaves the line before Redis has answered for it.

        What was executed without being heard is written again, unless its job is back in our hands under the same lock.
        """
        await self._right_of_way.give_way()
        batch = list(islice(endings, BATCH))
        ours = [ending for ending in batch if not self._inflight.superseded(ending.job)]
        written = await self._write(ours) if ours else []
        for _ in batch:
            endings.popleft()
        async for ending, settled in self._right_of_way.in_pieces(zip(ours, written, strict=True)):
            self._close(ending, settled)
        if self._notice is not None:
            self._notice()

    async def _write(self, batch: list[Any]) -> list[Settled]:
        match batch[0]:
            case Finished():
                return await self._bull.finish(batch)
            case Retried():
                return await self._bull.retry(batch)
            case Failed():
                return await self._bull.fail(batch)
        return await self._bull.release([ending.job for ending in batch])

    def _close(self, ending: Ending, settled: Settled) -> None:
        run = self._inflight.settled(ending.job)
        if settled is Settled.OK:
            self._reporter.ended(ending, run)
        else:
            # GONE after a repeated call means that the first call was executed and its answer lost on the way.
            log.warning("ending_refused", job_id=ending.job.id, kind=ending.job.name, why=settled.name.lower())

    async def _something_arrived(self) -> None:
        self._arrived.clear()
        try:
            async with asyncio.timeout(IDLE_S):
                await self._arrived.wait()
        except TimeoutError:
            return
