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
from flowstate_daemon.base.errors import Final, LockLost, Outage
from flowstate_daemon.base.service import Service
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.delivery.answers import Rate
from flowstate_daemon.delivery.gateway import MOST_IN_BATCH, Gateway
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.queue.envelopes import Envelope, Envelopes
from flowstate_daemon.queue.pacer import Pacer
from flowstate_daemon.work.carrier import UNANSWERED, Back, Carrier
from flowstate_daemon.work.lane import Lane
from flowstate_daemon.work.line import Line
from flowstate_daemon.work.parcel import Load, Member, Parcel, drop_outdated, idempotency_key
from flowstate_daemon.work.rejoin import Rejoin
from flowstate_daemon.work.right_of_way import RightOfWay

log = structlog.get_logger()

UNDER_WAY = 8  # requests at once
URGENT_UNDER_WAY = 4  # and for codes as many more
MOST_UNDER_WAY = UNDER_WAY + URGENT_UNDER_WAY
LOOK_UP_S = 5.0
GATHER_S = 0.1  # how long a batch that is not full waits for company


class Bus(Service):
    """One bus per process; the pace is shared with all others."""

    name: ClassVar[str] = "bus"

    def __init__(
        self, gateway: Gateway, envelopes: Envelopes, pacer: Pacer, lane: Lane, pulse: Pulse, clock: Clock
    ) -> None:
        super().__init__(pulse)
        self._gateway = gateway
        self._pacer = pacer
        self._lane = lane
        self._clock = clock
        self._line = Line()
        self.right_of_way = RightOfWay(clock)
        self._carrier = Carrier(gateway, envelopes, pacer, lane, self.right_of_way, clock)
        self._rejoin = Rejoin(envelopes, self._carrier, self._enter_load)
        self._tasks: set[asyncio.Task[Back]] = set()
        self._urgent_tasks = 0
        self._expected = 0
        self._rate: Rate | None = None
        self._held_at = -math.inf
        self._roused = asyncio.Event()
        self._senders: Pulse | None = None

    def watch(self, senders: Pulse) -> None:
        """Whoever waits on the bus is alive as long as the bus is."""
        self._senders = senders

    @property
    def waiting(self) -> int:
        """Mails that wait for a request."""
        return self._line.mails

    @property
    def under_way(self) -> int:
        """Requests without an answer yet."""
        return len(self._tasks)

    def hear(self, rate: Rate | None) -> None:
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
                self._roused.set()

    async def post(self, parcel: Parcel) -> Accepted:
        """Send one mail; returns when the provider has taken it. Raises by fate."""
        parcel.posted_at = self._clock.mono()
        if parcel.job.envelope is None:
            parcel.written(self._gateway.write)  # one by one: a hundred at once would hold up a code
            self._enter(parcel)
        else:
            self._rejoin.join(parcel, parcel.job.envelope)
        return await parcel.fate

    def stop(self) -> None:
        super().stop()
        self._roused.set()

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            # Whoever is still under way has been handed back, sealed: its next taker sends the same bytes.
            await self._rejoin.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def turn(self) -> None:
        self._roused.clear()  # before looking, or what comes while we look would be slept through
        if self._senders is not None and not self._senders.resting:
            self._senders.beat()
        wait_s = await self._admission()
        if wait_s > 0:
            await self._rest(wait_s)
        elif (load := self._next_load()) is not None:
            self._start(load)

    async def _admission(self) -> float:
        """0 when a request may start now, else how long to wait before looking again."""
        if self._line.empty and not self._tasks:
            self._lane.breaker.idle()
        if self._line.empty or self._full():
            return LOOK_UP_S
        await self._gather()
        wait_s = self._lane.wait_s(urgent=self._line.urgent)
        if wait_s > 0 and await self._pacer.asked_to_try():
            self._lane.try_now()
            wait_s = self._lane.wait_s(urgent=self._line.urgent)
        held = wait_s > 0
        if not held:
            wait_s = await self._pacer.slot(urgent=self._line.urgent)
        self._held_at = self._clock.mono() if held or self._pacer.bulk_paused else self._held_at
        return wait_s

    def _full(self) -> bool:
        """Codes have requests of their own beyond those that bulk may fill."""
        if not self._pacer.heard:
            return bool(self._tasks)  # the first answer tells the rate
        if self._line.urgent:
            return len(self._tasks) >= MOST_UNDER_WAY
        return len(self._tasks) - self._urgent_tasks >= UNDER_WAY

    async def _gather(self) -> None:
        """Bulk waits a moment for company: mails that are being made, or claimed when a request has landed."""
        deadline = self._clock.mono() + GATHER_S
        while (self._expected or self._tasks) and len(self._line) < MOST_IN_BATCH and not self._line.urgent:
            left_s = deadline - self._clock.mono()
            if left_s <= 0:
                return
            self._roused.clear()
            await self._rest(left_s)

    async def _rest(self, seconds: float) -> None:
        """Until a code has come, the line is no longer empty, or a request has ended; but no longer than that."""
        if not self.stopping:
            await self.within(min(seconds, LOOK_UP_S), self._roused.wait())

    def _next_load(self) -> Load | None:
        urgent, resting = self._line.urgent, self._lane.breaker.resting
        # Where requests cost nothing, a code does not wait for a long body to be sealed.
        alone = urgent and (self._pacer.bulk_paused or not self._pacer.limited or resting)
        most = 1 if resting and not urgent else MOST_IN_BATCH  # who tries may lose an attempt
        load = self._line.take(lambda parcel: self._gateway.batchable(parcel.mail), most=most, urgent_only=alone)
        if load is not None and load.envelope is None:
            drop_outdated(load.parcels, self._clock.now_ms(), held_at=self._held_at)
        return load if load is not None and load.live else None

    async def _sealed(self, load: Load) -> bool:
        """Write the request down before its first try, without those whose lock is no longer ours."""
        while load.envelope is None and (live := load.live):
            try:
                envelope = await self._composed(live)
            except Final:
                continue
            is_sealed, lost = await self._carrier.seal(envelope)
            if is_sealed:
                load.parcels, load.envelope = live, envelope
                for parcel in live:
                    parcel.envelope = envelope.id
            for parcel in live:
                if parcel.job.id in lost:
                    parcel.fail(LockLost("another worker owns the job by now"))
        return bool(load.live)

    async def _composed(self, parcels: Sequence[Parcel]) -> Envelope:
        """The request for these mails. Raises Final after ending the mail that cannot be written."""
        written: list[bytes] = []
        for parcel in parcels:
            try:
                written.append(parcel.written(self._gateway.write))
            except Final as unfit:
                parcel.fail(unfit)
                raise
        members = tuple(parcel.member for parcel in parcels)
        if len(written) == 1:
            path, body, key = self._put_together(written, members)
        else:
            path, body, key = await asyncio.to_thread(self._put_together, written, members)
        return Envelope(uuid4().hex, path, body, key, members, sealed_at=self._clock.now_ms())

    def _put_together(self, written: Sequence[bytes], members: Sequence[Member]) -> tuple[str, bytes, str]:
        path, body = self._gateway.compose(written)
        return path, body, idempotency_key(path, body, members)

    def _start(self, load: Load) -> None:
        urgent = load.urgent
        self._lane.enter()
        load.tries = not urgent and self._lane.breaker.enter()
        self._urgent_tasks += urgent
        task = asyncio.create_task(self._carry(load, urgent), name="request")
        self._tasks.add(task)
        task.add_done_callback(partial(self._landed, load, urgent))

    async def _carry(self, load: Load, urgent: bool) -> Back:
        """Seal and send. A task for each, so that a code does not wait while a long request is written down."""
        if not urgent:
            await self.right_of_way.give_way()
        if load.envelope is None and not await self._sealed(load):
            self._lane.unused()
            return UNANSWERED
        was_closed = self._lane.closed
        back = await self._carrier.carry(load)
        if back.answered:
            self._lane.breaker.well()
            rate, self._rate = self._rate, None
            try:
                await self._pacer.learn(rate)
                if self._lane.closed != was_closed:
                    await self._pacer.tell_lane(self._lane.closed)
            except Outage as outage:
                log.warning("rate_not_shared", reason=outage.reason)
        return back

    def _landed(self, load: Load, urgent: bool, task: asyncio.Task[Back]) -> None:
        self._tasks.discard(task)
        self._urgent_tasks -= urgent
        self._roused.set()
        if task.cancelled():
            return
        bug = task.exception()
        if bug is None:
            self._back(task.result())
            return
        self._lane.unused()
        for parcel in load.parcels:
            parcel.fail(bug)

    def _back(self, back: Back) -> None:
        for load in back.loads:
            self._later(back.after_s, partial(self._enter_load, load))
        for parcel in back.parcels:
            self._later(back.after_s, partial(self._enter, parcel))
        if back.sample is not None:
            back.sample.fate.add_done_callback(partial(self._decided, back.others))
            self._enter_load(Load([back.sample]))

    def _later(self, seconds: float, enter: partial[None]) -> None:
        if seconds > 0:
            asyncio.get_running_loop().call_later(seconds, enter)
        else:
            enter()

    def _decided(self, others: Sequence[tuple[Parcel, Final]], fate: asyncio.Future[Accepted]) -> None:
        """The sample of a batch that was refused mail by mail has ended."""
        refused = not fate.cancelled() and isinstance(fate.exception(), Final)
        for parcel, final in others:
            if refused:
                parcel.fail(final)
            else:
                self._enter(parcel)

    def _enter(self, parcel: Parcel) -> None:
        rouse = self._line.empty or (parcel.urgent and not self._line.urgent)
        self._line.push(parcel)
        if rouse or len(self._line) == MOST_IN_BATCH:
            self._roused.set()

    def _enter_load(self, load: Load) -> None:
        self._line.push_load(load)
        self._roused.set()
