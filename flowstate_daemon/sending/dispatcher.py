"""The dispatcher: rendered emails wait here in one order and are sent in as few requests as the rate limit allows.

Whenever the rate limiter grants a token, the most urgent up to 100 emails become one batch, which is stored and sent in
a task of its own. Handlers await `send`; the worker runs the loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import structlog

from flowstate_daemon.base.errors import PermanentError, StoreUnavailableError
from flowstate_daemon.base.event_loop import BulkTurns, UrgentPriority
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.database.request_records import RequestRecords
from flowstate_daemon.delivery.gateway import MAX_BATCH_SIZE, Gateway
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.sending.access_probe import AccessProbe
from flowstate_daemon.sending.batch import Batch, OutgoingMail, expire_stale, supersede_codes
from flowstate_daemon.sending.batch_sender import NO_REQUEUE, BatchSender, Requeue, ResumedBatches
from flowstate_daemon.sending.provider_state import ACCEPTING
from flowstate_daemon.sending.rate_limiter import STATE_REPEAT_S, RateLimiter
from flowstate_daemon.sending.request_recorder import RequestRecorder
from flowstate_daemon.sending.request_store import RequestStore
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.sending.send_queue import SendQueue

log = structlog.get_logger()

MAX_REQUESTS = 8  # requests in flight
MAX_URGENT_REQUESTS = 4  # additional requests in flight for codes
MAX_TOTAL_REQUESTS = MAX_REQUESTS + MAX_URGENT_REQUESTS
POLL_INTERVAL_S = 5.0
BATCH_WINDOW_S = 0.1  # how long a batch that is not full waits for more emails


class ExpectedMails:
    """A context in which an email is prepared: a batch that is not full may wait for it. Used by all emails at once."""

    def __init__(self, on_none: Callable[[], None]) -> None:
        self.count = 0
        self._on_none = on_none

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if not self.count:
            self._on_none()


class Dispatcher(Service):
    """One dispatcher per process; the rate limit is shared with all others."""

    name: ClassVar[str] = "dispatcher"

    def __init__(  # noqa: PLR0913 - it connects every part of the package
        self,
        gateway: Gateway,
        request_store: RequestStore,
        rate_limiter: RateLimiter,
        gate: SendGate,
        heartbeat: Heartbeat,
        context: ServiceContext,
        processors: Heartbeat | None = None,
        records: RequestRecords | None = None,
    ) -> None:
        """`processors` is the heartbeat of the handlers that wait for `send`: it beats as long as this loop does.

        `records` is None without Postgres.
        """
        super().__init__(heartbeat)
        self._gateway = gateway
        self._rate_limiter = rate_limiter
        self._gate = gate
        self._clock = context.clock
        self._processors = processors
        self._queue = SendQueue()
        self.urgent_priority = UrgentPriority(context.clock)
        self.bulk_turns = BulkTurns(self.urgent_priority, context.clock)
        self._batch_sender = BatchSender(
            gateway,
            request_store,
            rate_limiter,
            gate,
            self.urgent_priority,
            context.metrics,
            context.clock,
            records,
            tracing=context.tracing,
        )
        self._resumed = ResumedBatches(request_store, self._batch_sender, self._enqueue_batch)
        self.records = records
        self._recorder = RequestRecorder(
            gateway, request_store, records, self._resumed.add, context.metrics, context.clock
        )
        self._tasks: set[asyncio.Task[Requeue]] = set()
        self._urgent_tasks = 0
        self._held_at = -math.inf
        self._wake_up = asyncio.Event()
        self.expecting = ExpectedMails(self._wake_up.set)
        self._access_probe = AccessProbe(gateway, gate, self._wake_up.set)
        self._published = ACCEPTING
        self._published_at = self._probe_at = -math.inf

    @property
    def queued(self) -> int:
        """Emails that wait for a request."""
        return self._queue.mail_count

    @property
    def in_flight(self) -> int:
        """Requests without a response yet."""
        return len(self._tasks)

    async def send(self, mail: OutgoingMail) -> Accepted:
        """Send one email; returns when the provider accepted it.

        Raises:
            FlowstateError: the class says what becomes of the job, see `worker/results.py`.
        """
        mail.queued_at = self._clock.monotonic()
        if mail.job.stored_request_id is None:
            mail.encoded(self._gateway.encode)  # one by one here: a hundred at once in the loop would delay a code
            self._enqueue(mail)
        else:
            self._resumed.add(mail, mail.job.stored_request_id)
        return await mail.result

    def stop(self) -> None:
        super().stop()
        self._wake_up.set()

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            # The jobs of requests still in flight were released with their stored requests: whoever claims them next
            # sends the same bytes.
            await self._access_probe.close()
            await self._resumed.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run_once(self) -> None:
        self._wake_up.clear()  # first: an email that arrives during this pass must not be slept through
        if self._processors is not None and not self._processors.is_idle:
            self._processors.beat()
        await self._publish_state()
        wait_s = await self._acquire_token()
        if wait_s > 0:
            await self._sleep_until_woken(wait_s)
        elif (batch := self._next_batch()) is not None:
            self._start(batch)

    async def _acquire_token(self) -> float:
        """0 if a request may start now, else how long to wait before asking again.

        The order matters: the token is taken last, because a token that is not used is lost for all daemons.
        """
        if self._queue.empty and not self._tasks:
            return await self._probe_access()
        if self._queue.empty or self._is_full():
            return POLL_INTERVAL_S
        await self._fill_batch()
        wait_s = self._gate.wait_s(urgent=self._queue.has_urgent)
        if wait_s > 0 and await self._rate_limiter.retry_requested():
            self._gate.retry_now()
            wait_s = self._gate.wait_s(urgent=self._queue.has_urgent)
        blocked = wait_s > 0
        if not blocked:
            wait_s = await self._rate_limiter.acquire(urgent=self._queue.has_urgent)
        if blocked or self._rate_limiter.bulk_paused:
            self._held_at = self._clock.monotonic()
        return wait_s

    async def _probe_access(self) -> float:
        """While nothing waits to be sent, a request that sends nothing shows whether the provider works again."""
        if not self._gate.is_open and not self._access_probe.due() and await self._rate_limiter.retry_requested():
            self._gate.retry_now()
        if not self._access_probe.due():
            return POLL_INTERVAL_S if self._gate.is_open else self._gate.next_probe_s() or POLL_INTERVAL_S
        wait_s = await self._rate_limiter.acquire(urgent=True)
        if wait_s <= 0:
            self._access_probe.start()
        return wait_s or POLL_INTERVAL_S

    async def _publish_state(self) -> None:
        """Publish to all daemons and to `provider status` what has changed; a problem is repeated."""
        state, now = self._gate.state(), self._clock.monotonic()
        changed = (state.state, state.reason) != (self._published.state, self._published.reason)
        probe_at = now + (state.next_probe_ms or 0) / 1000
        repeat = not state.is_accepting and (
            now - self._published_at >= STATE_REPEAT_S or (bool(state.next_probe_ms) and probe_at - self._probe_at > 1)
        )
        if not (changed or repeat):
            return
        try:
            await self._rate_limiter.publish_state(state)
            if state.is_accepting:
                await self._rate_limiter.announce_recovery()
        except StoreUnavailableError as outage:  # the next pass tries again
            log.debug("provider_state_not_published", reason=outage.reason)
            return
        self._published, self._published_at, self._probe_at = state, now, probe_at

    def _is_full(self) -> bool:
        """Codes have additional requests that bulk emails cannot use."""
        if not self._rate_limiter.limit_known:
            return bool(self._tasks)  # the first response contains the rate limit
        if self._queue.has_urgent:
            return len(self._tasks) >= MAX_TOTAL_REQUESTS
        return len(self._tasks) - self._urgent_tasks >= MAX_REQUESTS

    async def _fill_batch(self) -> None:
        """Bulk emails wait a moment for more: for those being prepared, or claimed when a request has finished."""
        deadline = self._clock.monotonic() + BATCH_WINDOW_S
        while (
            (self.expecting.count or self._tasks) and len(self._queue) < MAX_BATCH_SIZE and not self._queue.has_urgent
        ):
            remaining_s = deadline - self._clock.monotonic()
            if remaining_s <= 0:
                return
            self._wake_up.clear()
            await self._sleep_until_woken(remaining_s)

    async def _sleep_until_woken(self, seconds: float) -> None:
        """Sleep until a code arrives, the queue is not empty any more, or a request finishes; at most `seconds`."""
        if not self.stopping:
            await self.wait(min(seconds, POLL_INTERVAL_S), self._wake_up.wait())

    def _next_batch(self) -> Batch | None:
        urgent, circuit_open = self._queue.has_urgent, self._gate.circuit_breaker.is_open
        probing = self._gate.refusal is not None or (circuit_open and not urgent)
        # Where requests cost nothing, a code does not wait until a long body is stored. While bulk emails are paused,
        # they must not be sent along with a code.
        urgent_only = urgent and (self._rate_limiter.bulk_paused or not self._rate_limiter.has_limit or circuit_open)
        max_mails = 1 if probing else MAX_BATCH_SIZE  # a probe may cost its jobs an attempt
        batch = self._queue.pop(
            lambda mail: self._gateway.can_batch(mail.email), max_mails=max_mails, urgent_only=urgent_only
        )
        if batch is not None and batch.stored_request is None:
            expire_stale(batch.mails, self._clock.now_ms(), held_at=self._held_at)
            supersede_codes(batch.mails)
        return batch if batch is not None and batch.pending else None

    def _start(self, batch: Batch) -> None:
        urgent = batch.urgent
        self._gate.start_request()
        batch.is_probe = not urgent and self._gate.circuit_breaker.start_request()
        self._urgent_tasks += urgent
        task = asyncio.create_task(self._store_and_send(batch, urgent), name="request")
        self._tasks.add(task)
        task.add_done_callback(partial(self._request_finished, batch, urgent))

    async def _store_and_send(self, batch: Batch, urgent: bool) -> Requeue:
        """A task per request, so that a code does not wait while a long request is stored."""
        if not urgent:
            await self.urgent_priority.yield_to_urgent()
        if not batch.recorded and not await self._recorder.prepare(batch):
            self._gate.cancel_probe()
            return NO_REQUEUE
        return await self._batch_sender.send(batch)

    def _request_finished(self, batch: Batch, urgent: bool, task: asyncio.Task[Requeue]) -> None:
        self._tasks.discard(task)
        self._urgent_tasks -= urgent
        self._wake_up.set()
        if task.cancelled():
            return
        bug = task.exception()
        if bug is None:
            self._requeue(task.result())
            return
        self._gate.cancel_probe()
        for mail in batch.mails:
            mail.fail(bug)

    def _requeue(self, requeue: Requeue) -> None:
        for batch in requeue.batches:
            self._later(requeue.after_s, partial(self._enqueue_batch, batch))
        for mail in requeue.mails:
            self._later(requeue.after_s, partial(self._enqueue, mail))
        if requeue.sample is not None:
            requeue.sample.result.add_done_callback(partial(self._sample_finished, requeue.others))
            self._enqueue_batch(Batch([requeue.sample]))

    def _later(self, seconds: float, enqueue: partial[None]) -> None:
        if seconds > 0:
            asyncio.get_running_loop().call_later(seconds, enqueue)
        else:
            enqueue()

    def _sample_finished(
        self, others: Sequence[tuple[OutgoingMail, PermanentError]], result: asyncio.Future[Accepted]
    ) -> None:
        """The sample of a batch whose emails were all rejected has a result: the others fail too, or are sent."""
        rejected = not result.cancelled() and isinstance(result.exception(), PermanentError)
        for mail, error in others:
            if rejected:
                mail.fail(error)
            else:
                self._enqueue(mail)

    def _enqueue(self, mail: OutgoingMail) -> None:
        # Wake the loop only if this email changes what it waits for; a busy loop need not see each email.
        wake = self._queue.empty or (mail.urgent and not self._queue.has_urgent)
        self._queue.push(mail)
        if wake or len(self._queue) == MAX_BATCH_SIZE:
            self._wake_up.set()

    def _enqueue_batch(self, batch: Batch) -> None:
        self._queue.push_batch(batch)
        self._wake_up.set()
