"""Builds the parts of the daemon that do not depend on each other, from its configuration; commands use them too.

`bootstrap.py` builds the rest, and puts all of them together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING
from zoneinfo import available_timezones

import asyncpg
import structlog

from flowstate_daemon import __version__
from flowstate_daemon.base import logs
from flowstate_daemon.base.address import Mailbox, parse_mailbox
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import Service, ServiceContext
from flowstate_daemon.config.loader import MISSING_KEY, Config
from flowstate_daemon.config.settings import MailSettings
from flowstate_daemon.config.validators import split_secrets
from flowstate_daemon.database.app_data import AppData
from flowstate_daemon.database.app_database import AppDatabase
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.database.mail_list import MailList
from flowstate_daemon.database.planning import Planning
from flowstate_daemon.database.pool import create_pool
from flowstate_daemon.database.preferences import PreferenceStore
from flowstate_daemon.database.recipients import Suppressions, UserPreferenceReader
from flowstate_daemon.database.scheduled_mails import ScheduledMails
from flowstate_daemon.delivery.gateway import Gateway
from flowstate_daemon.delivery.outbox import Outbox
from flowstate_daemon.delivery.resend_gateway import ResendGateway, ResendOptions
from flowstate_daemon.mail.app_links import AppLinks
from flowstate_daemon.mail.catalog import Catalog, load_catalog
from flowstate_daemon.mail.kinds import KINDS, Kind
from flowstate_daemon.mail.lifetimes import Lifetimes
from flowstate_daemon.mail.pseudonyms import Pseudonyms
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec
from flowstate_daemon.mail_producer import MailProducer
from flowstate_daemon.operations.operator import Recipients
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.journal import Journal
from flowstate_daemon.scheduler.definitions import Schedule, build_schedules
from flowstate_daemon.scheduler.eligibility import EligibilityChecker
from flowstate_daemon.scheduler.enqueuer import ScheduledMailEnqueuer
from flowstate_daemon.scheduler.manual_runs import ManualRuns
from flowstate_daemon.scheduler.planner import Planner
from flowstate_daemon.scheduler.reconciler import Reconciler
from flowstate_daemon.sending.dispatcher import MAX_TOTAL_REQUESTS
from flowstate_daemon.worker.scheduled_kinds import ScheduledKinds

if TYPE_CHECKING:  # it needs packages of the extra `otel`
    from flowstate_daemon.base.tracing import Tracing

log = structlog.get_logger()

NO_TRACING = "FLOWSTATE_TRACING_ENABLED: a package is missing ({}); install flowstate-daemon[otel], or set it to false"


def build_gateway(config: Config) -> Gateway:
    """Resend, or the outbox folder if it was asked for. In shadow mode nothing is sent. Raises ConfigError."""
    if config.delivery != "resend":
        return Outbox(config.outbox.folder)
    key = config.resend.api_key
    if key is None:
        raise ConfigError([MISSING_KEY])
    proxy = config.resend.proxy_url
    options = ResendOptions(
        key.get_secret_value(),
        config.resend.api_url,
        config.resend.timeout_s,
        MAX_TOTAL_REQUESTS,
        proxy_url=None if proxy is None else proxy.get_secret_value(),
    )
    return ResendGateway(options)


def build_tracing(config: Config, metrics: Metrics, clock: Clock, kinds: Mapping[str, Kind] = KINDS) -> Tracing | None:
    """The traces of this process, not yet exported; None unless they are enabled. Raises ConfigError."""
    if not config.tracing.enabled:
        return None
    try:  # imported only here: the packages take 0.1 s and are optional
        tracing = import_module("flowstate_daemon.base.tracing")
    except ModuleNotFoundError as error:
        raise ConfigError([NO_TRACING.format(error.name)]) from error
    headers = config.tracing.headers
    options = tracing.TraceOptions(
        queue=f"{config.queue.prefix}:{config.queue.name}",
        version=__version__,
        instance=config.queue.instance_id,
        kinds=frozenset(kinds),
        provider_url=config.resend.api_url if config.delivery == "resend" else None,
        headers="" if headers is None else headers.get_secret_value(),
    )
    built: Tracing = tracing.Tracing(options, metrics, clock)
    return built


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
    sender = parse_mailbox(mail.from_address) if mail.from_address else Mailbox("", "")
    named = sender if sender.name or not sender.address else replace(sender, name=mail.app_name)
    return Brand(
        sender=str(named),
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


def build_catalog(mail: MailSettings) -> Catalog:
    """The kinds of email, with those of `mail.kinds_dir`. Raises ConfigError with every problem of their files."""
    return load_catalog(mail.kinds_dir, mail.default_locale)


def build_link_codec(config: Config) -> LinkTokenCodec | None:
    """The codec of unsubscribe links; None without a link secret."""
    secrets = split_secrets(config.http.link_secret)
    return LinkTokenCodec(secrets, lifetime_days=config.http.link_days) if secrets else None


def build_pseudonyms(config: Config) -> Pseudonyms:
    """What entries of forgotten recipients are found with: their key is the link secret."""
    return Pseudonyms(split_secrets(config.http.link_secret))


def build_suppressions(config: Config, pool: asyncpg.Pool, clock: Clock) -> Suppressions:
    """The lists of recipients, those of forgotten ones included."""
    return Suppressions(pool, clock, build_pseudonyms(config))


def build_preference_store(config: Config, pool: asyncpg.Pool, clock: Clock) -> PreferenceStore:
    """What recipients have chosen here."""
    return PreferenceStore(pool, clock, build_pseudonyms(config))


def build_recipients(config: Config, pool: asyncpg.Pool, clock: Clock) -> Recipients:
    """What Postgres knows of emails and addresses, for operators."""
    lists, preferences = build_suppressions(config, pool, clock), build_preference_store(config, pool, clock)
    return Recipients(MailList(pool, clock), MailHistory(pool), lists, preferences, pool)


def build_user_preferences(config: Config, pool: asyncpg.Pool, clock: Clock) -> UserPreferenceReader:
    """What recipients have chosen in the application."""
    return UserPreferenceReader(build_app_database(config, pool), clock)


def build_planning(config: Config, app_database: AppDatabase) -> Planning:
    return Planning(app_database, sorted(available_timezones()), config.schedule.default_timezone)


def build_eligibility(
    config: Config, app_database: AppDatabase, clock: Clock, kinds: Mapping[str, Kind]
) -> EligibilityChecker:
    pool, links = app_database.pool, build_app_links(config)
    suppressions, mails = build_suppressions(config, pool, clock), ScheduledMails(pool, clock)
    return EligibilityChecker(AppData(app_database), suppressions, mails, links, clock, kinds)


def build_metrics(kinds: Mapping[str, Kind], instance: str) -> Metrics:
    """The metrics of this process, with those that are read when they are asked for."""
    metrics = Metrics(kinds, version=__version__, instance=instance)
    metrics.track_dropped_log_lines(logs.dropped_lines)
    metrics.track_tasks(lambda: len(asyncio.all_tasks()))
    return metrics


def build_scheduled_kinds(config: Config, metrics: Metrics) -> ScheduledKinds:
    """The rules for jobs of scheduled kinds that other programs make; without Postgres there are no schedules."""
    schedule = config.schedule
    on = schedule.enabled and config.database.url is not None and schedule.foreign_jobs == "skip"
    skipped = [one.kind for one in build_schedules(schedule)] if on else []
    lifetimes = Lifetimes(
        schedule.default_timezone,
        schedule.task_reminder_lifetime_h,
        schedule.overdue_summary_lifetime_h,
        schedule.focus_report_lifetime_h,
    )
    return ScheduledKinds(skipped, lifetimes, metrics)


def build_producer(
    config: Config, bull: BullQueue, kinds: Mapping[str, Kind] = KINDS, tracing: Tracing | None = None
) -> MailProducer:
    queue = config.queue
    attempts, backoff_ms = queue.default_attempts, queue.default_backoff_ms
    return MailProducer(bull, attempts=attempts, backoff_ms=backoff_ms, kinds=kinds, tracing=tracing)


def build_manual_runs(config: Config, pool: asyncpg.Pool, clock: Clock) -> ManualRuns:
    """All schedules of the configuration. Dry runs also work while schedules are disabled. Raises ConfigError."""
    app_database, catalog = build_app_database(config, pool), build_catalog(config.mail)
    return ManualRuns(
        build_schedules(config.schedule),
        build_planning(config, app_database),
        build_eligibility(config, app_database, clock, catalog.kinds),
        Renderer(build_brand(config), catalog=catalog).render,
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
    eligibility = build_eligibility(config, app_database, clock, kinds)
    producer = build_producer(config, bull, kinds, context.tracing)
    enqueuer = ScheduledMailEnqueuer(
        schedules,
        scheduled_mails,
        eligibility,
        producer,
        bull,
        ledger,
        register(ScheduledMailEnqueuer.name),
        context,
        max_queued=config.schedule.max_queued,
    )
    planner = Planner(schedules, planning, enqueuer.wake, register(Planner.name), context)
    reconciler = Reconciler(
        scheduled_mails, bull, journal, ledger, AppData(app_database), register(Reconciler.name), context
    )
    return SchedulerComponents(
        schedules, planning, scheduled_mails, eligibility, planner, producer, enqueuer, reconciler
    )
