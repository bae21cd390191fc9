"""The scheduler on real stores with a fake clock: its planner, enqueuer and reconciler, and a fake worker.

The fake worker does what a worker does for an email, without rendering: claim the job, claim the scheduled email,
complete with an outcome in the journal. It then moves the journal to the ledger, and keeps the delivered emails.
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

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import MailSkipped
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon.builders import SchedulerComponents, build_scheduler
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
    """One delivered email."""

    kind: str
    to: str
    at: datetime
    job_id: str
    context: Mapping[str, Any]


class FakeWorker:
    """Processes the jobs of one queue without sending."""

    def __init__(self, bull: BullQueue, journal: Journal, pool: asyncpg.Pool, keys: Keys, clock: Clock) -> None:
        self.delivered: list[DeliveredMail] = []
        self.refused: list[str] = []
        self._bull = bull
        self._journal = journal
        self._ledger = Ledger(pool, clock)
        self._recorder = OutcomeRecorder(keys, clock)
        self._clock = clock
        self._mail_guard = ScheduledMailGuard(ScheduledMails(pool, clock))

    async def run_once(self) -> int:
        """Process all waiting jobs and write the ledger; returns how many emails were delivered."""
        before = len(self.delivered)
        while jobs := await self._bull.claim(100):
            await self._bull.complete(await asyncio.gather(*map(self._process, jobs)))
        await self.write_ledger()
        return len(self.delivered) - before

    async def write_ledger(self) -> None:
        """Move the journal to the ledger, as the ledger writer does."""
        while entries := await self._journal.peek(500):
            outcomes, rejects = split_valid(entries)
            assert rejects == []
            await self._ledger.write(outcomes)
            await self._journal.drop(entries)

    async def _process(self, job: Job) -> JobSucceeded:
        data = msgspec.json.decode(job.data)
        run = JobRun(job, self._clock.monotonic(), recipient=data["to"])
        try:
            await self._mail_guard.check(job.id)
        except MailSkipped as skip:
            self.refused.append(job.id)
            run.skip_reason, run.log_fields["skipped"] = "skipped", skip.reason
        else:
            self.delivered.append(DeliveredMail(job.name, data["to"], self._clock.now(), job.id, data["context"]))
        result = self._recorder.attach(run, result_for_return(job, None))
        assert isinstance(result, JobSucceeded)
        return result


class SchedulerHarness:
    """The scheduler of one daemon, with a fake worker."""

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
        """Enqueue until nothing more is due or fits."""
        total = 0
        while processed := await self.scheduler.enqueuer.enqueue_due():
            total += processed
        return total

    async def tick(self) -> int:
        """Everything a daemon does at one instant; returns how many emails were delivered."""
        await self.plan()
        await self.enqueue_due()
        return await self.fake_worker.run_once()

    async def scheduled_mails(self) -> list[asyncpg.Record]:
        """All rows, ordered by due time."""
        async with self.pool.acquire() as connection:
            return list(
                await connection.fetch("SELECT * FROM flowstate_daemon.scheduled_mails ORDER BY due_at, kind, user_id")
            )

    async def outcomes(self) -> dict[tuple[str, str], tuple[str, str | None]]:
        """State and reason of each row by kind and user; the latest of several."""
        return {(row["kind"], row["user_id"]): (row["state"], row["reason"]) for row in await self.scheduled_mails()}


@dataclass(frozen=True, slots=True)
class SchedulerDatabase:
    """What daemons share: both stores, the queue, and the clock."""

    pool: asyncpg.Pool
    schema: str
    connection: Connection
    keys: Keys
    clock: Clock

    def harness(self, **settings: str) -> SchedulerHarness:
        """A daemon that has just started, with these settings of [schedule]."""
        environ = {f"FLOWSTATE_SCHEDULE_{name}".upper(): value for name, value in settings.items()}
        # A link of its own for each task, by which tests recognise it.
        links = {"FRONTEND_URL": "https://flowstate.example", "FLOWSTATE_LINKS_TASK": "/tasks/{id}"}
        config = load({**environ, **links})
        bull = BullQueue(self.connection, self.keys, self.clock, token=f"harness/{uuid4().hex}")
        journal = Journal(self.connection, self.keys)
        context = ServiceContext(HealthRegistry(self.clock), Metrics(KINDS), self.clock)
        scheduler = build_scheduler(config, AppDatabase(self.pool, self.schema), bull, journal, context)
        fake_worker = FakeWorker(bull, journal, self.pool, self.keys, self.clock)
        return SchedulerHarness(scheduler, fake_worker, self.clock, self.pool)


@asynccontextmanager
async def scheduler_harness(
    database_url: str, connection: Connection, keys: Keys, clock: FakeClock, **settings: str
) -> AsyncIterator[SchedulerHarness]:
    """A scheduler with these settings of [schedule], on a migrated database."""
    dsn = clean_dsn(database_url)
    async with open_pool(dsn) as pool:
        yield SchedulerDatabase(pool, dsn.schema, connection, keys, clock).harness(**settings)
