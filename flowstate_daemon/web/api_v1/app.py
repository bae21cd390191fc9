"""Routes of the API: host name, token, rate limit and rights are checked before any endpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from functools import cached_property

import structlog
from aiohttp import web

from flowstate_daemon.base.logs import LogThrottle
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.web.api_v1.disabled import ROOT
from flowstate_daemon.web.api_v1.document import build_document, encode_document
from flowstate_daemon.web.api_v1.endpoints import Endpoint
from flowstate_daemon.web.api_v1.mail_endpoints import MailEndpoints
from flowstate_daemon.web.api_v1.queue_endpoints import QueueEndpoints
from flowstate_daemon.web.api_v1.recipient_endpoints import RecipientEndpoints
from flowstate_daemon.web.api_v1.schedule_endpoints import ScheduleEndpoints
from flowstate_daemon.web.api_v1.state_endpoints import StateEndpoints
from flowstate_daemon.web.limits import (
    ANONYMOUS_BURST,
    ANONYMOUS_PER_S,
    AUTHENTICATED_BURST,
    AUTHENTICATED_PER_S,
    TokenBucket,
)
from flowstate_daemon.web.responses import problem
from flowstate_daemon.web.session import Rights, Sessions

log = structlog.get_logger()

SCHEME = "bearer"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="flowstate-daemon"'}
RETRY_AFTER_S = 10
# Worded so that the redaction of logs and responses finds nothing that looks like a token.
UNAUTHORIZED = "send a token of FLOWSTATE_HTTP_API_TOKEN in the header Authorization, after `Bearer` and a space"
FOREIGN_HOST = "this host name is not one of the server's: add it to FLOWSTATE_HTTP_OTHER_HOSTS"
READ_ONLY = "this token may only read: use one of FLOWSTATE_HTTP_API_TOKEN"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiV1:
    """All endpoints below `/api/v1`, and the document that describes them."""

    def __init__(self, operator: Operator, sessions: Sessions, metrics: Metrics) -> None:
        self._operator = operator
        self._sessions = sessions
        self._metrics = metrics
        self._schedules = ScheduleEndpoints(operator)
        sections = (
            QueueEndpoints(operator),
            MailEndpoints(operator),
            RecipientEndpoints(operator),
            self._schedules,
            StateEndpoints(operator),
        )
        self.endpoints: list[Endpoint] = [endpoint for section in sections for endpoint in section.endpoints()]
        self._authenticated_limit = TokenBucket(operator.clock, AUTHENTICATED_PER_S, AUTHENTICATED_BURST)
        # A limit of its own: clients that guess tokens must not lock out those that have one.
        self._anonymous_limit = TokenBucket(operator.clock, ANONYMOUS_PER_S, ANONYMOUS_BURST)
        self._log_throttle = LogThrottle(operator.clock)

    def routes(self) -> list[web.RouteDef]:
        routes = [
            web.route(endpoint.method.upper(), f"{ROOT}{endpoint.path}", self._guard(endpoint))
            for endpoint in self.endpoints
        ]
        return [web.get(f"{ROOT}/openapi.json", self._read_document, allow_head=False), *routes]

    async def close(self) -> None:
        """End what the API has started and goes on without a request: actions on many jobs, and a schedule run."""
        await self._schedules.close()
        await self._operator.actions.close()

    async def _read_document(self, request: web.Request) -> web.StreamResponse:
        refused, _ = self._check(request, "read")
        if refused is not None:
            return refused
        return web.Response(body=self._document, content_type="application/json")

    @cached_property
    def _document(self) -> bytes:
        """The description of all endpoints, built at the first request: few daemons are ever asked for it."""
        return encode_document(build_document(self.endpoints, ROOT))

    def _guard(self, endpoint: Endpoint) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            refused, actor = self._check(request, endpoint.rights)
            return await endpoint.answer(request, actor) if refused is None else refused

        return handler

    def _check(self, request: web.Request, wanted: Rights) -> tuple[web.Response | None, str]:
        """The refusal of a request, or None and who sends it."""
        if not self._sessions.allows_host(request):
            return self._deny(request, "host", 403, FOREIGN_HOST), ""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        rights = self._sessions.rights_of(token) if scheme.lower() == SCHEME else None
        if rights is None:
            return self._refuse_token(request), ""
        if not self._authenticated_limit.try_acquire():
            return self._too_many(), ""
        if wanted == "operate" and rights != "operate":
            return self._deny(request, "rights", 403, READ_ONLY), ""
        return None, f"API token {hashlib.sha256(token.strip().encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"

    def _refuse_token(self, request: web.Request) -> web.Response:
        refused = self._deny(request, "token", 401, UNAUTHORIZED)
        if not self._anonymous_limit.try_acquire():
            return self._too_many()
        refused.headers.update(CHALLENGE)
        return refused

    def _deny(self, request: web.Request, reason: str, status: int, remedy: str) -> web.Response:
        self._metrics.http_denied(reason)
        suppressed = self._log_throttle.acquire()
        if suppressed is not None:
            log.warning(
                "api_unauthorized", method=request.method, reason=reason, remedy=remedy, more_since_last=suppressed
            )
        return problem(status, remedy)

    def _too_many(self) -> web.Response:
        self._metrics.http_denied("too_many")
        return problem(429, "too many requests: slow down", {"Retry-After": str(RETRY_AFTER_S)})
