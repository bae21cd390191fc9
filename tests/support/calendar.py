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

from flowstate_daemon.base.config import load
from flowstate_daemon.base.errors import Skip
from flowstate_daemon.base.instruments import Instruments
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.vitals import Vitals
from flowstate_daemon.daemon.calendar import Calendar, Shop
from flowstate_daemon.database.application import Application
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.notices import Notices
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.mail.catalogue import KINDS
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.job import Finished, Job
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.work.fate import finished
from flowstate_daemon.work.inflight import Run
from flowstate_daemon.work.leaves import Leaves
from flowstate_daemon.work.ledger_writer import sorted_out
from flowstate_daemon.work.scribe import Scribe
from tests.support.clock import HandClock


@dataclass(frozen=True, slots=True)
class Carried:
    """One mail that has left: to whom, of which kind, when, saying what."""

    kind: str
    to: str
    at: datetime
    job_id: str
    context: Mapping[str, Any]


class Postman:
    """Carries the mails of one queue."""

    def __init__(self, bull: Bull, journal: Journal, shop_pool: asyncpg.Pool, keys: Keys, clock: HandClock) -> None:
        self.carried: list[Carried] = []
        self.refused: list[str] = []
        self._bull = bull
        self._journal = journal
        self._ledger = Ledger(shop_pool, clock)
        self._scribe = Scribe(keys, clock)
        self._clock = clock
        self._leaves = Leaves(Notices(shop_pool, clock))

    async def round(self) -> int:
        """Carry all that waits, and write it down. Returns how many mails left."""
        before = len(self.carried)
        while jobs := await self._bull.take(100):
            await self._bull.finish(await asyncio.gather(*map(self._carry, jobs)))
        await self.file()
        return len(self.carried) - before

    async def file(self) -> None:
        """What the ledger writer does: journal to ledger."""
        while entries := await self._journal.peek(500):
            outcomes, rejects = sorted_out(entries)
            assert rejects == []
            await self._ledger.write(outcomes)
            await self._journal.drop(entries)

    async def _carry(self, job: Job) -> Finished:
        data = msgspec.json.decode(job.data)
        run = Run(job, self._clock.mono(), to=data["to"])
        try:
            await self._leaves.take(job.id)
        except Skip as skip:
            self.refused.append(job.id)
            run.skipped, run.facts["skipped"] = "skipped", skip.reason
        else:
            self.carried.append(Carried(job.name, data["to"], self._clock.now(), job.id, data["context"]))
        ending = self._scribe.complete(run, finished(job, None))
        assert isinstance(ending, Finished)
        return ending


class Stage:
    """One daemon's calendar, with its postman."""

    def __init__(self, calendar: Calendar, postman: Postman, clock: HandClock, pool: asyncpg.Pool) -> None:
        self.calendar = calendar
        self.postman = postman
        self.clock = clock
        self.pool = pool

    async def plan(self) -> None:
        await self.calendar.planner.plan_due()

    async def feed(self) -> int:
        """Feed until nothing is left that fits."""
        total = 0
        while fed := await self.calendar.feeder.feed_due():
            total += fed
        return total

    async def tick(self) -> int:
        """All that a daemon does at one instant. Returns how many mails left."""
        await self.plan()
        await self.feed()
        return await self.postman.round()

    async def slots(self) -> list[asyncpg.Record]:
        """All slots, in their order."""
        async with self.pool.acquire() as connection:
            return list(await connection.fetch("SELECT * FROM flowstate_daemon.notices ORDER BY due_at, kind, user_id"))

    async def ends(self) -> dict[tuple[str, str], tuple[str, str | None]]:
        """What became of each slot, by kind and person; of several the latest."""
        return {(row["kind"], row["user_id"]): (row["state"], row["reason"]) for row in await self.slots()}


@dataclass(frozen=True, slots=True)
class Ground:
    """What daemons share and what outlives them: both stores, the queue, and time."""

    pool: asyncpg.Pool
    schema: str
    connection: Connection
    keys: Keys
    clock: HandClock

    def stage(self, **settings: str) -> Stage:
        """A daemon that has just started, with these settings of [schedule]."""
        environ = {f"FLOWSTATE_SCHEDULE_{name}".upper(): value for name, value in settings.items()}
        config = load({**environ, "FRONTEND_URL": "https://flowstate.example"})
        bull = Bull(self.connection, self.keys, self.clock, token=f"stage/{uuid4().hex}")
        shop = Shop(Application(self.pool, self.schema), self.connection, self.keys, bull)
        instruments = Instruments(Vitals(self.clock), Metrics(KINDS), self.clock)
        postman = Postman(bull, Journal(self.connection, self.keys), self.pool, self.keys, self.clock)
        return Stage(Calendar(config, shop, instruments), postman, self.clock, self.pool)


@asynccontextmanager
async def calendar_stage(
    database_url: str, connection: Connection, keys: Keys, clock: HandClock, **settings: str
) -> AsyncIterator[Stage]:
    """A calendar with these settings of [schedule], on a migrated database."""
    dsn = clean_dsn(database_url)
    async with open_pool(dsn) as pool:
        yield Ground(pool, dsn.schema, connection, keys, clock).stage(**settings)
