"""The composition root: builds every component of the daemon from its configuration, and opens none of them.

`builders.py` builds single ones. `daemon.py` opens and closes them. The lower packages do not import these modules.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
from aiohttp.web import RouteDef

from flowstate_daemon import __version__
from flowstate_daemon.base.address import sender_domain
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.base.shared_clock import SharedClock
from flowstate_daemon.base.systemd import SystemdEnvironment
from flowstate_daemon.config.loader import Config
from flowstate_daemon.config.validators import split_secrets
from flowstate_daemon.daemon.alerts import Alerter
from flowstate_daemon.daemon.builders import (
    SchedulerComponents,
    build_app_database,
    build_app_links,
    build_brand,
    build_catalog,
    build_database_pool,
    build_gateway,
    build_link_codec,
    build_metrics,
    build_preference_store,
    build_producer,
    build_recipients,
    build_scheduled_kinds,
    build_scheduler,
    build_suppressions,
    build_tracing,
    build_user_preferences,
)
from flowstate_daemon.daemon.clock_monitor import ClockMonitor
from flowstate_daemon.daemon.dashboard import build_api, build_dashboard, build_sessions
from flowstate_daemon.daemon.event_loop_monitor import EventLoopLagMonitor
from flowstate_daemon.daemon.risk_monitor import RiskMonitor
from flowstate_daemon.daemon.status import StatusReporter
from flowstate_daemon.daemon.systemd_notifier import SystemdNotifier
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.request_records import RequestRecords
from flowstate_daemon.database.scheduled_mails import ScheduledMails
from flowstate_daemon.delivery.webhooks import WebhookVerifier
from flowstate_daemon.mail.app_links import AppLinks
from flowstate_daemon.mail.catalog import Catalog
from flowstate_daemon.mail.kinds import MailRequest
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeLinks
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.operations.statistics import StatisticsRecorder
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.bullmq import BullMqDetector
from flowstate_daemon.queue.events import QueueEvents
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.queue.lease import Lease, connection_name
from flowstate_daemon.queue.repeat import RepeatableJobs
from flowstate_daemon.redis_client.connection import Connection, from_settings
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.scheduler.manual_runs import ManualRuns
from flowstate_daemon.sending.dispatcher import Dispatcher
from flowstate_daemon.sending.rate_limiter import RateLimiter
from flowstate_daemon.sending.request_store import RequestStore
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.shadow.bootstrap import SHADOW_NAME, apply_mode, build_shadow, is_shadow
from flowstate_daemon.shadow.shadow import ShadowWorker
from flowstate_daemon.web.api_v1.disabled import disabled_routes
from flowstate_daemon.web.health import Health, InstanceInfo
from flowstate_daemon.web.metrics import MetricsEndpoint
from flowstate_daemon.web.pages import Pages, error_page
from flowstate_daemon.web.preference_view import PreferenceView
from flowstate_daemon.web.preferences import PreferencePage, RecipientReader
from flowstate_daemon.web.server import HttpServer
from flowstate_daemon.web.session import Sessions
from flowstate_daemon.web.unsubscribe import Unsubscribe
from flowstate_daemon.web.webhooks import Webhooks
from flowstate_daemon.worker.earlier_requests import EarlierRequests
from flowstate_daemon.worker.executor import ProcessorPool
from flowstate_daemon.worker.handler import MailHandler
from flowstate_daemon.worker.ledger_services import LedgerWriter, Pruner
from flowstate_daemon.worker.lookups import RecipientLoader, ScheduledMailGuard
from flowstate_daemon.worker.results import OutcomeRecorder
from flowstate_daemon.worker.worker import Worker, WorkerOptions

if TYPE_CHECKING:
    from flowstate_daemon.web.api_v1.app import ApiV1

DELIVERY_STATUS = {
    "none": "shadow, sends nothing · ",
    "outbox": "outbox, sends nothing: emails are written to files · ",
}


@dataclass(frozen=True, slots=True)
class BrandedComponents:
    """The components that depend on the settings of `mail` and `links`: a reload replaces them together."""

    renderer: Renderer
    pages: Pages
    links: AppLinks
    sender_domain: str


class Components:
    """All components of one daemon."""

    def __init__(
        self, config: Config, clock: Clock | None = None, supervisor: SystemdEnvironment | None = None
    ) -> None:
        """`supervisor` is the environment that systemd gave to this process. Raises ConfigError."""
        self.config = config = apply_mode(config)
        self.supervisor = supervisor or SystemdEnvironment()
        self._system_clock = clock or Clock()
        self.clock = SharedClock(self._system_clock, config.health.max_clock_difference_s)
        self.health = HealthRegistry(self.clock)
        instance = config.queue.instance_id
        catalog = build_catalog(config.mail)
        self.metrics = build_metrics(catalog.kinds, instance)
        self.tracing = build_tracing(config, self.metrics, self.clock, catalog.kinds)
        self._context = ServiceContext(self.health, self.metrics, self.clock, self.tracing)
        self.keys = Keys(config.queue.prefix, config.queue.name)
        self.pool = build_database_pool(config)
        self.recipients = None if self.pool is None else self._build_recipients(self.pool)
        self.mail_guard = None if self.pool is None else ScheduledMailGuard(ScheduledMails(self.pool, self.clock))
        self.link_codec = build_link_codec(config)
        self._token = f"{instance}/{uuid.uuid4().hex}"
        self.connection = self._build_connection()
        self.clock_monitor = ClockMonitor(
            self.clock,
            self.connection,
            self.pool,
            self._context,
            max_difference_s=config.health.max_clock_difference_s,
        )
        self.risk_monitor = RiskMonitor(config, self.connection, self.keys, self.pool, self._context)
        self.risk_monitor.apply_settings(config)
        self._instance = InstanceInfo(__version__, instance, config.queue.mode, config.delivery, config.is_dev)
        self.alerter = Alerter(config.health, self._instance, self.keys.base.rstrip(":"), self._context)
        self.lease = Lease(self.connection, self.keys, instance_id=instance, token=self._token)
        self.gateway = build_gateway(config)
        self.ledger_writer, self.pruner = self._build_ledger_services()
        self.send_gate = SendGate(self.health, self.metrics, self.clock)
        self.dispatcher = self._build_dispatcher()
        self.branding = self.build_branding(config, catalog)
        self.recorder = OutcomeRecorder(self.keys, self.clock, catalog.kinds)
        self.mail_handler = MailHandler(
            self.branding.renderer,
            self.dispatcher,
            self.recipients,
            self.clock,
            self.mail_guard,
            build_scheduled_kinds(config, self.metrics),
            self.earlier_requests,
        )
        self.bull = self._build_bull()
        self.bull.creation_times.on_difference = self.clock_monitor.producer_differs
        self.scheduler = self._build_scheduler()
        self.shadow = build_shadow(config, self.connection, self.branding.renderer, self.recipients, self._context)
        self.worker: Worker | ShadowWorker = self.shadow or self._build_worker()
        self.inspector = Inspector(self.connection, self.keys)
        self.unsubscribe: Unsubscribe | None = None
        self.preferences: PreferencePage | None = None
        self.operator: Operator | None = None
        self.sessions: Sessions | None = None
        self.api: ApiV1 | None = None
        self.webhooks: Webhooks | None = None
        self.web = self._build_web()
        self.status_reporter = self._build_status_reporter()
        self.notifier = SystemdNotifier(self.supervisor, self.health, self.clock, self._status_line)
        self.bullmq_detector = BullMqDetector(self.connection, self.keys, self._context)
        self.lag_monitor = self._build_lag_monitor()
        self.statistics = StatisticsRecorder(
            self.connection,
            self.keys,
            self._context,
            instance=instance,
            urgent=catalog.urgent,
        )

    def _status_line(self) -> str:
        """The line that `systemctl status` shows."""
        return f"{DELIVERY_STATUS.get(self.config.delivery, '')}{self.status_reporter.status_line()}"

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
        return RecipientLoader(
            build_suppressions(self.config, pool, self.clock),
            build_user_preferences(self.config, pool, self.clock),
            self.clock,
        )

    def _build_dispatcher(self) -> Dispatcher:
        request_store = RequestStore(self.connection, self.keys, self.clock, token=self._token)
        records = None if self.pool is None else RequestRecords(self.pool, self.keys.base)
        self.earlier_requests = EarlierRequests(request_store, records, self.clock, provider=self.gateway.name)
        self.rate_limiter = rate_limiter = RateLimiter(
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
            records,
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
            failed_retention_days=queue.failed_retention_days,
            failed_max_count=queue.failed_max_count,
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
            recorder=self.recorder,
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
        pages, links = Pages(mail.app_name, mail.frontend_url, catalog.page_texts), build_app_links(config)
        renderer = Renderer(build_brand(config), self.unsubscribe_links(), catalog)
        return BrandedComponents(renderer, pages, links, sender_domain(mail.from_address))

    def apply_branding(self, branding: BrandedComponents) -> None:
        """Use the new components from the next email and the next page on."""
        self.branding, catalog = branding, branding.renderer.catalog
        self.mail_handler.renderer = branding.renderer
        self.recorder.kinds = catalog.kinds
        self.metrics.add_kinds(catalog.kinds)
        self.statistics.set_urgent(catalog.urgent)
        if self.tracing is not None:
            self.tracing.set_kinds(catalog.kinds)
        if self.shadow is not None:
            self.shadow.dry_run.renderer = branding.renderer
        if self.scheduler is not None:
            self.scheduler.eligibility.links, self.scheduler.eligibility.kinds = branding.links, catalog.kinds
            self.scheduler.producer.kinds = catalog.kinds
        if self.unsubscribe is not None:
            self.unsubscribe.pages, self.unsubscribe.kinds = branding.pages, catalog.kinds
        if self.preferences is not None:
            self.preferences.pages, self.preferences.view.kinds = branding.pages, catalog.unsubscribable
        if self.operator is not None:
            self.operator.reload(branding.renderer)
        if self.webhooks is not None:
            self.webhooks.sender_domain = branding.sender_domain

    def unsubscribe_links(self) -> UnsubscribeLinks | None:
        """None unless Postgres (which stores the choice), a public URL and a link secret are configured."""
        public_url = self.config.http.public_url
        if self.pool is None or public_url is None or self.link_codec is None:
            return None
        return UnsubscribeLinks(public_url, self.link_codec)

    def _build_web(self) -> HttpServer:
        health = Health(self.health, self._instance)
        metrics = MetricsEndpoint(self.metrics, self.health, self.inspector, self.clock)
        routes = [*health.routes(), *metrics.routes(), *self._build_public_routes(), *self._build_operator_routes()]
        http = self.config.http
        sockets = self.supervisor.sockets() if http.enabled else ()
        return HttpServer(
            routes,
            host=http.host,
            port=http.port,
            sockets=sockets,
            clock=self.clock,
            error_page=lambda request, status: error_page(self.branding.pages, request, status),  # a reload replaces it
        )

    def _build_public_routes(self) -> list[RouteDef]:
        """The routes for the provider and for recipients. They need Postgres, which stores what they send."""
        if self.pool is None:
            return []
        routes: list[RouteDef] = []
        if secrets := split_secrets(self.config.resend.webhook_secret):
            # The provider's clock is not Redis': its signatures are compared with this machine's own.
            verifier = WebhookVerifier(secrets, self._system_clock)
            ledger, domain = Ledger(self.pool, self.clock), sender_domain(self.config.mail.from_address)
            on_event = self.metrics.provider_event
            self.webhooks = Webhooks(verifier, ledger, self.clock, domain, on_event=on_event)
            routes += self.webhooks.routes()
        if self.link_codec is not None:
            suppressions = build_suppressions(self.config, self.pool, self.clock)
            kinds = self.branding.renderer.catalog.kinds
            self.unsubscribe = Unsubscribe(
                self.link_codec,
                suppressions,
                self.branding.pages,
                self.clock,
                kinds,
                on_change=self.metrics.recipient_changed,
            )
            self.preferences = self._build_preference_page(self.link_codec, self.pool)
            routes += [*self.unsubscribe.routes(), *self.preferences.routes()]
        return routes

    def _build_preference_page(self, codec: LinkTokenCodec, pool: asyncpg.Pool) -> PreferencePage:
        kinds = self.branding.renderer.catalog.unsubscribable
        schedules = () if self.scheduler is None else self.scheduler.schedules
        view = PreferenceView(kinds, schedules, self.config.schedule.default_timezone)
        reader = RecipientReader(
            build_preference_store(self.config, pool, self.clock),
            build_user_preferences(self.config, pool, self.clock),
        )
        return PreferencePage(codec, reader, view, self.branding.pages, self.clock)

    def _build_operator_routes(self) -> list[RouteDef]:
        """The API and the pages; without a token the API answers 404, and there are no pages."""
        sessions = build_sessions(self.config, self.clock)
        if not sessions.has_tokens:
            return disabled_routes(self.clock)
        self.sessions, self.operator = sessions, self._build_operator()
        self.api = build_api(self.operator, sessions, self.metrics)
        return [*self.api.routes(), *build_dashboard(self.operator, sessions, self.metrics).routes()]

    def _build_operator(self) -> Operator:
        return Operator(
            self.connection,
            self.keys,
            self.clock,
            config=self.config,
            health=self.health,
            rate_limiter=self.rate_limiter,
            renderer=self.branding.renderer,
            producer=build_producer(self.config, self.bull, self.branding.renderer.catalog.kinds, self.tracing),
            recipients=None if self.pool is None else build_recipients(self.config, self.pool, self.clock),
            schedules=None if self.scheduler is None else self._build_manual_runs(self.scheduler),
        )

    def _build_manual_runs(self, scheduler: SchedulerComponents) -> ManualRuns:
        return ManualRuns(scheduler.schedules, scheduler.planning, scheduler.eligibility, self._render, self.clock)

    def _render(self, request: MailRequest) -> Email:
        """A reload replaces the renderer, so it is looked up for each email."""
        return self.branding.renderer.render(request)
