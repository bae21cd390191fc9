"""Failures by reason, the provider, and the system: instances, stores, configuration, audit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from flowstate_daemon import __version__
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.config.loader import Config
from flowstate_daemon.database import server_info as postgres_info
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.operations.statistics import HOUR_MS
from flowstate_daemon.redis_client import server_info as redis_info
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.server_info import DAEMON_NAME_PATTERN, ClientInfo
from flowstate_daemon.web.dashboard.emails import actor
from flowstate_daemon.web.dashboard.filters import parse_position
from flowstate_daemon.web.dashboard.guard import Form, Guard, Part, read_part, read_shared, redirect, safe_next
from flowstate_daemon.web.dashboard.rendering import ROOT, PageRenderer, Viewer, ms_to_datetime

AUDIT_ROWS = 50
# Above these, mailbox providers deliver to spam: Google's and Yahoo's rules for bulk senders.
COMPLAINT_WARNING, COMPLAINT_LIMIT = 0.001, 0.003
BOUNCE_WARNING = 0.04  # Resend's own limit
EPOCH = datetime.fromtimestamp(0, UTC)


class StatePages:
    """`/dashboard/failures`, `/dashboard/provider`, `/dashboard/system`, and pause and resume."""

    def __init__(self, operator: Operator, guard: Guard, pages: PageRenderer) -> None:
        self._operator = operator
        self._guard = guard
        self._pages = pages

    def routes(self) -> list[web.RouteDef]:
        page, action = self._guard.page, self._guard.action
        return [
            web.get(f"{ROOT}/failures", page(self.failures)),
            web.get(f"{ROOT}/provider", page(self.provider)),
            web.post(f"{ROOT}/provider/retry", action(self.retry_provider)),
            web.get(f"{ROOT}/system", page(self.system)),
            web.post(f"{ROOT}/queue", action(self.change_queue)),
        ]

    async def failures(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        position = parse_position(request.query.get("position", ""))
        found = await read_part(self._operator.failures.groups(position))
        return self._pages.page("failures.html", viewer, active="failures", found=found)

    async def provider(self, _request: web.Request, viewer: Viewer) -> web.StreamResponse:
        operator = self._operator
        limit, rate_limited, reputation = await asyncio.gather(
            read_part(operator.rate_limiter.state()),
            read_part(self._count_rate_limited()),
            read_shared(operator.reputation),
        )
        return self._pages.page(
            "provider.html",
            viewer,
            active="provider",
            limit=limit,
            rate_limited=rate_limited,
            reputation=reputation,
            rates=complaint_rates(reputation),
            has_webhook=operator.config.resend.webhook_secret is not None,
            newest_event=newest_event(reputation),
            account=account(operator.config),
            lines=(COMPLAINT_WARNING, COMPLAINT_LIMIT),
            bounce_warning=BOUNCE_WARNING,
        )

    async def _count_rate_limited(self) -> int:
        """How many requests of the last day the provider answered with 429, to all daemons."""
        now_ms, day_ms = self._operator.clock.now_ms(), 24 * HOUR_MS
        points = await self._operator.statistics.points(now_ms, span_ms=day_ms, step_ms=HOUR_MS)
        return sum(point.rate_limited for point in points)

    async def retry_provider(self, _request: web.Request, viewer: Viewer, _form: Form) -> web.StreamResponse:
        """Every daemon tries the provider at once."""
        await self._operator.rate_limiter.request_retry()
        await self._operator.audit(actor(viewer)).record("provider retry", "all daemons", 1)
        return redirect(f"{ROOT}/provider")

    async def system(self, _request: web.Request, viewer: Viewer) -> web.StreamResponse:
        operator = self._operator
        workers, redis, audit = await asyncio.gather(
            read_part(operator.inspector.workers()),
            read_part(redis_info.inspect_server(operator.connection, operator.clock)),
            read_part(operator.audit(actor(viewer)).newest(AUDIT_ROWS)),
        )
        postgres = list_actions = None
        if operator.recipients is not None:
            postgres, list_actions = await asyncio.gather(
                read_part(postgres_info.inspect_server(operator.recipients.pool, operator.clock)),
                read_part(operator.recipients.suppressions.actions(AUDIT_ROWS)),
            )
        return self._pages.page(
            "system.html",
            viewer,
            active="system",
            instances=[] if workers.error else [describe_worker(client, operator.keys) for client in workers.value],
            workers=workers,
            redis=redis,
            postgres=postgres,
            audit=audit,
            list_actions=list_actions,
            actions=merge_actions(audit, list_actions),
            heartbeats=operator.health.heartbeats,
            uptime_s=operator.health.uptime_s,
            settings=operator.config.describe(),
            instance=operator.config.queue.instance_id,
            version=__version__,
        )

    async def change_queue(self, _request: web.Request, viewer: Viewer, form: Form) -> web.StreamResponse:
        """Pause or resume the queue."""
        admin = self._operator.admin(actor(viewer))
        if form.get("action") == "pause":
            await admin.pause()
        elif form.get("action") == "resume":
            await admin.resume()
        else:
            raise InvalidDataError("action: expected pause or resume")
        return redirect(safe_next(form.get("next", "")))


@dataclass(frozen=True, slots=True)
class Instance:
    """One worker that is connected to Redis: a daemon, or a Bull worker of another program."""

    name: str
    is_daemon: bool
    address: str
    age_s: int


def describe_worker(client: ClientInfo, keys: Keys) -> Instance:
    """The worker behind a connection; the name of a daemon's ends with its instance id and an id of the boot. Pure."""
    name = client.name.removeprefix(keys.client_name)
    is_daemon = DAEMON_NAME_PATTERN.fullmatch(name) is not None
    return Instance(name.strip(":").partition("/")[0] or client.name, is_daemon, client.address, client.age_s)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """What an operator did, whichever store remembers it. `address` is masked until addresses are revealed."""

    at: datetime | None
    actor: str
    action: str
    target: str
    address: str
    count: int


def merge_actions(audit: Part, list_actions: Part | None) -> list[AuditRow]:
    """The newest actions on the queue (in Redis) and on the lists (in Postgres), the newest first. Pure."""
    on_queue = [
        AuditRow(ms_to_datetime(one.at), one.actor, one.action, one.target, "", one.count) for one in audit.value or ()
    ]
    on_lists = [
        # What a command listed, such as `emails list`, is no address, and is not masked.
        AuditRow(one.at, one.actor, one.action, "", one.target, one.count)
        if "@" in one.target
        else AuditRow(one.at, one.actor, one.action, one.target, "", one.count)
        for one in (list_actions.value if list_actions else None) or ()
    ]
    return sorted([*on_queue, *on_lists], key=lambda one: one.at or EPOCH, reverse=True)[:AUDIT_ROWS]


def newest_event(reputation: Part | None) -> datetime | None:
    """When the provider's newest event happened; None without one. Pure."""
    if reputation is None or reputation.value is None:
        return None
    return max((event.newest_at for event in reputation.value.events), default=None)


def account(config: Config) -> Mapping[str, str]:
    """Who sends, over which API; the key itself is on no page. Pure."""
    described = {name: value for name, value, _ in config.describe()}
    names = ("mail.from_address", "resend.api_url", "resend.api_key", "queue.delivery")
    return {name.partition(".")[2]: described[name] for name in names}


def complaint_rates(reputation: Part | None) -> Mapping[str, float]:
    """Bounces and complaints as a share of the emails sent in the same time; empty while either is unknown. Pure."""
    if reputation is None or reputation.value is None or not reputation.value.outcomes.get("sent"):
        return {}
    counts: dict[str, Any] = {event.type: event.count for event in reputation.value.events}
    sent = reputation.value.outcomes["sent"]
    return {"bounced": counts.get("bounced", 0) / sent, "complained": counts.get("complained", 0) / sent}
