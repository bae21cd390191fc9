"""Builds every part of the house by hand, and opens none of them. `house.py` gives them life.

Nothing below imports it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from email.utils import formataddr

import asyncpg
import structlog
from aiohttp.web import RouteDef

from flowstate_daemon import __version__
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.config import Config
from flowstate_daemon.base.forms import words_of
from flowstate_daemon.base.instruments import Instruments
from flowstate_daemon.base.lag import LagMeter
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.settings import Mail
from flowstate_daemon.base.systemd import Supervisor
from flowstate_daemon.base.vitals import Vitals
from flowstate_daemon.daemon.calendar import Calendar, Shop
from flowstate_daemon.daemon.dashboard import Dashboard
from flowstate_daemon.daemon.notifier import Notifier
from flowstate_daemon.daemon.shadowing import SHADOW_NAME, build_shadow, in_its_mode, is_shadow
from flowstate_daemon.database.application import Application
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.languages import Languages
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.migrate import Migrator
from flowstate_daemon.database.notices import Notices
from flowstate_daemon.database.pool import make_pool
from flowstate_daemon.database.stories import Stories
from flowstate_daemon.database.suppression import Suppressions
from flowstate_daemon.delivery.answers import Rate
from flowstate_daemon.delivery.gateway import Gateway
from flowstate_daemon.delivery.outbox import Outbox
from flowstate_daemon.delivery.resend_gateway import ResendGateway, ResendSettings
from flowstate_daemon.delivery.transport import OnAnswer
from flowstate_daemon.delivery.webhooks import SignedEvents
from flowstate_daemon.mail.catalogue import KINDS, MailRequest
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.mail.unsubscribe import LinkSeal, UnsubscribeLinks
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.connection import connection_to
from flowstate_daemon.queue.envelopes import Envelopes
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.lease import Lease, connection_name
from flowstate_daemon.queue.pacer import Pacer
from flowstate_daemon.queue.repeat import Repeats
from flowstate_daemon.queue.signals import Signals
from flowstate_daemon.schedule.by_hand import ByHand
from flowstate_daemon.schedule.slot import Links
from flowstate_daemon.web.api import Api
from flowstate_daemon.web.app import Web
from flowstate_daemon.web.doorkeeper import Doorkeeper
from flowstate_daemon.web.health import About, Health
from flowstate_daemon.web.metrics import MetricsPage
from flowstate_daemon.web.pages import Pages
from flowstate_daemon.web.schedules import Schedules
from flowstate_daemon.web.unsubscribe import Unsubscribe
from flowstate_daemon.web.webhooks import Webhooks
from flowstate_daemon.work.bus import MOST_UNDER_WAY, Bus
from flowstate_daemon.work.engine import Engine, EngineSettings, Records, Way
from flowstate_daemon.work.lane import Lane
from flowstate_daemon.work.leaves import Leaves
from flowstate_daemon.work.ledger_writer import LedgerWriter
from flowstate_daemon.work.people import People
from flowstate_daemon.work.pruner import Pruner
from flowstate_daemon.work.scribe import Scribe
from flowstate_daemon.work.sender import Sender
from flowstate_daemon.work.shadow import Shadow

log = structlog.get_logger()


def build_gateway(config: Config, on_answer: OnAnswer) -> Gateway:
    """Resend when there is a key, else the outbox."""
    key = config.resend.api_key
    if key is None:
        return Outbox(config.outbox.folder)
    settings = ResendSettings(key.get_secret_value(), config.resend.api_url, config.resend.timeout_s, MOST_UNDER_WAY)
    return ResendGateway(settings, on_answer=on_answer)


def build_pool(config: Config) -> asyncpg.Pool | None:
    """A pool for the daemon's own tables, still to be opened; None without DATABASE_URL. Raises ConfigError."""
    if config.database.url is None:
        return None
    dsn = clean_dsn(config.database.url.get_secret_value())
    for warning in dsn.warnings:
        log.warning("database_url", warning=warning)
    return make_pool(dsn)


def brand_of(mail: Mail) -> Brand:
    """What all mails have in common. In the `From` field an address without a name gets the product's."""
    sender = mail.from_address if "<" in mail.from_address else formataddr((mail.app_name, mail.from_address))
    return Brand(sender, mail.app_name, mail.frontend_url, mail.default_locale)


@dataclass(frozen=True, slots=True)
class Stationery:
    """What the mails and the pages look like: all that hangs on the section `mail`."""

    renderer: Renderer
    pages: Pages
    links: Links


class Building:
    """All parts of one daemon, as a configuration wants them."""

    def __init__(self, config: Config, clock: Clock | None = None, supervisor: Supervisor | None = None) -> None:
        """`supervisor` is what systemd told this process. Raises ConfigError."""
        self.config = config = in_its_mode(config)
        self.supervisor = supervisor or Supervisor()
        self.clock = clock or Clock()
        self.vitals = Vitals(self.clock)
        instance = config.queue.instance_id
        self.metrics = Metrics(KINDS, version=__version__, instance=instance)
        self.keys = Keys(config.queue.prefix, config.queue.name)
        self.pool = build_pool(config)
        self.people = None if self.pool is None else self._build_people(self.pool)
        self.leaves = None if self.pool is None else Leaves(Notices(self.pool, self.clock))
        secrets = words_of(config.http.link_secret)
        self.link_seal = LinkSeal(secrets, lifetime_days=config.http.link_days) if secrets else None
        self._token = f"{instance}/{uuid.uuid4().hex}"
        self.connection = connection_to(
            config.redis,
            client_name=SHADOW_NAME if is_shadow(config) else connection_name(self.keys, self._token),
            block_s=config.redis.block_s,
            on_round_trip=self.metrics.redis_round_trip,
        )
        self.lease = Lease(self.connection, self.keys, instance_id=instance, token=self._token)
        self.gateway = build_gateway(config, self._heard)
        self.records = self._build_records()
        self.lane = Lane(self.vitals, self.metrics, self.clock)
        self.bus = self._build_bus()
        self.stationery = self.stationery_of(config.mail)
        self.sender = Sender(self.stationery.renderer, self.bus, self.people, self.clock, self.leaves)
        self.bull = self._build_bull()
        self.calendar = self._build_calendar()
        instruments = Instruments(self.vitals, self.metrics, self.clock)
        self.shadow = build_shadow(config, self.connection, self.stationery.renderer, self.people, instruments)
        self.engine: Engine | Shadow = self.shadow or self._build_engine()
        self.inspector = Inspector(self.connection, self.keys)
        self.unsubscribe: Unsubscribe | None = None
        self.web = self._build_web()
        upcoming = None if self.calendar is None else self.calendar.planner.upcoming
        self.dashboard = Dashboard(self.inspector, lambda: len(self.engine.inflight), instruments, upcoming)
        self.notifier = Notifier(self.supervisor, self.vitals, self.clock, self._line)
        self.lag_meter = LagMeter(self.metrics, self.vitals.pulse("loop"), self.clock)

    def _heard(self, answer: str, seconds: float, rate: Rate | None) -> None:
        """One answer of the provider, or a request that got none."""
        self.metrics.provider_answer(answer, seconds)
        self.bus.hear(rate)

    def _line(self) -> str:
        """What systemd shows."""
        return f"{'shadow, sends nothing · ' if self.shadow is not None else ''}{self.dashboard.line()}"

    def _build_people(self, pool: asyncpg.Pool) -> People:
        return People(Suppressions(pool, self.clock), Languages(pool, self.clock))

    def _build_bus(self) -> Bus:
        envelopes = Envelopes(
            self.connection, self.keys, self.clock, token=self._token, on_sealed=self.metrics.request_sealed
        )
        pacer = Pacer(self.connection, self.keys, self.clock, assumed_rate=self.config.resend.assumed_rate)
        bus = Bus(self.gateway, envelopes, pacer, self.lane, self.vitals.pulse("bus"), self.clock)
        self.metrics.watch_bus(lambda: bus.waiting, lambda: bus.under_way, lambda: pacer.limit)
        return bus

    def _build_bull(self) -> Bull:
        queue = self.config.queue
        return Bull(
            self.connection,
            self.keys,
            self.clock,
            token=self._token,
            lock_ms=queue.lock_ms,
            max_data_bytes=queue.max_data_bytes,
            repeats=Repeats(self.connection, self.keys, self.clock, token=self._token),
            journal_limit=0 if self.pool is not None else self.config.database.journal_limit,
        )

    def _build_calendar(self) -> Calendar | None:
        """Who gets what and when stands in Postgres."""
        url = self.config.database.url
        if self.pool is None or url is None or not self.config.schedule.enabled:
            return None
        application = Application(self.pool, clean_dsn(url.get_secret_value()).schema)
        shop = Shop(application, self.connection, self.keys, self.bull)
        return Calendar(self.config, shop, Instruments(self.vitals, self.metrics, self.clock))

    def _build_engine(self) -> Engine:
        queue = self.config.queue
        settings = EngineSettings(
            concurrency=queue.concurrency,
            urgent_reserve=queue.urgent_reserve,
            lock_ms=queue.lock_ms,
            stalled_interval_ms=queue.stalled_interval_ms,
            max_stalled=queue.max_stalled,
            max_recoveries=queue.max_recoveries,
            jitter=queue.jitter,
            drain_s=queue.drain_s,
        )
        signals = Signals(self.connection, self.keys)
        instruments = Instruments(self.vitals, self.metrics, self.clock)
        sources = () if self.calendar is None else self.calendar.services
        way = Way(self.sender.perform, self.lane, self.bus, self.records, sources)
        return Engine(self.bull, signals, self.lease, way, settings, instruments)

    def _build_records(self) -> Records:
        """With Postgres, outcomes go on to the ledger; without, the newest stay in Redis."""
        scribe = Scribe(self.keys, self.clock)
        if self.pool is None:
            return Records(scribe)
        ledger = Ledger(self.pool, self.clock)
        journal = Journal(self.connection, self.keys)
        writer = LedgerWriter(journal, ledger, Migrator(self.pool), self.vitals.pulse("ledger_writer"))
        keep_days = self.config.database.keep_days
        pruner = Pruner(ledger, self.vitals.pulse("pruner"), self.clock, keep_days=keep_days)
        return Records(scribe, (writer, pruner), writer.notice)

    def stationery_of(self, mail: Mail) -> Stationery:
        """Compile what the section `mail` decides. Pure, and slow enough to be done beside the loop."""
        pages, links = Pages(mail.app_name, mail.frontend_url), Links(mail.frontend_url)
        return Stationery(Renderer(brand_of(mail), self.unsubscribe_links()), pages, links)

    def use(self, stationery: Stationery) -> None:
        """From the next mail and the next page on."""
        self.stationery = stationery
        self.sender.renderer = stationery.renderer
        if self.shadow is not None:
            self.shadow.rehearsal.renderer = stationery.renderer
        if self.calendar is not None:
            self.calendar.assessor.links = stationery.links
        if self.unsubscribe is not None:
            self.unsubscribe.pages = stationery.pages

    def unsubscribe_links(self) -> UnsubscribeLinks | None:
        """Links need somebody who remembers, an address that people reach, and a secret."""
        public_url = self.config.http.public_url
        if self.pool is None or public_url is None or self.link_seal is None:
            return None
        return UnsubscribeLinks(public_url, self.link_seal)

    def _build_web(self) -> Web:
        health = Health(self.vitals, About(__version__, self.config.queue.instance_id, self.config.queue.mode))
        page = MetricsPage(self.metrics, self.vitals, self.inspector, self.clock)
        routes = [*health.routes(), *page.routes(), *self._outside_routes(), *self._api_routes()]
        http = self.config.http
        sockets = self.supervisor.sockets() if http.enabled else ()
        return Web(routes, host=http.host, port=http.port, sockets=sockets)

    def _outside_routes(self) -> list[RouteDef]:
        """What the provider and the people themselves may reach; needs Postgres, which keeps what they say."""
        if self.pool is None:
            return []
        routes: list[RouteDef] = []
        if secrets := words_of(self.config.resend.webhook_secret):
            events = SignedEvents(secrets, self.clock)
            routes += Webhooks(events, Ledger(self.pool, self.clock), self.clock).routes()
        if self.link_seal is not None:
            preferences = Suppressions(self.pool, self.clock)
            self.unsubscribe = Unsubscribe(self.link_seal, preferences, self.stationery.pages, self.clock)
            routes += self.unsubscribe.routes()
        return routes

    def _api_routes(self) -> list[RouteDef]:
        """What operators' programs may use, with a token."""
        doorkeeper = Doorkeeper(words_of(self.config.http.api_token), self.clock)
        if not doorkeeper.open:
            return doorkeeper.closed_routes()
        people = None if self.pool is None else (Suppressions(self.pool, self.clock), Stories(self.pool))
        routes = Api(doorkeeper, self.inspector, people).routes()
        if self.calendar is not None:
            routes += Schedules(doorkeeper, self._by_hand(self.calendar), self.clock).routes()
        return routes

    def _by_hand(self, calendar: Calendar) -> ByHand:
        # A reload brings new stationery: it is asked for when a mail is rehearsed.
        def render(request: MailRequest) -> Email:
            return self.stationery.renderer.render(request)

        return ByHand(calendar.schedules, calendar.planning, calendar.assessor, render, self.clock)
