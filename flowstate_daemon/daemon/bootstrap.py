"""Builds every part of the house by hand, and opens none of them. `house.py` gives them life.

Nothing below imports it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from email.utils import formataddr
from zoneinfo import available_timezones

import asyncpg
import structlog
from aiohttp.web import RouteDef

from flowstate_daemon import __version__
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.event_loop import EventLoopLagMonitor
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.base.systemd import SystemdEnvironment
from flowstate_daemon.config.loader import Config
from flowstate_daemon.config.settings import MailSettings
from flowstate_daemon.config.validators import split_secrets
from flowstate_daemon.daemon.status import StatusReporter
from flowstate_daemon.daemon.systemd_notifier import SystemdNotifier
from flowstate_daemon.database.app_data import AppData
from flowstate_daemon.database.app_database import AppDatabase
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.planning import Planning
from flowstate_daemon.database.pool import create_pool
from flowstate_daemon.database.recipients import Suppressions, UserLanguages
from flowstate_daemon.database.scheduled_mails import ScheduledMails
from flowstate_daemon.delivery.gateway import Gateway
from flowstate_daemon.delivery.outbox import Outbox
from flowstate_daemon.delivery.resend_gateway import ResendGateway, ResendOptions
from flowstate_daemon.delivery.webhooks import WebhookVerifier
from flowstate_daemon.mail.kinds import KINDS, MailRequest
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeLinks
from flowstate_daemon.mail_producer import MailProducer
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import QueueEvents
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.queue.lease import Lease, connection_name
from flowstate_daemon.queue.repeat import RepeatableJobs
from flowstate_daemon.redis_client.connection import Connection, from_settings
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.scheduler.definitions import Schedule, build_schedules
from flowstate_daemon.scheduler.eligibility import EligibilityChecker
from flowstate_daemon.scheduler.enqueuer import ScheduledMailEnqueuer
from flowstate_daemon.scheduler.manual_runs import ManualRuns
from flowstate_daemon.scheduler.planner import Planner
from flowstate_daemon.scheduler.reconciler import Reconciler
from flowstate_daemon.scheduler.scheduled_mail import AppLinks
from flowstate_daemon.sending.dispatcher import MAX_TOTAL_REQUESTS, Dispatcher
from flowstate_daemon.sending.rate_limiter import RateLimiter
from flowstate_daemon.sending.request_store import RequestStore
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.shadow.bootstrap import SHADOW_NAME, apply_mode, build_shadow, is_shadow
from flowstate_daemon.shadow.shadow import ShadowWorker
from flowstate_daemon.web.api import Api, Schedules
from flowstate_daemon.web.auth import BearerAuth
from flowstate_daemon.web.health import Health, InstanceInfo
from flowstate_daemon.web.metrics import MetricsEndpoint
from flowstate_daemon.web.pages import Pages
from flowstate_daemon.web.server import HttpServer
from flowstate_daemon.web.unsubscribe import Unsubscribe
from flowstate_daemon.web.webhooks import Webhooks
from flowstate_daemon.worker.executor import ProcessorPool
from flowstate_daemon.worker.handler import MailHandler
from flowstate_daemon.worker.ledger_services import LedgerWriter, Pruner
from flowstate_daemon.worker.lookups import RecipientLoader, ScheduledMailGuard
from flowstate_daemon.worker.results import OutcomeRecorder
from flowstate_daemon.worker.worker import Worker, WorkerOptions


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the scheduler needs: the application's tables, our own, and the queue."""

    application: AppDatabase
    connection: Connection
    keys: Keys
    bull: BullQueue

    @property
    def pool(self) -> asyncpg.Pool:
        return self.application.pool


class SchedulerComponents:
    """The components of the scheduler, built from the configuration."""

    def __init__(self, config: Config, dependencies: Dependencies, context: ServiceContext) -> None:
        self.schedules: tuple[Schedule, ...] = build_schedules(config.schedule)
        self.planning = Planning(
            dependencies.application, sorted(available_timezones()), config.schedule.default_timezone
        )
        self.scheduled_mails = ScheduledMails(dependencies.pool, context.clock)
        app_data = AppData(dependencies.application)
        links = AppLinks(config.mail.frontend_url)
        self.eligibility = EligibilityChecker(app_data, Suppressions(dependencies.pool, context.clock), links)
        ledger = Ledger(dependencies.pool, context.clock)
        producer = MailProducer(
            dependencies.bull, attempts=config.queue.default_attempts, backoff_ms=config.queue.default_backoff_ms
        )
        heartbeat = context.health.register
        self.enqueuer = ScheduledMailEnqueuer(
            self.schedules,
            self.scheduled_mails,
            self.eligibility,
            producer,
            dependencies.bull,
            ledger,
            heartbeat("enqueuer"),
            context,
            max_queued=config.schedule.max_queued,
        )
        self.planner = Planner(self.schedules, self.planning, self.enqueuer.wake, heartbeat("planner"), context)
        journal = Journal(dependencies.connection, dependencies.keys)
        self.reconciler = Reconciler(
            self.scheduled_mails, dependencies.bull, journal, ledger, app_data, heartbeat("reconciler"), context
        )

    @property
    def services(self) -> tuple[Service, ...]:
        """The services that put scheduled emails into the queue."""
        return (self.planner, self.enqueuer, self.reconciler)


log = structlog.get_logger()


def build_gateway(config: Config) -> Gateway:
    """Resend when there is a key, else the outbox."""
    key = config.resend.api_key
    if key is None:
        return Outbox(config.outbox.folder)
    settings = ResendOptions(key.get_secret_value(), config.resend.api_url, config.resend.timeout_s, MAX_TOTAL_REQUESTS)
    return ResendGateway(settings)


def build_database_pool(config: Config) -> asyncpg.Pool | None:
    """A pool for the daemon's own tables, still to be opened; None without DATABASE_URL. Raises ConfigError."""
    if config.database.url is None:
        return None
    dsn = clean_dsn(config.database.url.get_secret_value())
    for warning in dsn.warnings:
        log.warning("database_url_parameter_ignored", warning=warning)
    return create_pool(dsn)


def build_brand(mail: MailSettings) -> Brand:
    """What all mails have in common. In the `From` field an address without a name gets the product's."""
    sender = mail.from_address if "<" in mail.from_address else formataddr((mail.app_name, mail.from_address))
    return Brand(sender, mail.app_name, mail.frontend_url, mail.default_locale)


@dataclass(frozen=True, slots=True)
class BrandedComponents:
    """What the mails and the pages look like: all that hangs on the section `mail`."""

    renderer: Renderer
    pages: Pages
    links: AppLinks


class Components:
    """All parts of one daemon, as a configuration wants them."""

    def __init__(
        self, config: Config, clock: Clock | None = None, supervisor: SystemdEnvironment | None = None
    ) -> None:
        """`supervisor` is what systemd told this process. Raises ConfigError."""
        self.config = config = apply_mode(config)
        self.supervisor = supervisor or SystemdEnvironment()
        self.clock = clock or Clock()
        self.health = HealthRegistry(self.clock)
        instance = config.queue.instance_id
        self.metrics = Metrics(KINDS, version=__version__, instance=instance)
        self.keys = Keys(config.queue.prefix, config.queue.name)
        self.pool = build_database_pool(config)
        self.recipients = None if self.pool is None else self._build_recipients(self.pool)
        self.mail_guard = None if self.pool is None else ScheduledMailGuard(ScheduledMails(self.pool, self.clock))
        secrets = split_secrets(config.http.link_secret)
        self.link_store = LinkTokenCodec(secrets, lifetime_days=config.http.link_days) if secrets else None
        self._token = f"{instance}/{uuid.uuid4().hex}"
        self.connection = from_settings(
            config.redis,
            client_name=SHADOW_NAME if is_shadow(config) else connection_name(self.keys, self._token),
            block_s=config.redis.block_timeout_s,
            on_command=self.metrics.observe_redis_command,
        )
        self.lease = Lease(self.connection, self.keys, instance_id=instance, token=self._token)
        self.gateway = build_gateway(config)
        self.ledger_writer, self.pruner = self._build_ledger_services()
        self.gate = SendGate(self.health, self.metrics, self.clock)
        self.dispatcher = self._build_dispatcher()
        self.branding = self.build_branding(config.mail)
        self.sender = MailHandler(self.branding.renderer, self.dispatcher, self.recipients, self.clock, self.mail_guard)
        self.bull = self._build_bull()
        self.scheduler = self._build_scheduler()
        context = ServiceContext(self.health, self.metrics, self.clock)
        self.shadow = build_shadow(config, self.connection, self.branding.renderer, self.recipients, context)
        self.worker: Worker | ShadowWorker = self.shadow or self._build_worker()
        self.inspector = Inspector(self.connection, self.keys)
        self.unsubscribe: Unsubscribe | None = None
        self.web = self._build_web()
        upcoming = None if self.scheduler is None else self.scheduler.planner.upcoming
        self.dashboard = StatusReporter(self.inspector, lambda: len(self.worker.in_flight), context, upcoming)
        self.notifier = SystemdNotifier(self.supervisor, self.health, self.clock, self._line)
        self.lag_meter = EventLoopLagMonitor(self.metrics, self.health.register("loop"), self.clock)

    def _line(self) -> str:
        """What systemd shows."""
        return f"{'shadow, sends nothing · ' if self.shadow is not None else ''}{self.dashboard.status_line()}"

    def _build_recipients(self, pool: asyncpg.Pool) -> RecipientLoader:
        return RecipientLoader(Suppressions(pool, self.clock), UserLanguages(pool, self.clock))

    def _build_dispatcher(self) -> Dispatcher:
        request_store = RequestStore(self.connection, self.keys, self.clock, token=self._token)
        rate_limiter = RateLimiter(
            self.connection, self.keys, self.clock, assumed_rate=self.config.resend.initial_requests_per_second
        )
        self._processors = self.health.register(ProcessorPool.name)
        self._processors.idle()  # in shadow mode the pool never starts
        dispatcher = Dispatcher(
            self.gateway,
            request_store,
            rate_limiter,
            self.gate,
            self.health.register(Dispatcher.name),
            ServiceContext(self.health, self.metrics, self.clock),
            self._processors,
        )
        self.metrics.track_send_queue(
            lambda: dispatcher.queued, lambda: dispatcher.in_flight, lambda: rate_limiter.limit
        )
        return dispatcher

    def _build_bull(self) -> BullQueue:
        queue = self.config.queue
        return BullQueue(
            self.connection,
            self.keys,
            self.clock,
            token=self._token,
            lock_ms=queue.lock_duration_ms,
            max_data_bytes=queue.max_data_bytes,
            repeats=RepeatableJobs(self.connection, self.keys, self.clock, token=self._token),
            journal_limit=0 if self.pool is not None else self.config.database.journal_max_entries,
        )

    def _build_scheduler(self) -> SchedulerComponents | None:
        """Who gets what and when stands in Postgres."""
        url = self.config.database.url
        if self.pool is None or url is None or not self.config.schedule.enabled:
            return None
        application = AppDatabase(self.pool, clean_dsn(url.get_secret_value()).schema)
        dependencies = Dependencies(application, self.connection, self.keys, self.bull)
        return SchedulerComponents(self.config, dependencies, ServiceContext(self.health, self.metrics, self.clock))

    def _build_worker(self) -> Worker:
        queue = self.config.queue
        settings = WorkerOptions(
            concurrency=queue.concurrency,
            urgent_concurrency=queue.urgent_concurrency,
            lock_duration_ms=queue.lock_duration_ms,
            stalled_interval_ms=queue.stalled_interval_ms,
            max_stalled_count=queue.max_stalled_count,
            max_recoveries=queue.max_recoveries,
            jitter=queue.backoff_jitter,
            shutdown_timeout_s=queue.shutdown_timeout_s,
        )
        return Worker(
            self.bull,
            QueueEvents(self.connection, self.keys),
            self.lease,
            self.sender.perform,
            self.gate,
            settings,
            ServiceContext(self.health, self.metrics, self.clock),
            dispatcher=self.dispatcher,
            processors=self._processors,
            recorder=OutcomeRecorder(self.keys, self.clock),
            ledger_writer=self.ledger_writer,
            pruner=self.pruner,
            producers=() if self.scheduler is None else self.scheduler.services,
        )

    def _build_ledger_services(self) -> tuple[LedgerWriter | None, Pruner | None]:
        """With Postgres, outcomes are moved to the ledger; without it, the newest stay in Redis."""
        if self.pool is None:
            return None, None
        ledger = Ledger(self.pool, self.clock)
        journal = Journal(self.connection, self.keys)
        writer = LedgerWriter(journal, ledger, Migrator(self.pool), self.health.register(LedgerWriter.name))
        keep_days = self.config.database.retention_days
        pruner = Pruner(ledger, self.health.register(Pruner.name), self.clock, keep_days=keep_days)
        return writer, pruner

    def build_branding(self, mail: MailSettings) -> BrandedComponents:
        """Compile what the section `mail` decides. Pure, and slow enough to be done beside the loop."""
        pages, links = Pages(mail.app_name, mail.frontend_url), AppLinks(mail.frontend_url)
        return BrandedComponents(Renderer(build_brand(mail), self.unsubscribe_links()), pages, links)

    def apply_branding(self, branding: BrandedComponents) -> None:
        """From the next mail and the next page on."""
        self.branding = branding
        self.sender.renderer = branding.renderer
        if self.shadow is not None:
            self.shadow.dry_run.renderer = branding.renderer
        if self.scheduler is not None:
            self.scheduler.eligibility.links = branding.links
        if self.unsubscribe is not None:
            self.unsubscribe.pages = branding.pages

    def unsubscribe_links(self) -> UnsubscribeLinks | None:
        """Links need somebody who remembers, an address that people reach, and a secret."""
        public_url = self.config.http.public_url
        if self.pool is None or public_url is None or self.link_store is None:
            return None
        return UnsubscribeLinks(public_url, self.link_store)

    def _build_web(self) -> HttpServer:
        health = Health(self.health, InstanceInfo(__version__, self.config.queue.instance_id, self.config.queue.mode))
        page = MetricsEndpoint(self.metrics, self.health, self.inspector, self.clock)
        routes = [*health.routes(), *page.routes(), *self._outside_routes(), *self._api_routes()]
        http = self.config.http
        sockets = self.supervisor.sockets() if http.enabled else ()
        return HttpServer(routes, host=http.host, port=http.port, sockets=sockets)

    def _outside_routes(self) -> list[RouteDef]:
        """What the provider and the people themselves may reach; needs Postgres, which keeps what they say."""
        if self.pool is None:
            return []
        routes: list[RouteDef] = []
        if secrets := split_secrets(self.config.resend.webhook_secret):
            events = WebhookVerifier(secrets, self.clock)
            routes += Webhooks(events, Ledger(self.pool, self.clock), self.clock).routes()
        if self.link_store is not None:
            preferences = Suppressions(self.pool, self.clock)
            self.unsubscribe = Unsubscribe(self.link_store, preferences, self.branding.pages, self.clock)
            routes += self.unsubscribe.routes()
        return routes

    def _api_routes(self) -> list[RouteDef]:
        """What operators' programs may use, with a token."""
        auth = BearerAuth(split_secrets(self.config.http.api_token), self.clock)
        if not auth.enabled:
            return auth.disabled_routes()
        recipients = None if self.pool is None else (Suppressions(self.pool, self.clock), MailHistory(self.pool))
        routes = Api(auth, self.inspector, recipients).routes()
        if self.scheduler is not None:
            routes += Schedules(auth, self._by_hand(self.scheduler), self.clock).routes()
        return routes

    def _by_hand(self, scheduler: SchedulerComponents) -> ManualRuns:
        # A reload brings new stationery: it is asked for when a mail is rehearsed.
        def render(request: MailRequest) -> Email:
            return self.branding.renderer.render(request)

        return ManualRuns(scheduler.schedules, scheduler.planning, scheduler.eligibility, render, self.clock)


def build_manual_runs(config: Config, pool: asyncpg.Pool, clock: Clock) -> ManualRuns:
    """All schedules of the configuration, for rehearsals also while the calendar is off. Raises ConfigError."""
    mail, url = config.mail, config.database.url
    schema = clean_dsn(url.get_secret_value()).schema if url is not None else "public"
    application = AppDatabase(pool, schema)
    planning = Planning(application, sorted(available_timezones()), config.schedule.default_timezone)
    eligibility = EligibilityChecker(AppData(application), Suppressions(pool, clock), AppLinks(mail.frontend_url))
    return ManualRuns(
        build_schedules(config.schedule), planning, eligibility, Renderer(build_brand(mail)).render, clock
    )
