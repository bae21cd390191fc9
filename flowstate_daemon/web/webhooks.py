"""`POST /webhooks/resend`: the provider's events about emails, such as delivered or bounced.

The response is 200 only when the event is stored. While Postgres is unavailable it is 503, and Resend repeats the
event for more than a day, so no event is lost and none has to be buffered. An event that arrives twice is stored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, InvalidDataError, StoreUnavailableError
from flowstate_daemon.base.logs import LogThrottle
from flowstate_daemon.base.redaction import mask_address
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.delivery.webhooks import (
    SUPPRESSION_REMOVED,
    InvalidSignatureError,
    StaleTimestampError,
    WebhookVerifier,
)
from flowstate_daemon.mail.message import ProviderEvent
from flowstate_daemon.web.bodies import read_body
from flowstate_daemon.web.responses import json_response

log = structlog.get_logger()

MAX_BODY_BYTES = 256 * 1024
STORE_TIMEOUT_S = 10.0  # Resend waits longer than this for a response
RETRY_AFTER_S = 60
REMEDIES = {
    InvalidSignatureError: "if this continues, compare the webhook secret with the signing secret shown at Resend",
    StaleTimestampError: "if this continues, check this machine's clock",
}


class Webhooks:
    """The route of the provider's webhook."""

    def __init__(
        self,
        verifier: WebhookVerifier,
        ledger: Ledger,
        clock: Clock,
        sender_domain: str = "",
        *,
        on_event: Callable[[str], None] = lambda _type: None,
    ) -> None:
        """`on_event` is called with the type of each event that is new."""
        self.sender_domain = sender_domain  # replaced by a reload
        self._on_event = on_event
        self._verifier = verifier
        self._ledger = ledger
        self._log_throttle = LogThrottle(clock)

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/webhooks/resend", self.post)]

    async def post(self, request: web.Request) -> web.Response:
        try:
            # Before the body is read: a client that cannot sign webhooks gets no memory for one.
            self._verifier.check_headers(request.headers)
            event = self._verifier.verify(request.headers, await self._body(request))
        except (InvalidSignatureError, StaleTimestampError) as error:
            self._warn(error.reason, REMEDIES[type(error)])
            raise web.HTTPUnauthorized from None
        except InvalidDataError as error:
            self._warn(error.reason, None)
            raise web.HTTPBadRequest from None
        return json_response({"recorded": 0}) if event is None else await self._store(event)

    async def _store(self, event: ProviderEvent) -> web.Response:
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                recorded = await self._ledger.record_events([event], own_domain=self.sender_domain)
                if recorded.new and event.type == SUPPRESSION_REMOVED:
                    await self._ledger.lift_provider_suppression(event)
        except (StoreUnavailableError, TimeoutError) as error:
            self._warn(error.reason if isinstance(error, FlowstateError) else "Postgres did not answer in time", None)
            raise web.HTTPServiceUnavailable(headers={"Retry-After": str(RETRY_AFTER_S)}) from None
        if recorded.new:
            self._on_event(event.type)
        if recorded.new and event.suppress:
            fields = {"recipient": mask_address(event.address), "reason": event.suppress}
            if event.svix_id in recorded.obeyed:
                log.info("address_suppressed", **fields)
            else:  # another sender on the same account, or an email that the ledger does not have yet
                log.info("report_noted", sender_domain=event.sender_domain, **fields)
        return json_response({"recorded": recorded.new})

    async def _body(self, request: web.Request) -> bytes:
        try:
            return await read_body(request, MAX_BODY_BYTES)
        except web.HTTPRequestEntityTooLarge:
            self._warn(f"the body is larger than {MAX_BODY_BYTES} bytes", None)
            raise

    def _warn(self, reason: str, remedy: str | None) -> None:
        suppressed = self._log_throttle.acquire()
        if suppressed is not None:
            log.warning("webhook_rejected", reason=reason, remedy=remedy, more_since_last=suppressed)
