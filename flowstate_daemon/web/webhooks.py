"""`POST /webhooks/resend`: what became of mails, told by the provider.

Answers 200 only when the event is stored. While Postgres is away it answers 503 and keeps nothing: Resend repeats for
more than a day, which loses no event and needs no second store. An event that comes twice is stored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, Malformed, Outage
from flowstate_daemon.base.privacy import masked
from flowstate_daemon.delivery.webhooks import Forged, SignedEvents, Stale
from flowstate_daemon.mail.event import ProviderEvent
from flowstate_daemon.web.app import answer
from flowstate_daemon.web.bodies import read_body

log = structlog.get_logger()

LARGEST_BODY = 256 * 1024
STORE_S = 10.0  # Resend waits longer than that for our answer
QUIET_S = 60.0
RETRY_AFTER_S = 60
REMEDIES = {
    Forged: "if this goes on, compare the webhook secret with the one on the webhook's page at Resend",
    Stale: "if this goes on, check this machine's clock",
}


class EventSink(Protocol):
    """Where events go: stores each once, and what it suppresses in the same transaction. Raises Outage."""

    async def note_events(self, events: Sequence[ProviderEvent]) -> int: ...


class Seldom:
    """Lets one in a minute through and counts the rest: strangers must not be able to fill the log."""

    def __init__(self, clock: Clock, quiet_s: float = QUIET_S) -> None:
        self._clock = clock
        self._quiet_s = quiet_s
        self._next = clock.mono()
        self._held = 0

    def due(self) -> int | None:
        """How many were held back since the last one, or None to hold this one back too."""
        now = self._clock.mono()
        if now < self._next:
            self._held += 1
            return None
        held, self._held, self._next = self._held, 0, now + self._quiet_s
        return held


class Webhooks:
    """The route. `sink` is the database's ledger."""

    def __init__(self, events: SignedEvents, sink: EventSink, clock: Clock) -> None:
        self._events = events
        self._sink = sink
        self._seldom = Seldom(clock)

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/webhooks/resend", self.take)]

    async def take(self, request: web.Request) -> web.Response:
        try:
            event = self._events.read(request.headers, await self._body(request))
        except (Forged, Stale) as refusal:
            self._complain(refusal.reason, REMEDIES[type(refusal)])
            raise web.HTTPUnauthorized from None
        except Malformed as refusal:
            self._complain(refusal.reason, None)
            raise web.HTTPBadRequest from None
        return await self._store([] if event is None else [event])

    async def _store(self, events: list[ProviderEvent]) -> web.Response:
        if not events:
            return answer({"noted": 0})
        try:
            async with asyncio.timeout(STORE_S):
                noted = await self._sink.note_events(events)
        except (Outage, TimeoutError) as error:
            self._complain(error.reason if isinstance(error, FlowstateError) else "storing took too long", None)
            raise web.HTTPServiceUnavailable(headers={"Retry-After": str(RETRY_AFTER_S)}) from None
        for event in events:
            if noted and event.suppress:
                log.info("address_suppressed", to=masked(event.address), reason=event.suppress)
        return answer({"noted": noted})

    async def _body(self, request: web.Request) -> bytes:
        try:
            return await read_body(request, LARGEST_BODY)
        except web.HTTPRequestEntityTooLarge:
            self._complain(f"a report of more than {LARGEST_BODY} bytes", None)
            raise

    def _complain(self, reason: str, remedy: str | None) -> None:
        held = self._seldom.due()
        if held is not None:
            log.warning("webhook_refused", reason=reason, remedy=remedy, more_since_last=held)
