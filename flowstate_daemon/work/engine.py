"""The loops of this room, put together: started in the order of need, drained in the order of a mail's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

import structlog

from flowstate_daemon.base.errors import LeaseTaken, LoopBug
from flowstate_daemon.base.instruments import Instruments
from flowstate_daemon.base.service import Service, unless
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.lease import Lease
from flowstate_daemon.queue.signals import Signals
from flowstate_daemon.work.bus import Bus
from flowstate_daemon.work.fate import RetryRules
from flowstate_daemon.work.fetcher import Fetcher
from flowstate_daemon.work.inflight import CalledOff, InFlight
from flowstate_daemon.work.lane import Lane
from flowstate_daemon.work.lease_keeper import LeaseKeeper
from flowstate_daemon.work.lock_keeper import LockKeeper
from flowstate_daemon.work.pool import Perform, Pool
from flowstate_daemon.work.promoter import Promoter
from flowstate_daemon.work.reclaimer import Reclaimer
from flowstate_daemon.work.report import Reporter
from flowstate_daemon.work.right_of_way import RightOfWay
from flowstate_daemon.work.scribe import Scribe
from flowstate_daemon.work.settler import Settler

log = structlog.get_logger()

T = TypeVar("T")

# After the drain's deadline, how long the settler may still write what was handed back.
LAST_WORDS_S = 5.0


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Numbers of the engine: slots, Bull's lock and stall settings, the drain's deadline."""

    concurrency: int = 300
    urgent_reserve: int = 20
    lock_ms: int = 30_000
    stalled_interval_ms: int = 30_000
    max_stalled: int = 1
    max_recoveries: int = 10
    jitter: float = 0.0
    drain_s: float = 25.0


@dataclass(frozen=True, slots=True)
class Records:
    """Who writes outcomes down: the scribe beside each ending, and the loops that carry them on."""

    scribe: Scribe | None = None
    services: tuple[Service, ...] = ()
    notice: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """What a run goes through: the performer, the lane, the bus if it posts to one, and who writes its outcome down.

    `sources` are loops that bring new jobs; they stop with those that claim.
    """

    perform: Perform
    lane: Lane
    bus: Bus | None = None
    records: Records = field(default_factory=Records)
    sources: tuple[Service, ...] = ()


def tell_of_bug(group: ExceptionGroup) -> NoReturn:
    """One loop has ended the house: by losing the lease, which is told as such, or by a bug, told whole in the log."""
    error: BaseException | None = group.subgroup(LeaseTaken)
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error
    log.critical("loop_bug", exc_info=group, remedy="a supervisor should start the daemon again; please report this")
    raise LoopBug("a loop of the daemon had a bug; the log's line loop_bug tells which") from group


class Engine:
    """Runs jobs of one queue with one performer until it is told to stop."""

    def __init__(
        self,
        bull: Bull,
        signals: Signals,
        lease: Lease,
        way: Way,
        settings: EngineSettings,
        instruments: Instruments,
    ) -> None:
        vitals, metrics, clock = instruments.vitals, instruments.metrics, instruments.clock
        self._settings = settings
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._bus = bus = way.bus
        right_of_way = RightOfWay(clock) if bus is None else bus.right_of_way
        self.inflight = InFlight(settings.concurrency, settings.urgent_reserve)
        reporter = Reporter(instruments)
        self._records = way.records
        self._sources = way.sources
        self._settler = Settler(
            bull, self.inflight, reporter, right_of_way, vitals.pulse("settler"), self._records.notice
        )
        rules = RetryRules(jitter=settings.jitter)
        size = settings.concurrency + settings.urgent_reserve
        self._pool = Pool(
            way.perform,
            self.inflight,
            self._settler,
            right_of_way,
            vitals.pulse("senders"),
            rules,
            size=size,
            scribe=self._records.scribe,
        )
        if bus is not None:
            bus.watch(self._pool.pulse)
        self._fetcher = Fetcher(
            bull,
            self.inflight,
            self._pool,
            way.lane,
            instruments,
            vitals.pulse("fetcher"),
            max_recoveries=settings.max_recoveries,
        )
        metrics.watch_slots(lambda: self.inflight.busy)
        self._promoter = Promoter(bull, signals, vitals.pulse("promoter"), clock)
        self._reclaimer = Reclaimer(
            bull,
            metrics,
            vitals.pulse("reclaimer"),
            clock,
            interval_ms=settings.stalled_interval_ms,
            max_stalled=settings.max_stalled,
        )
        self._lock_keeper = LockKeeper(
            bull, self.inflight, metrics, vitals.pulse("lock_keeper"), clock, lock_ms=settings.lock_ms
        )
        self._lease_keeper = LeaseKeeper(lease, vitals.pulse("lease_keeper"), clock)

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def allow(self, drain_s: float) -> None:
        """Change how long a drain that has not begun may last."""
        self._settings = replace(self._settings, drain_s=drain_s)

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await `work`, which must be safe to cancel; None when `stop()` came first."""
        return await unless(self._stop, work)

    def stop(self) -> None:
        """Drain: take nothing new, let runs end until the deadline, hand back the rest."""
        self._stop.set()

    def hurry(self) -> None:
        """Hand back now."""
        self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Run all loops until `stop()`. Raises LeaseTaken, or LoopBug when a loop has one."""
        try:
            await self._run()
        except ExceptionGroup as group:
            tell_of_bug(group)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            # What writes down and what holds on start before what claims.
            keepers: list[Service] = [self._settler, self._lock_keeper, self._lease_keeper]
            if self._bus is not None:
                keepers.append(self._bus)
            keepers.extend(self._records.services)
            for keeper in keepers:
                group.create_task(keeper.run(), name=keeper.name)
            senders = group.create_task(self._pool.run(), name=self._pool.name)
            movers = (*self._sources, self._promoter, self._reclaimer, self._fetcher)
            moving = [group.create_task(mover.run(), name=mover.name) for mover in movers]
            try:
                await self._stop.wait()
                log.info("draining", in_flight=len(self.inflight), deadline_s=self._settings.drain_s)
                for mover in movers:
                    mover.stop()
                await asyncio.wait(moving)
                await self._drain()
                senders.cancel()
            finally:
                # Locks are renewed until the last job has ended. After a bug in one loop all are told as well: the
                # group cancels each once, and a library may swallow that (see `unless`).
                for service in (*movers, *keepers):
                    service.stop()

    async def _drain(self) -> None:
        hurry = asyncio.ensure_future(self._hurry.wait())
        ended = asyncio.ensure_future(self._none_left())
        await asyncio.wait((hurry, ended), timeout=self._settings.drain_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not ended.done():
            self.inflight.call_off(self.inflight.ids(), CalledOff.HANDED_BACK)
            await asyncio.wait((ended,), timeout=LAST_WORDS_S)
        ended.cancel()
        if len(self.inflight):
            log.warning("left_behind", jobs=len(self.inflight), remedy="the next start of this instance takes them up")

    async def _none_left(self) -> None:
        while len(self.inflight):
            await self.inflight.changed()
