"""Routes of the API: token, rights, host name and rate limit are checked before any endpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.web.api_v1.endpoints import Endpoint, build_document, encode_document, problem
from flowstate_daemon.web.auth import (
    ANONYMOUS_BURST,
    ANONYMOUS_PER_S,
    AUTHENTICATED_BURST,
    AUTHENTICATED_PER_S,
    CHALLENGE,
    RETRY_AFTER_S,
    ROOT,
    SCHEME,
    UNAUTHORIZED,
    TokenBucket,
)
from flowstate_daemon.web.limits import LogThrottle
from flowstate_daemon.web.session import Rights, Sessions

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiV1:
    """All endpoints below `/api/v1`, and the document that describes them."""

    def __init__(self, endpoints: Sequence[Endpoint], sessions: Sessions, metrics: Metrics, clock: Clock) -> None:
        self._endpoints = endpoints
        self._sessions = sessions
        self._metrics = metrics
        self._document = encode_document(build_document(endpoints, ROOT))
        self._authenticated_limit = TokenBucket(clock, AUTHENTICATED_PER_S, AUTHENTICATED_BURST)
        # A limit of its own: clients that guess tokens must not lock out those that have one.
        self._anonymous_limit = TokenBucket(clock, ANONYMOUS_PER_S, ANONYMOUS_BURST)
        self._log_throttle = LogThrottle(clock)

    def routes(self) -> list[web.RouteDef]:
        routes = [
            web.route(endpoint.method.upper(), f"{ROOT}{endpoint.path}", self._guard(endpoint))
            for endpoint in self._endpoints
        ]
        return [web.get(f"{ROOT}/openapi.json", self._read_document), *routes]

    async def _read_document(self, request: web.Request) -> web.StreamResponse:
        refused, _ = self._check(request, "read")
        if refused is not None:
            return refused
        return web.Response(body=self._document, content_type="application/json")

    def _guard(self, endpoint: Endpoint) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            refused, actor = self._check(request, endpoint.rights)
            return await endpoint.answer(request, actor) if refused is None else refused

        return handler

    def _check(self, request: web.Request, wanted: Rights) -> tuple[web.Response | None, str]:
        """The refusal of a request, or None and who sends it."""
        if not self._sessions.allows_host(request):
            return self._deny(
                "host", 403, "this host name is not one of the server's: set FLOWSTATE_HTTP_PUBLIC_URL"
            ), ""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        rights = self._sessions.rights_of(token) if scheme.lower() == SCHEME else None
        if rights is None:
            return self._refuse_token(request), ""
        if not self._authenticated_limit.try_acquire():
            return self._too_many(), ""
        if wanted == "operate" and rights != "operate":
            return self._deny("rights", 403, "this token may only read: use one of FLOWSTATE_HTTP_API_TOKEN"), ""
        return None, f"API token {hashlib.sha256(token.strip().encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"

    def _refuse_token(self, request: web.Request) -> web.Response:
        self._metrics.http_denied("token")
        suppressed = self._log_throttle.acquire()
        if suppressed is not None:
            log.warning("api_unauthorized", method=request.method, remedy=UNAUTHORIZED, more_since_last=suppressed)
        if not self._anonymous_limit.try_acquire():
            return self._too_many()
        return problem(401, "send the header Authorization: Bearer <token>", CHALLENGE)

    def _deny(self, reason: str, status: int, detail: str) -> web.Response:
        self._metrics.http_denied(reason)
        return problem(status, detail)

    def _too_many(self) -> web.Response:
        self._metrics.http_denied("too_many")
        return problem(429, "too many requests: slow down", {"Retry-After": str(RETRY_AFTER_S)})
