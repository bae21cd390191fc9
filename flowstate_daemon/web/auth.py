"""Who may use `/api/v1/`, and how fast: a bearer token, compared in constant time, and a bound on requests.

Without a configured token nothing of the API exists for anybody. Used by the modules with API routes.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import PermanentError, StoreUnavailableError
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.web.server import json_response
from flowstate_daemon.web.webhooks import LogThrottle

log = structlog.get_logger()

ROOT = "/api/v1"
SCHEME = "bearer"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="flowstate-daemon"'}
AUTHENTICATED_PER_S, AUTHENTICATED_BURST = 20.0, 60.0
ANONYMOUS_PER_S, ANONYMOUS_BURST = 1.0, 20.0
RETRY_AFTER_S = 10
API_DISABLED = "set FLOWSTATE_HTTP_API_TOKEN (32 characters or more) to open the API"
UNAUTHORIZED = "send the value of FLOWSTATE_HTTP_API_TOKEN in the header Authorization, behind the word Bearer"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class TokenBucket:
    """So many requests at once, and so many a second after that."""

    def __init__(self, clock: Clock, per_s: float, burst: float) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._counted_at = clock.monotonic()

    def try_acquire(self) -> bool:
        """One request, if it is within what is allowed."""
        now = self._clock.monotonic()
        self._left = min(self._burst, self._left + (now - self._counted_at) * self._per_s)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class BearerAuth:
    """Stands before every route of the API. Several tokens are good while one replaces another."""

    def __init__(self, tokens: Sequence[str], clock: Clock) -> None:
        self._tokens = [token.encode() for token in tokens]
        self._known = TokenBucket(clock, AUTHENTICATED_PER_S, AUTHENTICATED_BURST)
        # Counted apart: a stranger who tries tokens must not lock out those who have one.
        self._foreign_workers = TokenBucket(clock, ANONYMOUS_PER_S, ANONYMOUS_BURST)
        self._seldom = LogThrottle(clock)

    @property
    def enabled(self) -> bool:
        """Whether there is an API at all."""
        return bool(self._tokens)

    def disabled_routes(self) -> list[web.RouteDef]:
        """What stands in the place of the API without a token: nothing, and a word in the log for who looks there."""
        return [web.route("*", f"{ROOT}/{{rest:.*}}", self._closed)]

    def require_token(self, handler: Handler) -> Handler:
        """The same handler for those who may; errors of ours become JSON with the reason."""

        async def guard(request: web.Request) -> web.StreamResponse:
            if not self._known_to_us(request):
                self._refuse(request)
            if not self._known.try_acquire():
                return rate_limited_response()
            try:
                return await handler(request)
            except StoreUnavailableError as outage:
                return error_response(503, outage.reason, {"Retry-After": str(RETRY_AFTER_S)})
            except PermanentError as final:
                return error_response(400, final.reason)

        return guard

    def _known_to_us(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        word = given.strip().encode("utf-8", "surrogateescape")
        # Every token is compared, so that the time tells nothing about which one was near.
        matches = [hmac.compare_digest(word, token) for token in self._tokens]
        return scheme.lower() == SCHEME and any(matches)

    def _refuse(self, request: web.Request) -> None:
        self._tell(request, "api_unauthorized", UNAUTHORIZED)
        if not self._foreign_workers.try_acquire():
            raise web.HTTPTooManyRequests(headers={"Retry-After": str(RETRY_AFTER_S)})
        raise web.HTTPUnauthorized(headers=CHALLENGE)

    async def _closed(self, request: web.Request) -> web.StreamResponse:
        self._tell(request, "api_disabled", API_DISABLED)
        raise web.HTTPNotFound

    def _tell(self, request: web.Request, event: str, remedy: str) -> None:
        held = self._seldom.acquire()
        if held is not None:
            log.warning(event, method=request.method, remedy=remedy, more_since_last=held)


def error_response(status: int, reason: str, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer that says why not; what an error of ours says carries no secret, and is scrubbed all the same."""
    response = json_response({"error": web.Response(status=status).reason, "reason": redact_text(reason)}, status)
    response.headers.update(headers or {})
    return response


def rate_limited_response() -> web.Response:
    return error_response(429, "too many requests: slow down", {"Retry-After": str(RETRY_AFTER_S)})
