"""Claims as many jobs as there are free slots, in one call; waits in a blocking pop while there are none."""

from __future__ import annotations

from typing import ClassVar

import structlog

from flowstate_daemon.base.backoff import Backoff
from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.worker.executor import ProcessorPool
from flowstate_daemon.worker.in_flight import InFlightJobs

log = structlog.get_logger()

CLAIM_SIZE = 50  # jobs in one claim: it occupies Redis for a millisecond, which also delays a code
POLL_INTERVAL_S = 5.0
HELD_POLL_INTERVAL_S = 0.5
# While bulk emails fill their slots, the queue is polled for codes this often; less often while no job finishes.
URGENT_POLL_INTERVALS_S = (0.01, 0.05)


class Fetcher(Service):
    """The only service that claims jobs."""

    name: ClassVar[str] = "fetcher"

    def __init__(  # noqa: PLR0913 - the fetcher connects queue, slots, send gate and pool
        self,
        bull: BullQueue,
        in_flight: InFlightJobs,
        pool: ProcessorPool,
        gate: SendGate,
        context: ServiceContext,
        heartbeat: Heartbeat,
        *,
        max_recoveries: int,
    ) -> None:
        super().__init__(heartbeat)
        self._bull = bull
        self._in_flight = in_flight
        self._pool = pool
        self._gate = gate
        self._urgent_poll = Backoff(*URGENT_POLL_INTERVALS_S)
        self._unchanged = False
        self._metrics = context.metrics
        self._clock = context.clock
        self._tracing = context.tracing
        self._max_recoveries = max_recoveries
        # At startup and after a lost reply, `active` may contain jobs of this instance that no process runs.
        self._must_recover = True

    async def run_once(self) -> None:
        count, urgent_only = self._claim_size()
        if count <= 0:
            await self.run_until_stopped(self.wait(POLL_INTERVAL_S, self._in_flight.wait_for_change()))
            return
        if self._must_recover:
            await self._recover()
        if await self._claim(count, urgent_only=urgent_only):
            return
        if self._gate.bulk_held:
            await self._wait_for_codes()
        elif urgent_only:
            await self._wait_for_slots()
        else:
            await self._sleep_until_work()

    async def _wait_for_slots(self) -> None:
        """Wait until there are slots for a full claim of bulk emails, or it is time to poll for codes again."""
        before = self._in_flight.changes
        await self.run_until_stopped(self.wait(self._urgent_poll.next_s(), self._slots_for_full_claim()))
        self._unchanged = self._in_flight.changes == before
        if not self._unchanged:
            self._urgent_poll.reset()

    async def _wait_for_codes(self) -> None:
        """While bulk emails are held, they stay in the queue, and a blocking pop that finds them returns at once."""
        started = self._clock.monotonic()
        await self.run_until_stopped(self._bull.wait_for_jobs())
        if self._clock.monotonic() - started < HELD_POLL_INTERVAL_S:
            await self.sleep(HELD_POLL_INTERVAL_S)

    async def _slots_for_full_claim(self) -> None:
        while self._in_flight.free < self._full_claim:
            await self._in_flight.wait_for_change()

    async def _sleep_until_work(self) -> None:
        """Repeat the blocking pop with nothing in between: an idle queue costs three commands a minute."""
        while not self.stopping:
            self.progress()
            if await self.run_until_stopped(self._bull.wait_for_jobs()):
                return

    def _claim_size(self) -> tuple[int, bool]:
        """How many jobs to claim now, and whether only codes, because bulk emails fill their slots.

        While the send gate is blocked, at most one: the probe that can open it again.
        """
        if self._gate.refusal:
            return (0 if self._in_flight.busy else 1), self._gate.bulk_held
        if self._gate.bulk_held:
            return min(self._in_flight.free_for_urgent, CLAIM_SIZE), True
        free = self._in_flight.free
        if free >= self._full_claim:
            return self._full_claim, False
        if free > 0 and self._unchanged:
            # The jobs in flight may be slow, and the slots of a full claim never free at once: use those that are free.
            return free, False
        return min(self._in_flight.free_for_urgent, CLAIM_SIZE), True

    @property
    def _full_claim(self) -> int:
        """At most half of the slots, so that one half is claimed while the other half is processed."""
        return min(CLAIM_SIZE, self._in_flight.half_capacity)

    async def _claim(self, count: int, *, urgent_only: bool) -> bool:
        try:
            jobs = await self._bull.claim(count, urgent_only=urgent_only)
        except StoreUnavailableError:
            self._must_recover = True
            raise
        self._unchanged = self._unchanged and not jobs
        now = self._clock.monotonic()
        for job in jobs:
            run = self._in_flight.add(job, now)
            if self._tracing is not None:
                run.trace = self._tracing.start_email(
                    job.id, job.name, job.data, created_ms=job.created_ms, attempt=job.attempt
                )
            self._pool.submit(run)
        self._metrics.jobs_claimed(len(jobs))
        return bool(jobs)

    async def _recover(self) -> None:
        """Put back the jobs that an earlier process of this instance held, and those whose claim lost its reply."""
        recovered = await self._bull.recover_own_jobs(self._in_flight.ids(), limit=self._max_recoveries)
        self._must_recover = False
        if recovered.requeued or recovered.failed:
            log.warning("jobs_recovered", requeued=len(recovered.requeued), failed=len(recovered.failed))
            self._metrics.jobs_recovered(len(recovered.requeued) + len(recovered.failed))
