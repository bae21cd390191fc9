"""Builds the calendar: planner, feeder and reconciler, and what runs by hand work with. Opens nothing.

`building.py` puts it into the house, the command line uses it for one run.
"""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import available_timezones

import asyncpg

from flowstate_daemon.base.config import Config
from flowstate_daemon.base.instruments import Instruments
from flowstate_daemon.base.service import Service
from flowstate_daemon.database.application import Application
from flowstate_daemon.database.facts import Facts
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.notices import Notices
from flowstate_daemon.database.planning import Planning
from flowstate_daemon.database.suppression import Suppressions
from flowstate_daemon.intake import Intake
from flowstate_daemon.queue.backlog import Backlog
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.schedule.assessor import Assessor
from flowstate_daemon.schedule.feeder import Feeder, Stores
from flowstate_daemon.schedule.plan import Schedule, schedules_of
from flowstate_daemon.schedule.planner import Planner
from flowstate_daemon.schedule.reconciler import Reconciler, Records
from flowstate_daemon.schedule.slot import Links


@dataclass(frozen=True, slots=True)
class Shop:
    """What the calendar stands on: the application's tables and ours, and the queue."""

    application: Application
    connection: Connection
    keys: Keys
    bull: Bull

    @property
    def pool(self) -> asyncpg.Pool:
        return self.application.pool


class Calendar:
    """All parts of the calendar, as a configuration wants them."""

    def __init__(self, config: Config, shop: Shop, instruments: Instruments) -> None:
        self.schedules: tuple[Schedule, ...] = schedules_of(config.schedule)
        self.planning = Planning(shop.application, sorted(available_timezones()), config.schedule.zone)
        self.notices = Notices(shop.pool, instruments.clock)
        facts = Facts(shop.application)
        links = Links(config.mail.frontend_url)
        self.assessor = Assessor(facts, Suppressions(shop.pool, instruments.clock), links)
        ledger, backlog = Ledger(shop.pool, instruments.clock), Backlog(shop.connection, shop.keys)
        intake = Intake(shop.bull, attempts=config.queue.attempts, backoff_ms=config.queue.backoff_ms)
        pulse = instruments.vitals.pulse
        self.planner = Planner(self.schedules, self.planning, pulse("planner"), instruments)
        self.feeder = Feeder(
            self.schedules,
            Stores(self.notices, ledger, intake, backlog),
            self.assessor,
            pulse("feeder"),
            instruments,
            ahead=config.schedule.ahead,
        )
        self.planner.announce = self.feeder.due.set
        journal = Journal(shop.connection, shop.keys)
        records = Records(self.notices, ledger, journal, facts)
        self.reconciler = Reconciler(records, backlog, pulse("reconciler"), instruments)

    @property
    def services(self) -> tuple[Service, ...]:
        """The loops that bring mails into the queue."""
        return (self.planner, self.feeder, self.reconciler)
