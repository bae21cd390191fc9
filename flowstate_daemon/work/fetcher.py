"""Claims jobs: free slots first, then that many in one call; sleeps in a blocking pop while there are none."""

from __future__ import annotations

from typing import ClassVar

import structlog

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.base.instruments import Instruments
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.work.inflight import InFlight
from flowstate_daemon.work.lane import Lane
from flowstate_daemon.work.pool import Pool

log = structlog.get_logger()

PORTION = 50  # jobs in one claim: Redis is held up for a millisecond, and so is a code behind it
LOOK_UP_S = 5.0
# While bulk fills its slots, how long a code in the queue is not noticed; longer while nothing moves.
URGENT_LOOKS_S = (0.01, 0.05)


class Fetcher(Service):
    """The only loop that claims jobs."""

    name: ClassVar[str] = "fetcher"

    def __init__(  # noqa: PLR0913 - the fetcher joins queue, slots, lane and pool
        self,
        bull: Bull,
        inflight: InFlight,
        pool: Pool,
        lane: Lane,
        instruments: Instruments,
        pulse: Pulse,
        *,
        max_recoveries: int,
    ) -> None:
        super().__init__(pulse)
        self._bull = bull
        self._inflight = inflight
        self._pool = pool
        self._lane = lane
        self._look_s = URGENT_LOOKS_S[0]
        self._still = False
        self._metrics = instruments.metrics
        self._clock = instruments.clock
        self._max_recoveries = max_recoveries
        # At start and after a lost answer there may be jobs in `active` under our name that nobody runs.
        self._in_doubt = True

    async def turn(self) -> None:
        wanted, urgent_only = self._wanted()
        if wanted <= 0:
            await self.unless_stopped(self.within(LOOK_UP_S, self._inflight.changed()))
            return
        if self._in_doubt:
            await self._recover()
        if await self._claim(wanted, urgent_only=urgent_only):
            return
        if urgent_only:
            await self._rest_until_room()
        else:
            await self._sleep_until_work()

    async def _rest_until_room(self) -> None:
        """Until there are slots for a portion of bulk, or it is time to look for codes again."""
        before = self._inflight.changes
        await self.unless_stopped(self.within(self._look_s, self._room()))
        shortest, longest = URGENT_LOOKS_S
        self._still = self._inflight.changes == before
        self._look_s = min(self._look_s * 2, longest) if self._still else shortest

    async def _room(self) -> None:
        while self._inflight.free < self._portion:
            await self._inflight.changed()

    async def _sleep_until_work(self) -> None:
        """One blocking pop after another, with nothing in between: an idle queue costs three commands a minute."""
        while not self.stopping:
            self.progressed()
            if await self.unless_stopped(self._bull.await_work()):
                return

    def _wanted(self) -> tuple[int, bool]:
        """How many jobs to claim now, and whether codes only, because other mails fill their slots.

        A closed lane wants one at most: the probe that finds it open again.
        """
        if self._lane.closed:
            return (0 if self._inflight.busy else 1), False
        free = self._inflight.free
        if free >= self._portion:
            return self._portion, False
        if free > 0 and self._still:
            # Room for a portion may never come: the mails in hand may be slow ones, and slots are there to be used.
            return free, False
        return min(self._inflight.free_for_urgent, PORTION), True

    @property
    def _portion(self) -> int:
        """At most half the slots, so that Redis fetches for one half while the other half works."""
        return min(PORTION, self._inflight.half)

    async def _claim(self, wanted: int, *, urgent_only: bool) -> bool:
        try:
            jobs = await self._bull.take(wanted, urgent_only=urgent_only)
        except Outage:
            self._in_doubt = True
            raise
        self._still = self._still and not jobs
        now = self._clock.mono()
        for job in jobs:
            self._pool.hand_over(self._inflight.take_in(job, now))
        self._metrics.jobs_claimed(len(jobs))
        return bool(jobs)

    async def _recover(self) -> None:
        """Bring back what a dead process of this instance held, and what a lost answer left behind."""
        recovered = await self._bull.recover(self._inflight.ids(), limit=self._max_recoveries)
        self._in_doubt = False
        if recovered.requeued or recovered.failed:
            log.warning("jobs_recovered", requeued=len(recovered.requeued), failed=len(recovered.failed))
            self._metrics.jobs_recovered(len(recovered.requeued) + len(recovered.failed))
