"""`/unsubscribe/<token>`: leaving a kind of mail, and the way back, without a login.

GET only shows where things stand, because programs that scan mail open every link. POST changes, at once: from the
page's buttons, or from a mail program's own button (RFC 8058). The token is never logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, StoreUnavailableError
from flowstate_daemon.base.redaction import mask_address
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.policy import ALL_KINDS
from flowstate_daemon.mail.unsubscribe_links import (
    PATH,
    ExpiredLinkError,
    InvalidLinkError,
    LinkTokenCodec,
    UnsubscribeToken,
)
from flowstate_daemon.web.pages import Button, Pages, negotiate_locale
from flowstate_daemon.web.server import read_body, read_form

log = structlog.get_logger()

UNSUBSCRIBE, RESUBSCRIBE = "unsubscribe", "resubscribe"
KIND, ALL = "kind", "all"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}
MAX_FORM_BYTES = 8_192
STORE_TIMEOUT_S = 10.0
RETRY_AFTER_S = 60
BUTTONS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "confirm": ((UNSUBSCRIBE, KIND, "leave"), (UNSUBSCRIBE, ALL, "leave_all")),
    "kind_off": ((RESUBSCRIBE, KIND, "return"), (UNSUBSCRIBE, ALL, "leave_all")),
    "all_off": ((RESUBSCRIBE, ALL, "return"),),
    "back": ((UNSUBSCRIBE, KIND, "leave"),),
}


class Unsubscribe:
    """The routes. `preferences` is the database's list."""

    def __init__(self, store: LinkTokenCodec, preferences: Suppressions, pages: Pages, clock: Clock) -> None:
        self._store = store
        self._preferences = preferences
        self.pages = pages  # may be replaced while the house runs
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [web.get(f"{PATH}{{token}}", self.get), web.post(f"{PATH}{{token}}", self.post)]

    async def get(self, request: web.Request) -> web.Response:
        """Where things stand, and what can be done about it."""
        try:
            ticket = self._ticket(request)
        except InvalidLinkError as bad:
            return self._refuse(request, bad)
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                page = await self._standing(ticket)
        except (StoreUnavailableError, TimeoutError):
            page = "confirm"  # which claims nothing
        return self._show(request, ticket, page)

    async def post(self, request: web.Request) -> web.Response:
        """Do what the button says, then show where things stand."""
        try:
            ticket = self._ticket(request)
        except InvalidLinkError as bad:
            return self._refuse(request, bad)
        wish = await self._request(request)
        if wish is None:
            return self.pages.render("unclear", self._locale(request, ticket), status=400)
        action, scope = wish
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                await self._change(ticket, action, ALL_KINDS if scope == ALL else ticket.kind)
                page = await self._standing(ticket)
        except (StoreUnavailableError, TimeoutError) as error:
            reason = error.reason if isinstance(error, FlowstateError) else "the store took too long"
            log.warning("unsubscribe_not_stored", action=action, reason=reason)
            return self._away(request, ticket)
        return self._show(request, ticket, "back" if page == "confirm" else page)

    async def _change(self, ticket: UnsubscribeToken, action: str, kind: str) -> None:
        if action == UNSUBSCRIBE:
            await self._preferences.unsubscribe(ticket.address, kind)
            log.info("unsubscribed", recipient=mask_address(ticket.address), kind=kind)
        else:
            await self._preferences.resubscribe(ticket.address, kind)
            log.info("resubscribed", recipient=mask_address(ticket.address), kind=kind)

    async def _standing(self, ticket: UnsubscribeToken) -> str:
        """The page that tells the truth: whoever returns to one kind may still have left all."""
        facts = (await self._preferences.status_for([ticket.address]))[ticket.address]
        if ALL_KINDS in facts.unsubscribed:
            return "all_off"
        return "kind_off" if ticket.kind in facts.unsubscribed else "confirm"

    async def _request(self, request: web.Request) -> tuple[str, str] | None:
        """What is asked for. A mail program's button says no more than its name, and means this kind."""
        form = read_form(request.headers.get("Content-Type", ""), await read_body(request, MAX_FORM_BYTES))
        if form.items() >= ONE_CLICK.items() and "action" not in form:
            return UNSUBSCRIBE, KIND
        action, scope = form.get("action"), form.get("scope", KIND)
        return (action, scope) if action in (UNSUBSCRIBE, RESUBSCRIBE) and scope in (KIND, ALL) else None

    def _ticket(self, request: web.Request) -> UnsubscribeToken:
        return self._store.decode(request.match_info["token"], self._clock.now_ms())

    def _show(self, request: web.Request, ticket: UnsubscribeToken, page: str) -> web.Response:
        locale = self._locale(request, ticket)
        return self.pages.render(
            page,
            locale,
            buttons=[Button(act, scope, self.pages.text(locale, "button", word)) for act, scope, word in BUTTONS[page]],
            address=mask_address(ticket.address),
            kind=self.pages.kind_label(locale, ticket.kind),
        )

    def _refuse(self, request: web.Request, bad: InvalidLinkError) -> web.Response:
        expired = isinstance(bad, ExpiredLinkError)
        return self.pages.render(
            "expired" if expired else "broken", self._locale(request, None), status=410 if expired else 400
        )

    def _away(self, request: web.Request, ticket: UnsubscribeToken) -> web.Response:
        response = self.pages.render("away", self._locale(request, ticket), status=503)
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    def _locale(self, request: web.Request, ticket: UnsubscribeToken | None) -> str:
        return negotiate_locale(request.headers.get("Accept-Language", ""), ticket.locale if ticket else "")
