"""Everything that operators may read and do on one daemon, for the pages and the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.config.loader import Config
from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.database.mail_list import EventCount, MailList, ScheduledCount
from flowstate_daemon.database.preferences import PreferenceStore
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.catalog import Catalog
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.mail_producer import MailProducer
from flowstate_daemon.operations.enqueue import EnqueueService
from flowstate_daemon.operations.failures import Failures
from flowstate_daemon.operations.jobs import JobActions
from flowstate_daemon.operations.shared import SharedValue
from flowstate_daemon.operations.statistics import Statistics
from flowstate_daemon.queue.admin import QueueAdmin
from flowstate_daemon.queue.audit import AuditLog
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.queue.search import JobSearch
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.scheduler.manual_runs import ManualRuns
from flowstate_daemon.sending.rate_limiter import RateLimiter

WEEK = timedelta(days=7)
PAST_RUNS = timedelta(hours=36)


@dataclass(frozen=True, slots=True)
class Reputation:
    """What the provider has reported in the last week, and how many attempts had each outcome."""

    events: Sequence[EventCount]
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Recipients:
    """What Postgres knows of emails and addresses."""

    mails: MailList
    history: MailHistory
    suppressions: Suppressions
    preferences: PreferenceStore
    pool: asyncpg.Pool


class Operator:
    """Built once for each daemon. `recipients` and `schedules` are None without Postgres or schedules."""

    def __init__(  # noqa: PLR0913 - the composition root gives what the daemon has anyway
        self,
        connection: Connection,
        keys: Keys,
        clock: Clock,
        *,
        config: Config,
        health: HealthRegistry,
        rate_limiter: RateLimiter,
        renderer: Renderer,
        producer: MailProducer,
        recipients: Recipients | None = None,
        schedules: ManualRuns | None = None,
    ) -> None:
        self.connection = connection
        self.keys = keys
        self.clock = clock
        self.config = config
        self.health = health
        self.rate_limiter = rate_limiter
        self.renderer = renderer  # replaced by a reload
        self.producer = producer
        self.enqueue = EnqueueService(producer, connection, keys, clock)
        self.recipients = recipients
        self.schedules = schedules
        self.inspector = Inspector(connection, keys)
        self.search = JobSearch(connection, keys, clock)
        self.failures = Failures(connection, keys, clock)
        self.statistics = Statistics(connection, keys)
        self.actions = JobActions(self.search, clock)
        # Counted and planned over whole tables; see SharedValue.
        self.overview = None if schedules is None else SharedValue(schedules.overview, clock)
        self.next_week = None if schedules is None else SharedValue(lambda: schedules.next_days(7), clock)
        self.reputation = None if recipients is None else SharedValue(self._read_reputation, clock)
        self.runs = None if recipients is None else SharedValue(self._read_runs, clock)

    async def _read_reputation(self) -> Reputation:
        assert self.recipients is not None
        since = self.clock.now() - WEEK
        mails = self.recipients.mails
        return Reputation(await mails.events_since(since), await mails.outcomes_since(since))

    async def _read_runs(self) -> list[ScheduledCount]:
        assert self.recipients is not None
        now = self.clock.now()
        return await self.recipients.mails.scheduled(now - PAST_RUNS, now)

    @property
    def catalog(self) -> Catalog:
        """The kinds of email of this daemon."""
        return self.renderer.catalog

    def reload(self, renderer: Renderer) -> None:
        """Render, enqueue and list the kinds of a new configuration."""
        self.renderer = renderer
        self.producer.kinds = renderer.catalog.kinds

    def audit(self, actor: str) -> AuditLog:
        return AuditLog(self.connection, self.keys, self.clock, actor=actor)

    def admin(self, actor: str) -> QueueAdmin:
        """Changes the queue in the name of an operator."""
        journal_limit = 0 if self.recipients is not None else self.config.database.journal_max_entries
        return QueueAdmin(
            self.connection,
            self.keys,
            self.clock,
            token=f"operator/{actor}",
            audit=self.audit(actor),
            journal_limit=journal_limit,
        )
