"""Builds what a command runs and rehearses schedules with. A running house has its own, made of its calendar's parts.

Needs Postgres only: what is planned by hand waits there for the feeders of whichever daemons run. Opens nothing.
"""

from __future__ import annotations

from zoneinfo import available_timezones

import asyncpg

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.config import Config
from flowstate_daemon.daemon.building import brand_of
from flowstate_daemon.database.application import Application
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.facts import Facts
from flowstate_daemon.database.planning import Planning
from flowstate_daemon.database.suppression import Suppressions
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.schedule.assessor import Assessor
from flowstate_daemon.schedule.by_hand import ByHand
from flowstate_daemon.schedule.plan import schedules_of
from flowstate_daemon.schedule.slot import Links


def build_by_hand(config: Config, pool: asyncpg.Pool, clock: Clock) -> ByHand:
    """All schedules of the configuration, for rehearsals also while the calendar is off. Raises ConfigError."""
    mail, url = config.mail, config.database.url
    schema = clean_dsn(url.get_secret_value()).schema if url is not None else "public"
    application = Application(pool, schema)
    planning = Planning(application, sorted(available_timezones()), config.schedule.zone)
    assessor = Assessor(Facts(application), Suppressions(pool, clock), Links(mail.frontend_url))
    return ByHand(schedules_of(config.schedule), planning, assessor, Renderer(brand_of(mail)).render, clock)
