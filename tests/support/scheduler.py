"""The calendar on real stores with time moved by hand: its own planner, feeder and reconciler, and a postman.

The postman does what the engine does for a mail, without rendering: claim, leave, finish with an outcome in the
journal, and the ledger writer's move to Postgres. He keeps what he has carried.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec

from flowstate_daemon.base.errors import MailSkipped
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon.bootstrap import Dependencies, SchedulerComponents
from flowstate_daemon.database.app_database import AppDatabase
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.scheduled_mails import ScheduledMails
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Job, JobSucceeded
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.worker.in_flight import JobRun
from flowstate_daemon.worker.ledger_services import split_valid
from flowstate_daemon.worker.lookups import ScheduledMailGuard
from flowstate_daemon.worker.results import OutcomeRecorder, result_for_return
from tests.support.clock import FakeClock


@dataclass(frozen=True, slots=True)
class DeliveredMail:
    """One mail that has left: to whom, of which kind, when, saying what."""

    kind: str
    to: str
    at: datetime
    job_id: str
    context: Mapping[str, Any]


class FakeWorker:
    """Carries the mails of one queue."""

    def __init__(
        self, bull: BullQueue, journal: Journal, dependencies_pool: asyncpg.Pool, keys: Keys, clock: FakeClock
    ) -> None:
        self.carried: list[DeliveredMail] = []
        self.refused: list[str] = []
        self._bull = bull
        self._journal = journal
        self._ledger = Ledger(dependencies_pool, clock)
        self._recorder = OutcomeRecorder(keys, clock)
        self._clock = clock
        self._mail_guard = ScheduledMailGuard(ScheduledMails(dependencies_pool, clock))

    async def round(self) -> int:
        """Carry all that waits, and write it down. Returns how many mails left."""
        before = len(self.carried)
        while jobs := await self._bull.claim(100):
            await self._bull.complete(await asyncio.gather(*map(self._carry, jobs)))
        await self.file()
        return len(self.carried) - before

    async def file(self) -> None:
        """What the ledger writer does: journal to ledger."""
        while entries := await self._journal.peek(500):
            outcomes, rejects = split_valid(entries)
            assert rejects == []
            await self._ledger.write(outcomes)
            await self._journal.drop(entries)

    async def _carry(self, job: Job) -> JobSucceeded:
        data = msgspec.json.decode(job.data)
        run = JobRun(job, self._clock.monotonic(), recipient=data["to"])
        try:
            await self._mail_guard.check(job.id)
        except MailSkipped as skip:
            self.refused.append(job.id)
            run.skip_reason, run.log_fields["skipped"] = "skipped", skip.reason
        else:
            self.carried.append(DeliveredMail(job.name, data["to"], self._clock.now(), job.id, data["context"]))
        ending = self._recorder.attach(run, result_for_return(job, None))
        assert isinstance(ending, JobSucceeded)
        return ending


class SchedulerHarness:
    """One daemon's calendar, with its postman."""

    def __init__(
        self, scheduler: SchedulerComponents, fake_worker: FakeWorker, clock: FakeClock, pool: asyncpg.Pool
    ) -> None:
        self.scheduler = scheduler
        self.fake_worker = fake_worker
        self.clock = clock
        self.pool = pool

    async def plan(self) -> None:
        await self.scheduler.planner.plan_due()

    async def enqueue_due(self) -> int:
        """Feed until nothing is left that fits."""
        total = 0
        while fed := await self.scheduler.enqueuer.enqueue_due():
            total += fed
        return total

    async def tick(self) -> int:
        """All that a daemon does at one instant. Returns how many mails left."""
        await self.plan()
        await self.enqueue_due()
        return await self.fake_worker.round()

    async def scheduled_mails(self) -> list[asyncpg.Record]:
        """All slots, in their order."""
        async with self.pool.acquire() as connection:
            return list(
                await connection.fetch("SELECT * FROM flowstate_daemon.scheduled_mails ORDER BY due_at, kind, user_id")
            )

    async def outcomes(self) -> dict[tuple[str, str], tuple[str, str | None]]:
        """What became of each slot, by kind and person; of several the latest."""
        return {(row["kind"], row["user_id"]): (row["state"], row["reason"]) for row in await self.scheduled_mails()}


@dataclass(frozen=True, slots=True)
class SchedulerDatabase:
    """What daemons share and what outlives them: both stores, the queue, and time."""

    pool: asyncpg.Pool
    schema: str
    connection: Connection
    keys: Keys
    clock: FakeClock

    def stage(self, **settings: str) -> SchedulerHarness:
        """A daemon that has just started, with these settings of [schedule]."""
        environ = {f"FLOWSTATE_SCHEDULE_{name}".upper(): value for name, value in settings.items()}
        config = load({**environ, "FRONTEND_URL": "https://flowstate.example"})
        bull = BullQueue(self.connection, self.keys, self.clock, token=f"stage/{uuid4().hex}")
        dependencies = Dependencies(AppDatabase(self.pool, self.schema), self.connection, self.keys, bull)
        context = ServiceContext(HealthRegistry(self.clock), Metrics(KINDS), self.clock)
        fake_worker = FakeWorker(bull, Journal(self.connection, self.keys), self.pool, self.keys, self.clock)
        return SchedulerHarness(SchedulerComponents(config, dependencies, context), fake_worker, self.clock, self.pool)


@asynccontextmanager
async def scheduler_stage(
    database_url: str, connection: Connection, keys: Keys, clock: FakeClock, **settings: str
) -> AsyncIterator[SchedulerHarness]:
    """A calendar with these settings of [schedule], on a migrated database."""
    dsn = clean_dsn(database_url)
    async with open_pool(dsn) as pool:
        yield SchedulerDatabase(pool, dsn.schema, connection, keys, clock).stage(**settings)
