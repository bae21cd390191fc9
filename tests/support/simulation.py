"""People who have something to say on every day of a year, and two daemons that get into all sorts of trouble.

The daemons are the calendar's own parts on real stores, with time moved by hand. They are killed in the middle of
whatever they do, lose their connections, are down for hours and days, and find a Redis that has forgotten everything.
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

LEASE_S, FORGOTTEN_S, PATIENCE_S = 31.0, 61.0, 601.0
BROKEN_LINES = 8  # a daemon may meet as many, one after the other, as its pool has
MAX_LIFE = 300  # turns of the loop; planning and feeding take about that many
WEEK = 7 * DAY
# Of a thousand moments at which a daemon looks up, so many bring this trouble.
TROUBLES = {"killed": 30, "twins": 30, "restarted": 10, "postgres cut": 10, "valkey cut": 10, "forgotten": 10}
CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name <> 'world' AND pid <> pg_backend_pid()
"""
Outages: TypeAlias = Sequence[tuple[datetime, datetime]]


class AppSimulation:
    """Everybody has an old task, one that is due on each day, and a session on each day."""

    def __init__(self, app: AppTables) -> None:
        self.connection = app.connection
        self._app = app

    async def create(self) -> None:
        for zone in ZONES:
            recipient = await self._app.user(recipient_in(zone), {"timezone": zone})
            await self._app.task(recipient, "Old", stored(YEAR - 1, 6, 1))

    async def run_day(self, today: datetime) -> None:
        """Write what the coming days bring; what is over is forgotten."""
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
    """Two daemons' life. `alive` are the instants at which one of them looked up, `carried` the mails that left."""

    ground: SchedulerDatabase
    world: AppSimulation
    chance: random.Random
    carried: list[DeliveredMail] = field(default_factory=list)
    alive: list[datetime] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)

    async def run(self, instants: Sequence[datetime], outages: Outages) -> None:
        """Look up at these instants, as far as no outage has all daemons down; `live` is called in between."""
        self._stages = [self._new(), self._new()]
        written_at = instants[0] - 2 * WEEK
        for at in instants:
            if any(begin <= at < end for begin, end in outages):
                continue
            self.ground.clock.advance(max(0.0, (at - self.ground.clock.now()).total_seconds()))
            if at - written_at >= WEEK:
                await self.world.run_day(at)
                written_at = at
            self.alive.append(self.ground.clock.now())
            await self._look_up()
        self.ground.clock.advance(PATIENCE_S)
        await self._recover(0)

    def _new(self) -> SchedulerHarness:
        stage = self.ground.stage(**SETTINGS)
        stage.fake_worker.carried = self.carried
        return stage

    async def _look_up(self) -> None:
        weights = (*TROUBLES.values(), 1000 - sum(TROUBLES.values()))
        (trouble,) = self.chance.choices((*TROUBLES, "none"), weights)
        number = self.chance.randrange(2)
        self.troubles[trouble] += 1
        match trouble:
            case "none":
                await self._stages[number].tick()
            case "twins":
                await asyncio.gather(*(stage.tick() for stage in self._stages))
            case "restarted":
                self._stages[number] = self._new()
                await self._stages[number].tick()
            case _:
                await self._suffer(trouble, number)
                self._stages[number] = self._new()
                await self._recover(number)

    async def _suffer(self, trouble: str, number: int) -> None:
        """Plan and feed, until something happens."""
        work = asyncio.create_task(self._work(self._stages[number]))
        for _ in range(self.chance.randrange(MAX_LIFE)):
            await asyncio.sleep(0)
        match trouble:
            case "killed":
                work.cancel()
            case "postgres cut":
                await self.world.connection.execute(CUT)
            case "valkey cut":
                await self._cut_valkey()
        try:
            await work
        except (asyncio.CancelledError, StoreUnavailableError) as end:
            self.troubles[f"{trouble}: {type(end).__name__}"] += 1
        if trouble == "forgotten":
            await self._forget()

    async def _work(self, stage: SchedulerHarness) -> None:
        await stage.plan()
        await stage.enqueue_due()

    async def _cut_valkey(self) -> None:
        call = self.ground.connection.execute
        for line in (await call("CLIENT", "LIST")).decode().splitlines():
            output = dict(word.split("=", 1) for word in line.split())
            if output["name"].startswith(self.ground.keys.client_name):
                await call("CLIENT", "KILL", "ID", output["id"])

    async def _forget(self) -> None:
        """What FLUSHALL does, to the keys of this test only."""
        call = self.ground.connection.execute
        found = await call("KEYS", f"{self.ground.keys.base}*")
        if found:
            await call("DEL", *found)

    async def _recover(self, number: int) -> None:
        """What a daemon does in the minutes after its start."""
        for seconds in (LEASE_S, FORGOTTEN_S):
            self.ground.clock.advance(seconds)
            for _ in range(BROKEN_LINES):
                try:
                    await self._stages[number].scheduler.reconciler.run_once()
                    await self._stages[number].tick()
                    break
                except StoreUnavailableError:
                    self.troubles["outage after the start"] += 1
