"""A year in two minutes: users in many time zones, crashing daemons, failing stores, and each email sent once."""

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
SOON = timedelta(minutes=5)  # crashes included
HOUR = timedelta(hours=1)
SEED = 11


class Year(NamedTuple):
    """The finished simulation, and all rows at its end."""

    simulation: Simulation
    rows: Sequence[asyncpg.Record]


Simulate: TypeAlias = Callable[[Sequence[datetime], Outages], Year]


def some_outages(chance: random.Random) -> Outages:
    """Times without a running daemon: some hours each month, and twice for days."""
    month = (ENDS_AT - STARTS_AT) / 12
    begins = [STARTS_AT + number * month + chance.random() * 20 * DAY for number in range(12)]
    lasting = [chance.uniform(0.3, 5) * HOUR for _ in begins]
    lasting[4], lasting[9] = 30 * HOUR, 70 * HOUR
    return [(begin, begin + last) for begin, last in zip(begins, lasting, strict=True)]


def moments(outages: Outages, chance: random.Random) -> list[datetime]:
    """When a daemon runs: at each due time near clock changes, otherwise a few times a day.

    A real daemon runs at every due time of every zone; that would be ten times as many, and test nothing more.
    """
    found = {STARTS_AT, ENDS_AT, *(end for _, end in outages)}
    at = STARTS_AT
    while at < ENDS_AT:
        found.add(at)
        at += chance.uniform(9.5, 11.5) * HOUR  # shorter than any window
    near = clock_changes(ZONES, STARTS_AT, ENDS_AT)
    owed = dues(ZONES, STARTS_AT, ENDS_AT)
    found |= {due.at for case, due in owed.items() if (case.user_id, case.local_date) in near}
    return sorted(at for at in found if STARTS_AT <= at <= ENDS_AT)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Writing a hundred thousand log lines would take longer than the rest of the test."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def simulate(migrated_url: str, valkey_url: str, keys: Keys, quiet: None) -> Iterator[Simulate]:
    """Run a simulation on uvloop, as daemons do."""

    async def run(instants: Sequence[datetime], outages: Outages) -> Year:
        dsn, app = clean_dsn(migrated_url), await asyncpg.connect(migrated_url)
        connection = Connection(valkey_url, client_name=keys.client_name)
        async with open_pool(dsn) as pool:
            app_simulation = AppSimulation(AppTables(app))
            await app_simulation.create()
            database = SchedulerDatabase(pool, dsn.schema, connection, keys, FakeClock(STARTS_AT))
            simulation = Simulation(database, app_simulation, random.Random(SEED))
            await simulation.run(instants, outages)
        rows = await app.fetch("SELECT * FROM flowstate_daemon.scheduled_mails")
        await connection.close()
        await app.close()
        return Year(simulation, rows)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield lambda instants, outages: runner.run(run(instants, outages))


@pytest.mark.timeout(600)
def test_a_year_of_scheduled_mails_is_sent_exactly_once(simulate: Simulate) -> None:
    """Every email of a year is planned for its local time and sent once, or recorded as too late after an outage."""
    chance, began = random.Random(SEED), Clock().monotonic()
    print("seed", SEED)
    outages = some_outages(chance)
    simulation, rows = simulate(moments(outages, chance), outages)
    owed = dues(ZONES, STARTS_AT, simulation.database.clock.now())

    by_case = {ZoneCase(row["kind"], row["user_id"], row["local_date"]): row for row in rows}
    assert len(by_case) == len(rows)
    assert by_case.keys() == owed.keys()
    assert {case: ExpectedMail(row["due_at"], row["expires_at"]) for case, row in by_case.items()} == owed

    sent = Counter(mail.job_id for mail in simulation.delivered)
    assert set(sent.values()) == {1}
    assert set(sent) == {row["job_id"] for row in rows if row["state"] == "sent"}
    assert {row["state"] for row in rows} == {"sent", "skipped"}
    left_at = {mail.job_id: mail.at for mail in simulation.delivered}
    for case, due in owed.items():
        row, chance_at = by_case[case], first_chance(simulation.alive, due)
        if row["state"] == "sent":
            assert due.at <= left_at[row["job_id"]] <= chance_at + SOON, case
        else:
            assert row["reason"].startswith("too late"), case
            assert chance_at + SOON >= due.until, case
    late = Counter(row["state"] for row in rows)["skipped"]
    print(f"{len(simulation.alive)} moments, {len(rows)} rows, {len(sent)} emails, {late} too late after outages")
    print(f"{Clock().monotonic() - began:.0f} s;", dict(simulation.troubles))
    assert set(TROUBLES) <= set(simulation.troubles)


def first_chance(alive: list[datetime], due: ExpectedMail) -> datetime:
    """When a daemon ran for the first time after the due time."""
    number = bisect_left(alive, due.at)
    return alive[number] if number < len(alive) else datetime.max.replace(tzinfo=UTC)


def test_the_year_has_repeated_and_skipped_hours() -> None:
    """Otherwise the simulated year would not test clock changes."""
    twice = never = 0
    for case, due in dues(ZONES, STARTS_AT, ENDS_AT).items():
        zone = next(zone for zone in ZONES if case.user_id.endswith(zone.replace("/", "-").lower()))
        wall = due.at.astimezone(ZoneInfo(zone))
        never += wall.time() != HOURS[case.kind].due
        twice += wall.replace(fold=1).utcoffset() != wall.utcoffset()
    assert min(twice, never) >= 8
