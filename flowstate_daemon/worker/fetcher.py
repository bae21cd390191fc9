"""Claims jobs: free slots first, then that many in one call; sleeps in a blocking pop while there are none."""

from __future__ import annotations

from typing import ClassVar

import structlog

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.worker.executor import ProcessorPool
from flowstate_daemon.worker.in_flight import InFlightJobs

log = structlog.get_logger()

CLAIM_SIZE = 50  # jobs in one claim: Redis is held up for a millisecond, and so is a code behind it
POLL_INTERVAL_S = 5.0
# While bulk fills its slots, how long a code in the queue is not noticed; longer while nothing moves.
URGENT_POLL_INTERVALS_S = (0.01, 0.05)


class Fetcher(Service):
    """The only loop that claims jobs."""

    name: ClassVar[str] = "fetcher"

    def __init__(  # noqa: PLR0913 - the fetcher joins queue, slots, lane and pool
        self,
        bull: BullQueue,
        inflight: InFlightJobs,
        pool: ProcessorPool,
        gate: SendGate,
        context: ServiceContext,
        heartbeat: Heartbeat,
        *,
        max_recoveries: int,
    ) -> None:
        super().__init__(heartbeat)
        self._bull = bull
        self._inflight = inflight
        self._pool = pool
        self._gate = gate
        self._look_s = URGENT_POLL_INTERVALS_S[0]
        self._still = False
        self._metrics = context.metrics
        self._clock = context.clock
        self._max_recoveries = max_recoveries
        # At start and after a lost answer there may be jobs in `active` under our name that nobody runs.
        self._in_doubt = True

    async def run_once(self) -> None:
        wanted, urgent_only = self._wanted()
        if wanted <= 0:
            await self.run_until_stopped(self.wait(POLL_INTERVAL_S, self._inflight.wait_for_change()))
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
        await self.run_until_stopped(self.wait(self._look_s, self._room()))
        shortest, longest = URGENT_POLL_INTERVALS_S
        self._still = self._inflight.changes == before
        self._look_s = min(self._look_s * 2, longest) if self._still else shortest

    async def _room(self) -> None:
        while self._inflight.free < self._portion:
            await self._inflight.wait_for_change()

    async def _sleep_until_work(self) -> None:
        """One blocking pop after another, with nothing in between: an idle queue costs three commands a minute."""
        while not self.stopping:
            self.progress()
            if await self.run_until_stopped(self._bull.wait_for_jobs()):
                return

    def _wanted(self) -> tuple[int, bool]:
        """How many jobs to claim now, and whether codes only, because other mails fill their slots.

        A closed lane wants one at most: the probe that finds it open again.
        """
        if self._gate.closed:
            return (0 if self._inflight.busy else 1), False
        free = self._inflight.free
        if free >= self._portion:
            return self._portion, False
        if free > 0 and self._still:
            # Room for a portion may never come: the mails in hand may be slow ones, and slots are there to be used.
            return free, False
        return min(self._inflight.free_for_urgent, CLAIM_SIZE), True

    @property
    def _portion(self) -> int:
        """At most half the slots, so that Redis fetches for one half while the other half works."""
        return min(CLAIM_SIZE, self._inflight.half_capacity)

    async def _claim(self, wanted: int, *, urgent_only: bool) -> bool:
        try:
            jobs = await self._bull.claim(wanted, urgent_only=urgent_only)
        except StoreUnavailableError:
            self._in_doubt = True
            raise
        self._still = self._still and not jobs
        now = self._clock.monotonic()
        for job in jobs:
            self._pool.submit(self._inflight.add(job, now))
        self._metrics.jobs_claimed(len(jobs))
        return bool(jobs)

    async def _recover(self) -> None:
        """Bring back what a dead process of this instance held, and what a lost answer left behind."""
        recovered = await self._bull.recover_own_jobs(self._inflight.ids(), limit=self._max_recoveries)
        self._in_doubt = False
        if recovered.requeued or recovered.failed:
            log.warning("jobs_recovered", requeued=len(recovered.requeued), failed=len(recovered.failed))
            self._metrics.jobs_recovered(len(recovered.requeued) + len(recovered.failed))
