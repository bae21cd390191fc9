"""The composition root: builds every component of the daemon from its configuration, and opens none of them.

`daemon.py` opens and closes them. The lower packages do not import this module.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
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
from flowstate_daemon.mail.app_links import AppLinks
from flowstate_daemon.mail.catalog import Catalog, load_catalog
from flowstate_daemon.mail.kinds import KINDS, Kind, MailRequest
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeLinks
from flowstate_daemon.mail_producer import MailProducer
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.bullmq import BullMqDetector
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

log = structlog.get_logger()


def build_gateway(config: Config) -> Gateway:
    """Resend when an API key is configured, else the outbox folder."""
    key = config.resend.api_key
    if key is None:
        return Outbox(config.outbox.folder)
    proxy = config.resend.proxy_url
    options = ResendOptions(
        key.get_secret_value(),
        config.resend.api_url,
        config.resend.timeout_s,
        MAX_TOTAL_REQUESTS,
        proxy_url=None if proxy is None else proxy.get_secret_value(),
    )
    return ResendGateway(options)


def build_database_pool(config: Config) -> asyncpg.Pool | None:
    """An unopened pool for the daemon's own tables; None without DATABASE_URL. Raises ConfigError."""
    if config.database.url is None:
        return None
    dsn = clean_dsn(config.database.url.get_secret_value())
    for warning in dsn.warnings:
        log.warning("database_url_parameter_ignored", warning=warning)
    return create_pool(dsn)


def build_app_database(config: Config, pool: asyncpg.Pool) -> AppDatabase:
    """The application's tables, in the schema that DATABASE_URL names."""
    url = config.database.url
    return AppDatabase(pool, "public" if url is None else clean_dsn(url.get_secret_value()).schema)


def build_brand(config: Config) -> Brand:
    """What all emails have in common. A `From` address without a name gets the name of the application."""
    mail = config.mail
    return Brand(
        sender=mail.from_address if "<" in mail.from_address else formataddr((mail.app_name, mail.from_address)),
        app_name=mail.app_name,
        frontend_url=mail.frontend_url,
        default_locale=mail.default_locale,
        reply_to=mail.reply_to,
        links=build_app_links(config),
        logo_url=mail.logo_url,
        logo_width=mail.logo_width,
        logo_height=mail.logo_height,
        support_url=mail.support_url,
        postal_address=mail.postal_address,
        backend_dates=mail.backend_dates,
    )


def build_app_links(config: Config) -> AppLinks:
    """The pages of the application, as the section `links` names them."""
    return AppLinks(config.mail.frontend_url, config.links.model_dump())


def build_link_codec(config: Config) -> LinkTokenCodec | None:
    """The codec of unsubscribe links; None without a link secret."""
    secrets = split_secrets(config.http.link_secret)
    return LinkTokenCodec(secrets, lifetime_days=config.http.link_days) if secrets else None


def build_planning(config: Config, app_database: AppDatabase) -> Planning:
    return Planning(app_database, sorted(available_timezones()), config.schedule.default_timezone)


def build_eligibility(config: Config, app_database: AppDatabase, clock: Clock) -> EligibilityChecker:
    suppressions = Suppressions(app_database.pool, clock)
    return EligibilityChecker(AppData(app_database), suppressions, build_app_links(config))


def build_producer(config: Config, bull: BullQueue, kinds: Mapping[str, Kind] = KINDS) -> MailProducer:
    queue = config.queue
    return MailProducer(bull, attempts=queue.default_attempts, backoff_ms=queue.default_backoff_ms, kinds=kinds)


def build_catalog(mail: MailSettings) -> Catalog:
    """The kinds of email, with those of `mail.kinds_dir`. Raises ConfigError with every problem of their files."""
    return load_catalog(mail.kinds_dir, mail.default_locale)


def build_manual_runs(config: Config, pool: asyncpg.Pool, clock: Clock) -> ManualRuns:
    """All schedules of the configuration. Dry runs also work while schedules are disabled. Raises ConfigError."""
    app_database = build_app_database(config, pool)
    return ManualRuns(
        build_schedules(config.schedule),
        build_planning(config, app_database),
        build_eligibility(config, app_database, clock),
        Renderer(build_brand(config), catalog=build_catalog(config.mail)).render,
        clock,
    )


@dataclass(frozen=True, slots=True)
class SchedulerComponents:
    """The services that put scheduled emails into the queue, and what manual runs share with them."""

    schedules: tuple[Schedule, ...]
    planning: Planning
    scheduled_mails: ScheduledMails
    eligibility: EligibilityChecker
    planner: Planner
    producer: MailProducer
    enqueuer: ScheduledMailEnqueuer
    reconciler: Reconciler

    @property
    def services(self) -> tuple[Service, ...]:
        return (self.planner, self.enqueuer, self.reconciler)


def build_scheduler(
    config: Config,
    app_database: AppDatabase,
    bull: BullQueue,
    journal: Journal,
    context: ServiceContext,
    kinds: Mapping[str, Kind] = KINDS,
) -> SchedulerComponents:
    """The scheduler of one daemon. Raises ConfigError."""
    pool, clock, register = app_database.pool, context.clock, context.health.register
    schedules = build_schedules(config.schedule)
    scheduled_mails = ScheduledMails(pool, clock)
    ledger = Ledger(pool, clock)
    planning = build_planning(config, app_database)
    eligibility = build_eligibility(config, app_database, clock)
    producer = build_producer(config, bull, kinds)
    enqueuer = ScheduledMailEnqueuer(
        schedules,
        scheduled_mails,
        eligibility,
        producer,
        bull,
        ledger,
        register("enqueuer"),
        context,
        max_queued=config.schedule.max_queued,
    )
    planner = Planner(schedules, planning, enqueuer.wake, register("planner"), context)
    reconciler = Reconciler(
        scheduled_mails, bull, journal, ledger, AppData(app_database), register("reconciler"), context
    )
    return SchedulerComponents(
        schedules, planning, scheduled_mails, eligibility, planner, producer, enqueuer, reconciler
    )


@dataclass(frozen=True, slots=True)
class BrandedComponents:
    """The components that depend on the settings of `mail` and `links`: a reload replaces them together."""

    renderer: Renderer
    pages: Pages
    links: AppLinks


class Components:
    """All components of one daemon."""

    def __init__(
        self, config: Config, clock: Clock | None = None, supervisor: SystemdEnvironment | None = None
    ) -> None:
        """`supervisor` is the environment that systemd gave to this process. Raises ConfigError."""
        self.config = config = apply_mode(config)
        self.supervisor = supervisor or SystemdEnvironment()
        self.clock = clock or Clock()
        self.health = HealthRegistry(self.clock)
        instance = config.queue.instance_id
        catalog = build_catalog(config.mail)
        self.metrics = Metrics(catalog.kinds, version=__version__, instance=instance)
        self._context = ServiceContext(self.health, self.metrics, self.clock)
        self.keys = Keys(config.queue.prefix, config.queue.name)
        self.pool = build_database_pool(config)
        self.recipients = None if self.pool is None else self._build_recipients(self.pool)
        self.mail_guard = None if self.pool is None else ScheduledMailGuard(ScheduledMails(self.pool, self.clock))
        self.link_codec = build_link_codec(config)
        self._token = f"{instance}/{uuid.uuid4().hex}"
        self.connection = self._build_connection()
        self.lease = Lease(self.connection, self.keys, instance_id=instance, token=self._token)
        self.gateway = build_gateway(config)
        self.ledger_writer, self.pruner = self._build_ledger_services()
        self.send_gate = SendGate(self.health, self.metrics, self.clock)
        self.dispatcher = self._build_dispatcher()
        self.branding = self.build_branding(config, catalog)
        self.mail_handler = MailHandler(
            self.branding.renderer, self.dispatcher, self.recipients, self.clock, self.mail_guard
        )
        self.bull = self._build_bull()
        self.scheduler = self._build_scheduler()
        self.shadow = build_shadow(config, self.connection, self.branding.renderer, self.recipients, self._context)
        self.worker: Worker | ShadowWorker = self.shadow or self._build_worker()
        self.inspector = Inspector(self.connection, self.keys)
        self.unsubscribe: Unsubscribe | None = None
        self.web = self._build_web()
        self.status_reporter = self._build_status_reporter()
        self.notifier = SystemdNotifier(self.supervisor, self.health, self.clock, self._status_line)
        self.bullmq_detector = BullMqDetector(
            self.connection, self.keys, ServiceContext(self.health, self.metrics, self.clock)
        )
        self.lag_monitor = self._build_lag_monitor()

    def _status_line(self) -> str:
        """The line that `systemctl status` shows."""
        return f"{'shadow, sends nothing · ' if self.shadow is not None else ''}{self.status_reporter.status_line()}"

    def _build_status_reporter(self) -> StatusReporter:
        upcoming = None if self.scheduler is None else self.scheduler.planner.upcoming
        return StatusReporter(self.inspector, lambda: len(self.worker.in_flight), self._context, upcoming)

    def _build_lag_monitor(self) -> EventLoopLagMonitor:
        return EventLoopLagMonitor(self.metrics, self.health.register(EventLoopLagMonitor.name), self.clock)

    def _build_connection(self) -> Connection:
        settings = self.config.redis
        return from_settings(
            settings,
            client_name=SHADOW_NAME if is_shadow(self.config) else connection_name(self.keys, self._token),
            block_timeout_s=settings.block_timeout_s,
            on_command=self.metrics.observe_redis_command,
        )

    def _build_recipients(self, pool: asyncpg.Pool) -> RecipientLoader:
        return RecipientLoader(Suppressions(pool, self.clock), UserLanguages(pool, self.clock))

    def _build_dispatcher(self) -> Dispatcher:
        request_store = RequestStore(self.connection, self.keys, self.clock, token=self._token)
        rate_limiter = RateLimiter(
            self.connection,
            self.keys,
            self.clock,
            initial_rate=self.config.resend.initial_requests_per_second,
            instance=self.config.queue.instance_id,
        )
        self._processors = self.health.register(ProcessorPool.name)
        self._processors.idle()  # in shadow mode the pool never starts
        dispatcher = Dispatcher(
            self.gateway,
            request_store,
            rate_limiter,
            self.send_gate,
            self.health.register(Dispatcher.name),
            self._context,
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
            lock_duration_ms=queue.lock_duration_ms,
            max_data_bytes=queue.max_data_bytes,
            repeats=RepeatableJobs(self.connection, self.keys, self.clock, token=self._token),
            # Without Postgres nothing empties the journal, so its length is limited.
            journal_max_entries=0 if self.pool is not None else self.config.database.journal_max_entries,
        )

    def _build_scheduler(self) -> SchedulerComponents | None:
        """None without Postgres, which stores the scheduled emails, and when schedules are disabled."""
        if self.pool is None or not self.config.schedule.enabled:
            return None
        app_database = build_app_database(self.config, self.pool)
        journal = Journal(self.connection, self.keys)
        kinds = self.branding.renderer.catalog.kinds
        return build_scheduler(self.config, app_database, self.bull, journal, self._context, kinds)

    def _build_worker(self) -> Worker:
        queue = self.config.queue
        options = WorkerOptions(
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
            self.mail_handler.perform,
            self.send_gate,
            options,
            self._context,
            dispatcher=self.dispatcher,
            processors=self._processors,
            recorder=OutcomeRecorder(self.keys, self.clock),
            ledger_writer=self.ledger_writer,
            pruner=self.pruner,
            producers=() if self.scheduler is None else self.scheduler.services,
        )

    def _build_ledger_services(self) -> tuple[LedgerWriter | None, Pruner | None]:
        """With Postgres, outcomes are moved to the ledger; without it, the newest ones stay in Redis."""
        if self.pool is None:
            return None, None
        ledger = Ledger(self.pool, self.clock)
        journal = Journal(self.connection, self.keys)
        writer = LedgerWriter(journal, ledger, Migrator(self.pool), self.health.register(LedgerWriter.name))
        retention_days = self.config.database.retention_days
        pruner = Pruner(ledger, self.health.register(Pruner.name), self.clock, retention_days=retention_days)
        return writer, pruner

    def build_branding(self, config: Config, catalog: Catalog | None = None) -> BrandedComponents:
        """Compile everything that depends on the settings of `mail` and `links`. Slow: a reload runs it in a thread.

        Raises ConfigError when the files of `mail.kinds_dir` have problems.
        """
        mail = config.mail
        catalog = catalog or build_catalog(mail)
        pages, links = Pages(mail.app_name, mail.frontend_url), build_app_links(config)
        return BrandedComponents(Renderer(build_brand(config), self.unsubscribe_links(), catalog), pages, links)

    def apply_branding(self, branding: BrandedComponents) -> None:
        """Use the new components from the next email and the next page on."""
        self.branding = branding
        self.mail_handler.renderer = branding.renderer
        if self.shadow is not None:
            self.shadow.dry_run.renderer = branding.renderer
        if self.scheduler is not None:
            self.scheduler.eligibility.links = branding.links
            self.scheduler.producer.kinds = branding.renderer.catalog.kinds
        if self.unsubscribe is not None:
            self.unsubscribe.pages = branding.pages

    def unsubscribe_links(self) -> UnsubscribeLinks | None:
        """None unless Postgres (which stores the choice), a public URL and a link secret are configured."""
        public_url = self.config.http.public_url
        if self.pool is None or public_url is None or self.link_codec is None:
            return None
        return UnsubscribeLinks(public_url, self.link_codec)

    def _build_web(self) -> HttpServer:
        health = Health(self.health, InstanceInfo(__version__, self.config.queue.instance_id, self.config.queue.mode))
        metrics = MetricsEndpoint(self.metrics, self.health, self.inspector, self.clock)
        routes = [*health.routes(), *metrics.routes(), *self._build_public_routes(), *self._build_api_routes()]
        http = self.config.http
        sockets = self.supervisor.sockets() if http.enabled else ()
        return HttpServer(routes, host=http.host, port=http.port, sockets=sockets)

    def _build_public_routes(self) -> list[RouteDef]:
        """The routes for the provider and for recipients. They need Postgres, which stores what they send."""
        if self.pool is None:
            return []
        routes: list[RouteDef] = []
        if secrets := split_secrets(self.config.resend.webhook_secret):
            verifier = WebhookVerifier(secrets, self.clock)
            routes += Webhooks(verifier, Ledger(self.pool, self.clock), self.clock).routes()
        if self.link_codec is not None:
            suppressions = Suppressions(self.pool, self.clock)
            self.unsubscribe = Unsubscribe(self.link_codec, suppressions, self.branding.pages, self.clock)
            routes += self.unsubscribe.routes()
        return routes

    def _build_api_routes(self) -> list[RouteDef]:
        """The routes for operators; without a token all of them answer 404."""
        auth = BearerAuth(split_secrets(self.config.http.api_token), self.clock)
        if not auth.enabled:
            return auth.disabled_routes()
        recipients = None if self.pool is None else (Suppressions(self.pool, self.clock), MailHistory(self.pool))
        routes = Api(auth, self.inspector, recipients).routes()
        if self.scheduler is not None:
            routes += Schedules(auth, self._build_manual_runs(self.scheduler), self.clock).routes()
        return routes

    def _build_manual_runs(self, scheduler: SchedulerComponents) -> ManualRuns:
        # A reload replaces the renderer, so it is looked up for each email.
        def render(request: MailRequest) -> Email:
            return self.branding.renderer.render(request)

        return ManualRuns(scheduler.schedules, scheduler.planning, scheduler.eligibility, render, self.clock)
