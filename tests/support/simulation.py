"""Users with something due on every day of a year, and two daemons with many kinds of failure.

The daemons are the real scheduler on real stores, with a fake clock. They crash at any point, lose their connections,
are down for hours and days, and find a Redis that has lost its data.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from flowstate_daemon.base.errors import StoreUnavailableError
from tests.support.app_tables import AppTables, stored
from tests.support.expected_schedule import DAY, NOON, SETTINGS, YEAR, ZONES, days, instant, recipient_in
from tests.support.scheduler import DeliveredMail, SchedulerDatabase, SchedulerHarness

LEASE_S, QUEUED_GRACE_S, CLAIMED_GRACE_S = 31.0, 61.0, 601.0
BROKEN_LINES = 8  # a daemon may get as many broken connections in a row as its pool has
MAX_LIFE = 300  # steps of the event loop; planning and enqueuing take about that many
WEEK = 7 * DAY
# How many of a thousand runs have this failure.
TROUBLES = {"killed": 30, "twins": 30, "restarted": 10, "postgres cut": 10, "valkey cut": 10, "forgotten": 10}
CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name <> 'world' AND pid <> pg_backend_pid()
"""
Outages: TypeAlias = Sequence[tuple[datetime, datetime]]


class AppSimulation:
    """Each user has an old task, one due on each day, and a session on each day."""

    def __init__(self, app: AppTables) -> None:
        self.connection = app.connection
        self._app = app

    async def create(self) -> None:
        for zone in ZONES:
            recipient = await self._app.user(recipient_in(zone), {"timezone": zone})
            await self._app.task(recipient, "Old", stored(YEAR - 1, 6, 1))

    async def run_day(self, today: datetime) -> None:
        """Write the tasks and sessions around today, and delete older ones."""
        tasks: list[tuple[object, ...]] = []
        sessions: list[tuple[object, ...]] = []
        for zone in ZONES:
            recipient = recipient_in(zone)
            for day in days(today.date() - 2 * DAY, today.date() + 10 * DAY):
                noon, key = instant(day, NOON, zone).replace(tzinfo=None), f"{recipient}.{day}"
                tasks.append((key, recipient, f"Do {day}", noon, noon))
                sessions.append((key, recipient, noon, 25))
        async with self.connection.transaction():
            await self.connection.execute("DELETE FROM tasks WHERE title <> 'Old'; DELETE FROM focus_sessions")
            copy = self.connection.copy_records_to_table
            await copy("tasks", records=tasks, columns=("id", "userId", "title", "dueDate", "updatedAt"))
            await copy("focus_sessions", records=sessions, columns=("id", "userId", "startTime", "plannedDuration"))
        await self.connection.execute("ANALYZE tasks; ANALYZE focus_sessions")


@dataclass
class Simulation:
    """Two daemons. `alive` holds the instants at which one of them ran, `delivered` the delivered emails."""

    database: SchedulerDatabase
    app_simulation: AppSimulation
    chance: random.Random
    delivered: list[DeliveredMail] = field(default_factory=list)
    alive: list[datetime] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)

    async def run(self, instants: Sequence[datetime], outages: Outages) -> None:
        """Run a daemon at each of these instants outside of outages."""
        self._harnesses = [self._new(), self._new()]
        written_at = instants[0] - 2 * WEEK
        for at in instants:
            if any(begin <= at < end for begin, end in outages):
                continue
            self.database.clock.advance(max(0.0, (at - self.database.clock.now()).total_seconds()))
            if at - written_at >= WEEK:
                await self.app_simulation.run_day(at)
                written_at = at
            self.alive.append(self.database.clock.now())
            await self._run_daemon()
        self.database.clock.advance(CLAIMED_GRACE_S)
        await self._recover(0)

    def _new(self) -> SchedulerHarness:
        harness = self.database.harness(**SETTINGS)
        harness.fake_worker.delivered = self.delivered
        return harness

    async def _run_daemon(self) -> None:
        weights = (*TROUBLES.values(), 1000 - sum(TROUBLES.values()))
        (trouble,) = self.chance.choices((*TROUBLES, "none"), weights)
        number = self.chance.randrange(2)
        self.troubles[trouble] += 1
        match trouble:
            case "none":
                await self._harnesses[number].tick()
            case "twins":
                await asyncio.gather(*(harness.tick() for harness in self._harnesses))
            case "restarted":
                self._harnesses[number] = self._new()
                await self._harnesses[number].tick()
            case _:
                await self._fail(trouble, number)
                self._harnesses[number] = self._new()
                await self._recover(number)

    async def _fail(self, trouble: str, number: int) -> None:
        """Plan and enqueue until the failure happens."""
        work = asyncio.create_task(self._work(self._harnesses[number]))
        for _ in range(self.chance.randrange(MAX_LIFE)):
            await asyncio.sleep(0)
        match trouble:
            case "killed":
                work.cancel()
            case "postgres cut":
                await self.app_simulation.connection.execute(CUT)
            case "valkey cut":
                await self._cut_valkey()
        try:
            await work
        except (asyncio.CancelledError, StoreUnavailableError) as end:
            self.troubles[f"{trouble}: {type(end).__name__}"] += 1
        if trouble == "forgotten":
            await self._flush()

    async def _work(self, harness: SchedulerHarness) -> None:
        await harness.plan()
        await harness.enqueue_due()

    async def _cut_valkey(self) -> None:
        call = self.database.connection.execute
        for line in (await call("CLIENT", "LIST")).decode().splitlines():
            client = dict(word.split("=", 1) for word in line.split())
            if client["name"].startswith(self.database.keys.client_name):
                await call("CLIENT", "KILL", "ID", client["id"])

    async def _flush(self) -> None:
        """Delete the keys of this test, as FLUSHALL would."""
        call = self.database.connection.execute
        found = await call("KEYS", f"{self.database.keys.base}*")
        if found:
            await call("DEL", *found)

    async def _recover(self, number: int) -> None:
        """What a daemon does in the minutes after its start."""
        for seconds in (LEASE_S, QUEUED_GRACE_S):
            self.database.clock.advance(seconds)
            for _ in range(BROKEN_LINES):
                try:
                    await self._harnesses[number].scheduler.reconciler.run_once()
                    await self._harnesses[number].tick()
                    break
                except StoreUnavailableError:
                    self.troubles["outage after the start"] += 1
