"""The bus: rendered mails wait here in one order, and leave in as few requests as the provider's rate allows.

Whenever the pacer grants a slot, the most urgent up to 100 are put into one request, sealed, and carried off in a
task of their own. Senders await `post`; the engine runs the loop. Knows Redis only through envelopes and pacer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import ClassVar
from uuid import uuid4

import structlog

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import LockLostError, PermanentError, StoreUnavailableError
from flowstate_daemon.base.event_loop import UrgentPriority
from flowstate_daemon.base.health import Heartbeat
from flowstate_daemon.base.service import Service
from flowstate_daemon.delivery.gateway import MAX_BATCH_SIZE, Gateway
from flowstate_daemon.delivery.responses import RateLimit
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.sending.batch import Batch, JobRef, OutgoingMail, expire_stale, idempotency_key
from flowstate_daemon.sending.batch_sender import UNANSWERED, BatchSender, Requeue, ResumedBatches
from flowstate_daemon.sending.rate_limiter import RateLimiter
from flowstate_daemon.sending.request_store import RequestStore, StoredRequest
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.sending.send_queue import SendQueue

log = structlog.get_logger()

MAX_REQUESTS = 8  # requests at once
MAX_URGENT_REQUESTS = 4  # and for codes as many more
MAX_TOTAL_REQUESTS = MAX_REQUESTS + MAX_URGENT_REQUESTS
POLL_INTERVAL_S = 5.0
BATCH_WINDOW_S = 0.1  # how long a batch that is not full waits for company


class Dispatcher(Service):
    """One bus per process; the pace is shared with all others."""

    name: ClassVar[str] = "bus"

    def __init__(
        self,
        gateway: Gateway,
        request_store: RequestStore,
        rate_limiter: RateLimiter,
        gate: SendGate,
        heartbeat: Heartbeat,
        clock: Clock,
    ) -> None:
        super().__init__(heartbeat)
        self._gateway = gateway
        self._rate_limiter = rate_limiter
        self._gate = gate
        self._clock = clock
        self._line = SendQueue()
        self.right_of_way = UrgentPriority(clock)
        self._batch_sender = BatchSender(gateway, request_store, rate_limiter, gate, self.right_of_way, clock)
        self._rejoin = ResumedBatches(request_store, self._batch_sender, self._enter_load)
        self._tasks: set[asyncio.Task[Requeue]] = set()
        self._urgent_tasks = 0
        self._expected = 0
        self._rate: RateLimit | None = None
        self._held_at = -math.inf
        self._wake_up = asyncio.Event()
        self._senders: Heartbeat | None = None

    def watch(self, senders: Heartbeat) -> None:
        """Whoever waits on the bus is alive as long as the bus is."""
        self._senders = senders

    @property
    def queued(self) -> int:
        """Mails that wait for a request."""
        return self._line.mail_count

    @property
    def in_flight(self) -> int:
        """Requests without an answer yet."""
        return len(self._tasks)

    def receive(self, rate: RateLimit | None) -> None:
        """What an answer of the provider says of the request rate."""
        self._rate = rate or self._rate

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """A mail is being made: a batch that is not full may wait for it."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1
            if not self._expected:
                self._wake_up.set()

    async def send(self, mail: OutgoingMail) -> Accepted:
        """Send one mail; returns when the provider has taken it. Raises by fate."""
        mail.queued_at = self._clock.monotonic()
        if mail.job.stored_request_id is None:
            mail.encoded(self._gateway.encode)  # one by one: a hundred at once would hold up a code
            self._enter(mail)
        else:
            self._rejoin.add(mail, mail.job.stored_request_id)
        return await mail.result

    def stop(self) -> None:
        super().stop()
        self._wake_up.set()

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            # Whoever is still under way has been handed back, sealed: its next taker sends the same bytes.
            await self._rejoin.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run_once(self) -> None:
        self._wake_up.clear()  # before looking, or what comes while we look would be slept through
        if self._senders is not None and not self._senders.is_idle:
            self._senders.beat()
        wait_s = await self._admission()
        if wait_s > 0:
            await self._rest(wait_s)
        elif (load := self._next_load()) is not None:
            self._start(load)

    async def _admission(self) -> float:
        """0 when a request may start now, else how long to wait before looking again."""
        if self._line.empty and not self._tasks:
            self._gate.circuit_breaker.reset_if_idle()
        if self._line.empty or self._full():
            return POLL_INTERVAL_S
        await self._loader()
        wait_s = self._gate.wait_s(urgent=self._line.has_urgent)
        if wait_s > 0 and await self._rate_limiter.retry_requested():
            self._gate.retry_now()
            wait_s = self._gate.wait_s(urgent=self._line.has_urgent)
        held = wait_s > 0
        if not held:
            wait_s = await self._rate_limiter.acquire(urgent=self._line.has_urgent)
        self._held_at = self._clock.monotonic() if held or self._rate_limiter.bulk_paused else self._held_at
        return wait_s

    def _full(self) -> bool:
        """Codes have requests of their own beyond those that bulk may fill."""
        if not self._rate_limiter.limit_known:
            return bool(self._tasks)  # the first answer tells the rate
        if self._line.has_urgent:
            return len(self._tasks) >= MAX_TOTAL_REQUESTS
        return len(self._tasks) - self._urgent_tasks >= MAX_REQUESTS

    async def _loader(self) -> None:
        """Bulk waits a moment for company: mails that are being made, or claimed when a request has landed."""
        deadline = self._clock.monotonic() + BATCH_WINDOW_S
        while (self._expected or self._tasks) and len(self._line) < MAX_BATCH_SIZE and not self._line.has_urgent:
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0:
                return
            self._wake_up.clear()
            await self._rest(left_s)

    async def _rest(self, seconds: float) -> None:
        """Until a code has come, the line is no longer empty, or a request has ended; but no longer than that."""
        if not self.stopping:
            await self.wait(min(seconds, POLL_INTERVAL_S), self._wake_up.wait())

    def _next_load(self) -> Batch | None:
        urgent, resting = self._line.has_urgent, self._gate.circuit_breaker.resting
        # Where requests cost nothing, a code does not wait for a long body to be sealed.
        alone = urgent and (self._rate_limiter.bulk_paused or not self._rate_limiter.has_limit or resting)
        most = 1 if resting and not urgent else MAX_BATCH_SIZE  # who tries may lose an attempt
        load = self._line.pop(lambda mail: self._gateway.can_batch(mail.mail), most=most, urgent_only=alone)
        if load is not None and load.stored_request is None:
            expire_stale(load.mails, self._clock.now_ms(), held_at=self._held_at)
        return load if load is not None and load.pending else None

    async def _stored(self, load: Batch) -> bool:
        """Write the request down before its first try, without those whose lock is no longer ours."""
        while load.stored_request is None and (live := load.pending):
            try:
                stored_request = await self._composed(live)
            except PermanentError:
                continue
            is_stored, lost = await self._batch_sender.store(stored_request)
            if is_stored:
                load.mails, load.stored_request = live, stored_request
                for mail in live:
                    mail.stored_request_id = stored_request.id
            for mail in live:
                if mail.job.id in lost:
                    mail.fail(LockLostError("another worker owns the job by now"))
        return bool(load.pending)

    async def _composed(self, mails: Sequence[OutgoingMail]) -> StoredRequest:
        """The request for these mails. Raises Final after ending the mail that cannot be written."""
        written: list[bytes] = []
        for mail in mails:
            try:
                written.append(mail.encoded(self._gateway.encode))
            except PermanentError as unfit:
                mail.fail(unfit)
                raise
        members = tuple(mail.job_ref for mail in mails)
        if len(written) == 1:
            path, body, key = self._put_together(written, members)
        else:
            path, body, key = await asyncio.to_thread(self._put_together, written, members)
        return StoredRequest(uuid4().hex, path, body, key, members, saved_at=self._clock.now_ms())

    def _put_together(self, written: Sequence[bytes], members: Sequence[JobRef]) -> tuple[str, bytes, str]:
        path, body = self._gateway.build_request(written)
        return path, body, idempotency_key(path, body, members)

    def _start(self, load: Batch) -> None:
        urgent = load.urgent
        self._gate.start_request()
        load.is_probe = not urgent and self._gate.circuit_breaker.start_request()
        self._urgent_tasks += urgent
        task = asyncio.create_task(self._carry(load, urgent), name="request")
        self._tasks.add(task)
        task.add_done_callback(partial(self._landed, load, urgent))

    async def _carry(self, load: Batch, urgent: bool) -> Requeue:
        """Seal and send. A task for each, so that a code does not wait while a long request is written down."""
        if not urgent:
            await self.right_of_way.yield_to_urgent()
        if load.stored_request is None and not await self._stored(load):
            self._gate.cancel_probe()
            return UNANSWERED
        was_closed = self._gate.closed
        back = await self._batch_sender.send(load)
        if back.answered:
            self._gate.circuit_breaker.record_success()
            rate, self._rate = self._rate, None
            try:
                await self._rate_limiter.update_from_headers(rate)
                if self._gate.closed != was_closed:
                    await self._rate_limiter.publish_refusal(self._gate.closed)
            except StoreUnavailableError as outage:
                log.warning("rate_limit_not_shared", reason=outage.reason)
        return back

    def _landed(self, load: Batch, urgent: bool, task: asyncio.Task[Requeue]) -> None:
        self._tasks.discard(task)
        self._urgent_tasks -= urgent
        self._wake_up.set()
        if task.cancelled():
            return
        bug = task.exception()
        if bug is None:
            self._back(task.result())
            return
        self._gate.cancel_probe()
        for mail in load.mails:
            mail.fail(bug)

    def _back(self, back: Requeue) -> None:
        for load in back.batches:
            self._later(back.after_s, partial(self._enter_load, load))
        for mail in back.mails:
            self._later(back.after_s, partial(self._enter, mail))
        if back.sample is not None:
            back.sample.result.add_done_callback(partial(self._decided, back.others))
            self._enter_load(Batch([back.sample]))

    def _later(self, seconds: float, enter: partial[None]) -> None:
        if seconds > 0:
            asyncio.get_running_loop().call_later(seconds, enter)
        else:
            enter()

    def _decided(self, others: Sequence[tuple[OutgoingMail, PermanentError]], result: asyncio.Future[Accepted]) -> None:
        """The sample of a batch that was refused mail by mail has ended."""
        refused = not result.cancelled() and isinstance(result.exception(), PermanentError)
        for mail, final in others:
            if refused:
                mail.fail(final)
            else:
                self._enter(mail)

    def _enter(self, mail: OutgoingMail) -> None:
        rouse = self._line.empty or (mail.urgent and not self._line.has_urgent)
        self._line.push(mail)
        if rouse or len(self._line) == MAX_BATCH_SIZE:
            self._wake_up.set()

    def _enter_load(self, load: Batch) -> None:
        self._line.push_batch(load)
        self._wake_up.set()
