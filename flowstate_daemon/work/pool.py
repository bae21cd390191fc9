"""The pool of sender coroutines: each takes a run, performs it, and hands its ending to the settler.

Here, and only here, an exception of a performer becomes an ordinary failed attempt. Knows nothing of Redis.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeAlias

import structlog

from flowstate_daemon.base.errors import Expired, FlowstateError, LockLost, Malformed, Retry, Skip
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.mail.catalogue import URGENT
from flowstate_daemon.work.fate import Ending, Released, RetryRules, ended_by, finished
from flowstate_daemon.work.inflight import CalledOff, InFlight, Run
from flowstate_daemon.work.right_of_way import PIECE, RightOfWay
from flowstate_daemon.work.scribe import Scribe
from flowstate_daemon.work.settler import Settler

log = structlog.get_logger()

Perform: TypeAlias = Callable[[Run], Awaitable[Any]]
"""Does one job; returns its JSON-able result or raises by fate."""


class Pool:
    """`size` coroutines that perform runs until they are cancelled."""

    name: ClassVar[str] = "senders"

    def __init__(  # noqa: PLR0913 - the pool stands between all parts of a run
        self,
        perform: Perform,
        inflight: InFlight,
        settler: Settler,
        right_of_way: RightOfWay,
        pulse: Pulse,
        rules: RetryRules,
        *,
        size: int,
        scribe: Scribe | None = None,
    ) -> None:
        """`scribe` adds to each ending what the ledger wants of it."""
        self._perform = perform
        self._inflight = inflight
        self._settler = settler
        self._rules = rules
        self._scribe = scribe
        self._size = size
        self._right_of_way = right_of_way
        self._anteroom: asyncio.Queue[Run] = asyncio.Queue()
        self._inbox: asyncio.Queue[Run] = asyncio.Queue()
        self._rng = random.Random()  # noqa: S311 - jitter, not secrecy
        self.pulse = pulse
        self.pulse.rest()

    def hand_over(self, run: Run) -> None:
        """Give a claimed run to the next idle coroutine, a code at once; the caller has counted the free slots."""
        urgent = run.job.priority == URGENT
        if urgent:
            self._right_of_way.claimed(run.job.id)
        (self._inbox if urgent else self._anteroom).put_nowait(run)
        if self.pulse.resting:
            self.pulse.beat()

    async def run(self) -> None:
        """Keep `size` senders at work; returns when cancelled."""
        async with asyncio.TaskGroup() as crew:
            crew.create_task(self._usher_in(), name="usher")
            for number in range(self._size):
                crew.create_task(self._work(), name=f"sender-{number}")

    async def _usher_in(self) -> None:
        """A claim of fifty begins in pieces: the first steps of all at once would hold up a code that comes then."""
        while True:
            self._inbox.put_nowait(await self._anteroom.get())
            if self._inbox.qsize() >= PIECE:
                await self._right_of_way.give_way()

    async def _work(self) -> None:
        while True:
            run = await self._inbox.get()
            ending = await self._end_of(run)
            run.over = True
            self._inflight.performed()
            if ending is None:
                self._inflight.settled(run.job)
            else:
                self._settler.put(ending if self._scribe is None else self._scribe.complete(run, ending))
            self.pulse.beat()
            if not self._inflight.busy:
                self.pulse.rest()

    async def _end_of(self, run: Run) -> Ending | None:
        """Perform one run; None when its result is nobody's business any more."""
        if run.called_off is None:
            run.task = task = asyncio.current_task()
            try:
                return finished(run.job, await self._performed(run))
            except asyncio.CancelledError:
                if run.called_off is None or task is None:
                    raise
                task.uncancel()
            except LockLost:
                return None
            except Exception as error:
                if isinstance(error, Skip):
                    run.skipped = "expired" if isinstance(error, Expired) else "skipped"
                    run.facts[run.skipped] = error.reason
                elif not isinstance(error, FlowstateError):
                    log.exception("performer_bug", job_id=run.job.id, kind=run.job.name)
                return ended_by(run.job, error, self._rules, self._rng)
            finally:
                run.task = None
        return Released(run.job) if run.called_off is CalledOff.HANDED_BACK else None

    async def _performed(self, run: Run) -> Any:
        job = run.job
        if job.problem is not None:
            raise Malformed(job.problem)
        if job.options.timeout_ms is None:
            return await self._perform(run)
        scope = asyncio.timeout(job.options.timeout_ms / 1000)
        try:
            async with scope:
                return await self._perform(run)
        except TimeoutError:
            if not scope.expired():
                raise
            # Bull's own words, which tools and people know.
            raise Retry(f"Promise timed out after {job.options.timeout_ms} milliseconds") from None
