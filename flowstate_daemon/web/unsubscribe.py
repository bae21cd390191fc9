"""`/unsubscribe/<token>`: leaving a kind of mail, and the way back, without a login.

GET only shows where things stand, because programs that scan mail open every link. POST changes, at once: from the
page's buttons, or from a mail program's own button (RFC 8058). The token is never logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, Outage
from flowstate_daemon.base.privacy import masked
from flowstate_daemon.mail.facts import EVERYTHING, PersonFacts
from flowstate_daemon.mail.unsubscribe import PATH, BadLink, LinkExpired, LinkSeal, Ticket
from flowstate_daemon.web.bodies import read_body, read_form
from flowstate_daemon.web.pages import Button, Pages, preferred

log = structlog.get_logger()

LEAVE, RETURN = "unsubscribe", "resubscribe"
KIND, ALL = "kind", "all"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}
LARGEST_FORM = 8_192
STORE_S = 10.0
RETRY_AFTER_S = 60
OFFERS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "confirm": ((LEAVE, KIND, "leave"), (LEAVE, ALL, "leave_all")),
    "kind_off": ((RETURN, KIND, "return"), (LEAVE, ALL, "leave_all")),
    "all_off": ((RETURN, ALL, "return"),),
    "back": ((LEAVE, KIND, "leave"),),
}


class Preferences(Protocol):
    """Who has left what. Each call raises Outage while the store is away."""

    async def unsubscribe(self, address: str, kind: str) -> bool: ...

    async def resubscribe(self, address: str, kind: str) -> list[str]: ...

    async def facts_for(self, addresses: Sequence[str]) -> Mapping[str, PersonFacts]: ...


class Unsubscribe:
    """The routes. `preferences` is the database's list."""

    def __init__(self, seal: LinkSeal, preferences: Preferences, pages: Pages, clock: Clock) -> None:
        self._seal = seal
        self._preferences = preferences
        self.pages = pages  # may be replaced while the house runs
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [web.get(f"{PATH}{{token}}", self.ask), web.post(f"{PATH}{{token}}", self.act)]

    async def ask(self, request: web.Request) -> web.Response:
        """Where things stand, and what can be done about it."""
        try:
            ticket = self._ticket(request)
        except BadLink as bad:
            return self._refuse(request, bad)
        try:
            async with asyncio.timeout(STORE_S):
                page = await self._standing(ticket)
        except (Outage, TimeoutError):
            page = "confirm"  # which claims nothing
        return self._show(request, ticket, page)

    async def act(self, request: web.Request) -> web.Response:
        """Do what the button says, then show where things stand."""
        try:
            ticket = self._ticket(request)
        except BadLink as bad:
            return self._refuse(request, bad)
        wish = await self._wish(request)
        if wish is None:
            return self.pages.show("unclear", self._locale(request, ticket), status=400)
        action, scope = wish
        try:
            async with asyncio.timeout(STORE_S):
                await self._change(ticket, action, EVERYTHING if scope == ALL else ticket.kind)
                page = await self._standing(ticket)
        except (Outage, TimeoutError) as error:
            reason = error.reason if isinstance(error, FlowstateError) else "the store took too long"
            log.warning("unsubscribe_not_stored", action=action, reason=reason)
            return self._away(request, ticket)
        return self._show(request, ticket, "back" if page == "confirm" else page)

    async def _change(self, ticket: Ticket, action: str, kind: str) -> None:
        if action == LEAVE:
            await self._preferences.unsubscribe(ticket.address, kind)
            log.info("unsubscribed", to=masked(ticket.address), kind=kind)
        else:
            await self._preferences.resubscribe(ticket.address, kind)
            log.info("resubscribed", to=masked(ticket.address), kind=kind)

    async def _standing(self, ticket: Ticket) -> str:
        """The page that tells the truth: whoever returns to one kind may still have left all."""
        facts = (await self._preferences.facts_for([ticket.address]))[ticket.address]
        if EVERYTHING in facts.unsubscribed:
            return "all_off"
        return "kind_off" if ticket.kind in facts.unsubscribed else "confirm"

    async def _wish(self, request: web.Request) -> tuple[str, str] | None:
        """What is asked for. A mail program's button says no more than its name, and means this kind."""
        form = read_form(request.headers.get("Content-Type", ""), await read_body(request, LARGEST_FORM))
        if form.items() >= ONE_CLICK.items() and "action" not in form:
            return LEAVE, KIND
        action, scope = form.get("action"), form.get("scope", KIND)
        return (action, scope) if action in (LEAVE, RETURN) and scope in (KIND, ALL) else None

    def _ticket(self, request: web.Request) -> Ticket:
        return self._seal.open(request.match_info["token"], self._clock.now_ms())

    def _show(self, request: web.Request, ticket: Ticket, page: str) -> web.Response:
        locale = self._locale(request, ticket)
        return self.pages.show(
            page,
            locale,
            buttons=[Button(act, scope, self.pages.word(locale, "button", word)) for act, scope, word in OFFERS[page]],
            address=masked(ticket.address),
            kind=self.pages.kind(locale, ticket.kind),
        )

    def _refuse(self, request: web.Request, bad: BadLink) -> web.Response:
        expired = isinstance(bad, LinkExpired)
        return self.pages.show(
            "expired" if expired else "broken", self._locale(request, None), status=410 if expired else 400
        )

    def _away(self, request: web.Request, ticket: Ticket) -> web.Response:
        response = self.pages.show("away", self._locale(request, ticket), status=503)
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    def _locale(self, request: web.Request, ticket: Ticket | None) -> str:
        return preferred(request.headers.get("Accept-Language", ""), ticket.locale if ticket else "")
