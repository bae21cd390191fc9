"""Authentication and rate limits of `/api/v1/`: a bearer token, compared in constant time.

Without a configured token the API is disabled, and every path below it answers 404.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import PermanentError, StoreUnavailableError
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.web.limits import LogThrottle
from flowstate_daemon.web.responses import json_response

log = structlog.get_logger()

ROOT = "/api/v1"
SCHEME = "bearer"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="flowstate-daemon"'}
AUTHENTICATED_PER_S, AUTHENTICATED_BURST = 20.0, 60.0
ANONYMOUS_PER_S, ANONYMOUS_BURST = 1.0, 20.0
RETRY_AFTER_S = 10
API_DISABLED = "set FLOWSTATE_HTTP_API_TOKEN (32 characters or more) to enable the API"
UNAUTHORIZED = "send the value of FLOWSTATE_HTTP_API_TOKEN as a bearer token"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class TokenBucket:
    """A token bucket: `burst` requests at once, `per_s` a second after that."""

    def __init__(self, clock: Clock, per_s: float, burst: float) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._tokens_left = burst
        self._refilled_at = clock.monotonic()

    def try_acquire(self) -> bool:
        """Take one token; False when none is left."""
        now = self._clock.monotonic()
        self._tokens_left = min(self._burst, self._tokens_left + (now - self._refilled_at) * self._per_s)
        self._refilled_at = now
        if self._tokens_left < 1:
            return False
        self._tokens_left -= 1
        return True


class BearerAuth:
    """Checks the token of every API request. Several tokens are valid at once, so that one can be rotated."""

    def __init__(self, tokens: Sequence[str], clock: Clock) -> None:
        self._tokens = [token.encode() for token in tokens]
        self._authenticated_limit = TokenBucket(clock, AUTHENTICATED_PER_S, AUTHENTICATED_BURST)
        # A limit of its own: clients that guess tokens must not lock out those that have one.
        self._anonymous_limit = TokenBucket(clock, ANONYMOUS_PER_S, ANONYMOUS_BURST)
        self._log_throttle = LogThrottle(clock)

    @property
    def enabled(self) -> bool:
        """Whether a token is configured."""
        return bool(self._tokens)

    def disabled_routes(self) -> list[web.RouteDef]:
        """The routes without a token: every request gets 404, and the log says how to enable the API."""
        return [web.route("*", f"{ROOT}/{{rest:.*}}", self._not_found)]

    def require_token(self, handler: Handler) -> Handler:
        """The handler behind the token check and the rate limit; expected errors become JSON with the reason."""

        async def guard(request: web.Request) -> web.StreamResponse:
            if not self._has_valid_token(request):
                self._refuse(request)
            if not self._authenticated_limit.try_acquire():
                return rate_limited_response()
            try:
                return await handler(request)
            except StoreUnavailableError as outage:
                return error_response(503, outage.reason, {"Retry-After": str(RETRY_AFTER_S)})
            except PermanentError as final:
                return error_response(400, final.reason)

        return guard

    def _has_valid_token(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        candidate = given.strip().encode("utf-8", "surrogateescape")
        # Compare with every token, so that the response time does not reveal which one is close.
        matches = [hmac.compare_digest(candidate, token) for token in self._tokens]
        return scheme.lower() == SCHEME and any(matches)

    def _refuse(self, request: web.Request) -> None:
        self._warn(request, "api_unauthorized", UNAUTHORIZED)
        if not self._anonymous_limit.try_acquire():
            raise web.HTTPTooManyRequests(headers={"Retry-After": str(RETRY_AFTER_S)})
        raise web.HTTPUnauthorized(headers=CHALLENGE)

    async def _not_found(self, request: web.Request) -> web.StreamResponse:
        self._warn(request, "api_disabled", API_DISABLED)
        raise web.HTTPNotFound

    def _warn(self, request: web.Request, event: str, remedy: str) -> None:
        suppressed = self._log_throttle.acquire()
        if suppressed is not None:
            log.warning(event, method=request.method, remedy=remedy, more_since_last=suppressed)


def error_response(status: int, reason: str, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON error response. The reason is redacted once more, although our errors carry no secrets."""
    response = json_response({"error": web.Response(status=status).reason, "reason": redact_text(reason)}, status)
    response.headers.update(headers or {})
    return response


def rate_limited_response() -> web.Response:
    return error_response(429, "too many requests: slow down", {"Retry-After": str(RETRY_AFTER_S)})
