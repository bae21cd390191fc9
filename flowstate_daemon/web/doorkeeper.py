"""Who may use `/api/v1/`, and how fast: a bearer token, compared in constant time, and a bound on requests.

Without a configured token nothing of the API exists for anybody. Used by the modules with API routes.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import Final, Outage
from flowstate_daemon.base.privacy import scrubbed
from flowstate_daemon.web.app import answer
from flowstate_daemon.web.webhooks import Seldom

log = structlog.get_logger()

ROOT = "/api/v1"
SCHEME = "bearer"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="flowstate-daemon"'}
KNOWN_PER_S, KNOWN_BURST = 20.0, 60.0
STRANGERS_PER_S, STRANGERS_BURST = 1.0, 20.0
RETRY_AFTER_S = 10
CLOSED = "set FLOWSTATE_HTTP_API_TOKEN (32 characters or more) to open the API"
REFUSED = "send the value of FLOWSTATE_HTTP_API_TOKEN in the header Authorization, behind the word Bearer"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Allowance:
    """So many requests at once, and so many a second after that."""

    def __init__(self, clock: Clock, per_s: float, burst: float) -> None:
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._counted_at = clock.mono()

    def take(self) -> bool:
        """One request, if it is within what is allowed."""
        now = self._clock.mono()
        self._left = min(self._burst, self._left + (now - self._counted_at) * self._per_s)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Doorkeeper:
    """Stands before every route of the API. Several tokens are good while one replaces another."""

    def __init__(self, tokens: Sequence[str], clock: Clock) -> None:
        self._tokens = [token.encode() for token in tokens]
        self._known = Allowance(clock, KNOWN_PER_S, KNOWN_BURST)
        # Counted apart: a stranger who tries tokens must not lock out those who have one.
        self._strangers = Allowance(clock, STRANGERS_PER_S, STRANGERS_BURST)
        self._seldom = Seldom(clock)

    @property
    def open(self) -> bool:
        """Whether there is an API at all."""
        return bool(self._tokens)

    def closed_routes(self) -> list[web.RouteDef]:
        """What stands in the place of the API without a token: nothing, and a word in the log for who looks there."""
        return [web.route("*", f"{ROOT}/{{rest:.*}}", self._closed)]

    def guarded(self, handler: Handler) -> Handler:
        """The same handler for those who may; errors of ours become JSON with the reason."""

        async def guard(request: web.Request) -> web.StreamResponse:
            if not self._known_to_us(request):
                self._refuse(request)
            if not self._known.take():
                return too_many()
            try:
                return await handler(request)
            except Outage as outage:
                return refusal(503, outage.reason, {"Retry-After": str(RETRY_AFTER_S)})
            except Final as final:
                return refusal(400, final.reason)

        return guard

    def _known_to_us(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        word = given.strip().encode("utf-8", "surrogateescape")
        # Every token is compared, so that the time tells nothing about which one was near.
        matches = [hmac.compare_digest(word, token) for token in self._tokens]
        return scheme.lower() == SCHEME and any(matches)

    def _refuse(self, request: web.Request) -> None:
        self._tell(request, "api_refused", REFUSED)
        if not self._strangers.take():
            raise web.HTTPTooManyRequests(headers={"Retry-After": str(RETRY_AFTER_S)})
        raise web.HTTPUnauthorized(headers=CHALLENGE)

    async def _closed(self, request: web.Request) -> web.StreamResponse:
        self._tell(request, "api_closed", CLOSED)
        raise web.HTTPNotFound

    def _tell(self, request: web.Request, event: str, remedy: str) -> None:
        held = self._seldom.due()
        if held is not None:
            log.warning(event, method=request.method, remedy=remedy, more_since_last=held)


def refusal(status: int, reason: str, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer that says why not; what an error of ours says carries no secret, and is scrubbed all the same."""
    response = answer({"error": web.Response(status=status).reason, "reason": scrubbed(reason)}, status)
    response.headers.update(headers or {})
    return response


def too_many() -> web.Response:
    return refusal(429, "too many requests: slow down", {"Retry-After": str(RETRY_AFTER_S)})
