"""A whole year in two minutes: people all over the world, daemons that die, stores that vanish, and each slot once."""

from __future__ import annotations

import asyncio
import logging
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

import asyncpg
import pytest
import structlog
import uvloop

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.app_tables import AppTables
from tests.support.clock import FakeClock
from tests.support.expected_schedule import DAY, HOURS, YEAR, ZONES, ExpectedMail, ZoneCase, clock_changes, dues
from tests.support.scheduler import SchedulerDatabase
from tests.support.simulation import TROUBLES, AppSimulation, Outages, Simulation

STARTS_AT, ENDS_AT = datetime(YEAR, 1, 1, tzinfo=UTC), datetime(YEAR + 1, 1, 1, tzinfo=UTC)
SOON = timedelta(minutes=5)  # however often a daemon dies on the way
HOUR = timedelta(hours=1)
SEED = 11


class Year(NamedTuple):
    """What has happened: the daemons' lives, and all slots as they stand at the end."""

    simulation: Simulation
    rows: Sequence[asyncpg.Record]


Simulate: TypeAlias = Callable[[Sequence[datetime], Outages], Year]


def some_outages(chance: random.Random) -> Outages:
    """Times without any daemon: once a month for some hours, and twice for days."""
    month = (ENDS_AT - STARTS_AT) / 12
    begins = [STARTS_AT + number * month + chance.random() * 20 * DAY for number in range(12)]
    lasting = [chance.uniform(0.3, 5) * HOUR for _ in begins]
    lasting[4], lasting[9] = 30 * HOUR, 70 * HOUR
    return [(begin, begin + last) for begin, last in zip(begins, lasting, strict=True)]


def moments(outages: Outages, chance: random.Random) -> list[datetime]:
    """When a daemon looks up: at the very minute where clocks are turned these days, elsewhere a few times a day.

    A real one does so at every hour of every zone; that would be ten times as many, and show nothing else.
    """
    found = {STARTS_AT, ENDS_AT, *(end for _, end in outages)}
    at = STARTS_AT
    while at < ENDS_AT:
        found.add(at)
        at += chance.uniform(9.5, 11.5) * HOUR  # shorter than any window
    near = clock_changes(ZONES, STARTS_AT, ENDS_AT)
    owed = dues(ZONES, STARTS_AT, ENDS_AT)
    found |= {due.at for place, due in owed.items() if (place.user_id, place.local_date) in near}
    return sorted(at for at in found if STARTS_AT <= at <= ENDS_AT)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Hundred thousand lines of log would take longer than all the rest."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def simulate(migrated_url: str, valkey_url: str, keys: Keys, quiet: None) -> Iterator[Simulate]:
    """Runs a simulation to its end, on the event loop that daemons have: the fast one."""

    async def run(instants: Sequence[datetime], outages: Outages) -> Year:
        dsn, app = clean_dsn(migrated_url), await asyncpg.connect(migrated_url)
        connection = Connection(valkey_url, client_name=keys.client_name)
        async with open_pool(dsn) as pool:
            world = AppSimulation(AppTables(app))
            await world.create()
            ground = SchedulerDatabase(pool, dsn.schema, connection, keys, FakeClock(STARTS_AT))
            simulation = Simulation(ground, world, random.Random(SEED))
            await simulation.run(instants, outages)
        rows = await app.fetch("SELECT * FROM flowstate_daemon.scheduled_mails")
        await connection.close()
        await app.close()
        return Year(simulation, rows)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield lambda instants, outages: runner.run(run(instants, outages))


@pytest.mark.timeout(600)
def test_a_year_of_slots_each_exactly_once(simulate: Simulate) -> None:
    """Every slot of a year is planned for its local hour and sent once, or recorded as too late after an outage."""
    chance, began = random.Random(SEED), Clock().monotonic()
    print("seed", SEED)
    outages = some_outages(chance)
    simulation, rows = simulate(moments(outages, chance), outages)
    owed = dues(ZONES, STARTS_AT, simulation.ground.clock.now())

    slots = {ZoneCase(row["kind"], row["user_id"], row["local_date"]): row for row in rows}
    assert len(slots) == len(rows)
    assert slots.keys() == owed.keys()
    assert {place: ExpectedMail(row["due_at"], row["expires_at"]) for place, row in slots.items()} == owed

    sent = Counter(mail.job_id for mail in simulation.carried)
    assert set(sent.values()) == {1}
    assert set(sent) == {row["job_id"] for row in rows if row["state"] == "sent"}
    assert {row["state"] for row in rows} == {"sent", "skipped"}
    left_at = {mail.job_id: mail.at for mail in simulation.carried}
    for place, due in owed.items():
        row, chance_at = slots[place], first_chance(simulation.alive, due)
        if row["state"] == "sent":
            assert due.at <= left_at[row["job_id"]] <= chance_at + SOON, place
        else:
            assert row["reason"].startswith("too late"), place
            assert chance_at + SOON >= due.until, place
    late = Counter(row["state"] for row in rows)["skipped"]
    print(f"{len(simulation.alive)} moments, {len(rows)} slots, {len(sent)} mails, {late} too late after outages")
    print(f"{Clock().monotonic() - began:.0f} s;", dict(simulation.troubles))
    assert set(TROUBLES) <= set(simulation.troubles)


def first_chance(alive: list[datetime], due: ExpectedMail) -> datetime:
    """When a daemon looked up for the first time after a slot's hour."""
    number = bisect_left(alive, due.at)
    return alive[number] if number < len(alive) else datetime.max.replace(tzinfo=UTC)


def test_the_year_has_hours_that_come_twice_and_hours_that_do_not_exist() -> None:
    """Otherwise the simulated year would show nothing about clocks that are turned."""
    twice = never = 0
    for place, due in dues(ZONES, STARTS_AT, ENDS_AT).items():
        zone = next(zone for zone in ZONES if place.user_id.endswith(zone.replace("/", "-").lower()))
        wall = due.at.astimezone(ZoneInfo(zone))
        never += wall.time() != HOURS[place.kind].due
        twice += wall.replace(fold=1).utcoffset() != wall.utcoffset()
    assert min(twice, never) >= 8
