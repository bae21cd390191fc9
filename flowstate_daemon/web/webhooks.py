"""`POST /webhooks/resend`: what became of mails, told by the provider.

Answers 200 only when the event is stored. While Postgres is away it answers 503 and keeps nothing: Resend repeats for
more than a day, which loses no event and needs no second store. An event that comes twice is stored once.
"""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, InvalidDataError, StoreUnavailableError
from flowstate_daemon.base.redaction import mask_address
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.delivery.webhooks import InvalidSignatureError, StaleTimestampError, WebhookVerifier
from flowstate_daemon.mail.message import ProviderEvent
from flowstate_daemon.web.server import json_response, read_body

log = structlog.get_logger()

MAX_BODY_BYTES = 256 * 1024
STORE_TIMEOUT_S = 10.0  # Resend waits longer than that for our answer
LOG_INTERVAL_S = 60.0
RETRY_AFTER_S = 60
REMEDIES = {
    InvalidSignatureError: "if this goes on, compare the webhook secret with the one on the webhook's page at Resend",
    StaleTimestampError: "if this goes on, check this machine's clock",
}


class LogThrottle:
    """Lets one in a minute through and counts the rest: strangers must not be able to fill the log."""

    def __init__(self, clock: Clock, quiet_s: float = LOG_INTERVAL_S) -> None:
        self._clock = clock
        self._quiet_s = quiet_s
        self._next = clock.monotonic()
        self._held = 0

    def acquire(self) -> int | None:
        """How many were held back since the last one, or None to hold this one back too."""
        now = self._clock.monotonic()
        if now < self._next:
            self._held += 1
            return None
        held, self._held, self._next = self._held, 0, now + self._quiet_s
        return held


class Webhooks:
    """The route. `sink` is the database's ledger."""

    def __init__(self, events: WebhookVerifier, ledger: Ledger, clock: Clock) -> None:
        self._events = events
        self._ledger = ledger
        self._seldom = LogThrottle(clock)

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/webhooks/resend", self.post)]

    async def post(self, request: web.Request) -> web.Response:
        try:
            event = self._events.verify(request.headers, await self._body(request))
        except (InvalidSignatureError, StaleTimestampError) as refusal:
            self._complain(refusal.reason, REMEDIES[type(refusal)])
            raise web.HTTPUnauthorized from None
        except InvalidDataError as refusal:
            self._complain(refusal.reason, None)
            raise web.HTTPBadRequest from None
        return await self._store([] if event is None else [event])

    async def _store(self, events: list[ProviderEvent]) -> web.Response:
        if not events:
            return json_response({"noted": 0})
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                noted = await self._ledger.record_events(events)
        except (StoreUnavailableError, TimeoutError) as error:
            self._complain(error.reason if isinstance(error, FlowstateError) else "storing took too long", None)
            raise web.HTTPServiceUnavailable(headers={"Retry-After": str(RETRY_AFTER_S)}) from None
        for event in events:
            if noted and event.suppress:
                log.info("address_suppressed", recipient=mask_address(event.address), reason=event.suppress)
        return json_response({"noted": noted})

    async def _body(self, request: web.Request) -> bytes:
        try:
            return await read_body(request, MAX_BODY_BYTES)
        except web.HTTPRequestEntityTooLarge:
            self._complain(f"a report of more than {MAX_BODY_BYTES} bytes", None)
            raise

    def _complain(self, reason: str, remedy: str | None) -> None:
        held = self._seldom.acquire()
        if held is not None:
            log.warning("webhook_rejected", reason=reason, remedy=remedy, more_since_last=held)
