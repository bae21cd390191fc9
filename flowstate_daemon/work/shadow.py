"""The engine's stand-in for a take-over: follows the queue beside the worker of old, and tells what it would have done.

It reads and listens only: claims nothing, sends nothing, writes nothing down. The house runs it in the engine's place.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence, Sized
from typing import ClassVar

import structlog

from flowstate_daemon.base.service import LONGEST_SILENCE_S, Service
from flowstate_daemon.base.shadow_metrics import ShadowMetrics
from flowstate_daemon.base.vitals import Pulse
from flowstate_daemon.queue.onlooker import BATCH, Onlooker, Sign
from flowstate_daemon.work.comparison import agree, deed_of
from flowstate_daemon.work.engine import tell_of_bug
from flowstate_daemon.work.rehearsal import Rehearsal, Verdict

log = structlog.get_logger()

AHEAD = 1_000  # jobs of a backlog that are read before their turn; the others are read when a worker takes them
REMEMBERED = 10_000  # jobs whose end is awaited


class Shadow(Service):
    """Judges each job that it sees, and compares at the job's end."""

    name: ClassVar[str] = "shadow"

    def __init__(self, onlooker: Onlooker, rehearsal: Rehearsal, metrics: ShadowMetrics, pulse: Pulse) -> None:
        super().__init__(pulse)
        self.rehearsal = rehearsal
        self._onlooker = onlooker
        self._metrics = metrics
        self._judged: OrderedDict[str, Verdict] = OrderedDict()

    @property
    def inflight(self) -> Sized:
        """Jobs whose end is awaited."""
        return self._judged

    def allow(self, _drain_s: float) -> None:
        """Nothing is in hand: there is nothing to drain."""

    def hurry(self) -> None:
        self.stop()

    async def listen(self) -> None:
        """Hear all that happens from here on. Raises Outage."""
        await self._onlooker.listen()

    async def run(self) -> None:
        """Follow the queue until `stop()`. Raises LoopBug."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(super().run(), name=self.name)
        except ExceptionGroup as bug:
            tell_of_bug(bug)
        finally:
            await self._onlooker.close()
        log.info("shadow_ended", awaited=len(self._judged), **self._metrics.totals)

    async def turn(self) -> None:
        if not self._onlooker.listening:
            await self.listen()
        if self._onlooker.deaf:
            # Whatever stands there was announced before anybody listened.
            await self._judge(await self._onlooker.standing(AHEAD))
            self._onlooker.deaf = False
        if signs := await self.unless_stopped(self._onlooker.signs(LONGEST_SILENCE_S)):
            await self._follow(signs)

    async def _follow(self, signs: Sequence[Sign]) -> None:
        await self._judge(sign.job_id for sign in signs)
        for sign in signs:
            if sign.what in {"completed", "failed"}:
                self._compare(sign)

    async def _judge(self, job_ids: Iterable[str]) -> None:
        """Each job once, however often it is tried."""
        new = [job_id for job_id in dict.fromkeys(job_ids) if job_id not in self._judged]
        for first in range(0, len(new), BATCH):
            jobs = await self._onlooker.glance(new[first : first + BATCH])
            verdicts = await asyncio.gather(*(self.rehearsal.verdict(job) for job in jobs.values()))
            for job_id, verdict in zip(jobs, verdicts, strict=True):
                self._note(job_id, verdict)
            self.progressed()

    def _note(self, job_id: str, verdict: Verdict) -> None:
        self._judged[job_id] = verdict
        while len(self._judged) > REMEMBERED:
            self._judged.popitem(last=False)
        self._metrics.judged(verdict.kind, verdict.would)
        log.info(
            "shadow_judged",
            job_id=job_id,
            kind=verdict.kind,
            would=verdict.would,
            reason=verdict.reason,
            to=verdict.to,
            html_bytes=verdict.size,
        )

    def _compare(self, sign: Sign) -> None:
        verdict, deed = self._judged.pop(sign.job_id, None), deed_of(sign)
        if verdict is None:
            self._metrics.compared("", "unseen")
            log.info("shadow_unseen", job_id=sign.job_id, bull=deed.did, reason="it was gone before it could be read")
        elif agree(verdict, deed):
            self._metrics.compared(verdict.kind, "same")
        else:
            self._metrics.compared(verdict.kind, "different")
            log.warning(
                "shadow_differs",
                job_id=sign.job_id,
                kind=verdict.kind,
                would=verdict.would,
                reason=verdict.reason,
                bull=deed.did,
                bull_reason=deed.reason,
                remedy="docs/takeover.md tells what each difference means",
            )
