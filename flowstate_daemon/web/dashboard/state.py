"""Failures by reason, the provider, and the system: instances, stores, configuration, audit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.database import server_info as postgres_info
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.redis_client import server_info as redis_info
from flowstate_daemon.web.dashboard.emails import actor
from flowstate_daemon.web.dashboard.filters import parse_position
from flowstate_daemon.web.dashboard.guard import Form, Guard, Part, read_part, read_shared, redirect, safe_next
from flowstate_daemon.web.dashboard.rendering import ROOT, PageRenderer, Viewer

AUDIT_ROWS = 50
# Above these, mailbox providers deliver to spam: Google's and Yahoo's rules for bulk senders.
COMPLAINT_WARNING, COMPLAINT_LIMIT = 0.001, 0.003


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
        limit, snapshot, reputation = await asyncio.gather(
            read_part(operator.rate_limiter.state()),
            read_part(operator.inspector.snapshot()),
            read_shared(operator.reputation),
        )
        return self._pages.page(
            "provider.html",
            viewer,
            active="provider",
            limit=limit,
            snapshot=snapshot,
            reputation=reputation,
            rates=complaint_rates(reputation),
            has_webhook=operator.config.resend.webhook_secret is not None,
            lines=(COMPLAINT_WARNING, COMPLAINT_LIMIT),
        )

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
            workers=workers,
            redis=redis,
            postgres=postgres,
            audit=audit,
            list_actions=list_actions,
            heartbeats=operator.health.heartbeats,
            uptime_s=operator.health.uptime_s,
            settings=operator.config.describe(),
            instance=operator.config.queue.instance_id,
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


def complaint_rates(reputation: Part | None) -> Mapping[str, float]:
    """Bounces and complaints as a share of the emails sent in the same time; empty while either is unknown. Pure."""
    if reputation is None or reputation.value is None or not reputation.value.outcomes.get("sent"):
        return {}
    counts: dict[str, Any] = {event.type: event.count for event in reputation.value.events}
    sent = reputation.value.outcomes["sent"]
    return {"bounced": counts.get("bounced", 0) / sent, "complained": counts.get("complained", 0) / sent}
