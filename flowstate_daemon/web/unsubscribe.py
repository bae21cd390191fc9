"""`/unsubscribe/<token>`: unsubscribe from a kind of email and resubscribe, without a login.

GET changes nothing, because programs that scan emails open every link. POST takes effect at once: from the buttons of
the page, or from the button of a mail client (RFC 8058). The token is never logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, StoreUnavailableError
from flowstate_daemon.base.redaction import mask_address
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.kinds import KINDS, Kind
from flowstate_daemon.mail.policy import ALL_KINDS
from flowstate_daemon.mail.unsubscribe_links import (
    PATH,
    PREFERENCES_PATH,
    ForgedLinkError,
    InvalidLinkError,
    LinkTokenCodec,
    UnsubscribeToken,
)
from flowstate_daemon.web.bodies import read_body, read_form
from flowstate_daemon.web.link_tokens import find_token, link_beside, token_path
from flowstate_daemon.web.pages import Button, Pages, negotiate_locale

log = structlog.get_logger()

UNSUBSCRIBE, RESUBSCRIBE = "unsubscribe", "resubscribe"
KIND, ALL = "kind", "all"
ONE_CLICK_FIELD, ONE_CLICK_VALUE = "list-unsubscribe", "one-click"
MAX_FORM_BYTES = 8_192
STORE_TIMEOUT_S = 10.0
# For each page, its buttons: the action and the scope that a button posts, and its text.
BUTTONS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "confirm": ((UNSUBSCRIBE, KIND, "unsubscribe"), (UNSUBSCRIBE, ALL, "unsubscribe_all")),
    "unsubscribed": ((RESUBSCRIBE, KIND, "resubscribe"), (UNSUBSCRIBE, ALL, "unsubscribe_all")),
    "unsubscribed_all": ((RESUBSCRIBE, ALL, "resubscribe"),),
    "resubscribed": ((UNSUBSCRIBE, KIND, "unsubscribe"),),
}


class Unsubscribe:
    """The routes of unsubscribe links."""

    def __init__(
        self,
        codec: LinkTokenCodec,
        suppressions: Suppressions,
        pages: Pages,
        clock: Clock,
        kinds: Mapping[str, Kind] = KINDS,
        *,
        on_change: Callable[[str], None] = lambda _action: None,
    ) -> None:
        """`on_change` is called with `unsubscribed` or `resubscribed`."""
        self._codec = codec
        self._suppressions = suppressions
        self.pages, self.kinds = pages, kinds  # replaced by a reload
        self._on_change = on_change
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        path = token_path(PATH)
        return [web.get(path, self.get), web.post(path, self.post)]

    async def get(self, request: web.Request) -> web.Response:
        """Show the current state and the buttons that change it."""
        try:
            token = self._decode_token(request)
        except InvalidLinkError as error:
            return self.pages.render_invalid_link(self._locale(request, None), error)
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                page = await self._current_page(token)
        except (StoreUnavailableError, TimeoutError):
            page = "confirm"  # the only page that does not state whether the address is subscribed
        return self._render(request, token, page)

    async def post(self, request: web.Request) -> web.Response:
        """Apply the posted action, then show the new state."""
        try:
            token = self._decode_token(request)
        except InvalidLinkError as error:
            return self.pages.render_invalid_link(self._locale(request, None), error)
        requested = await self._read_action(request)
        if requested is None:
            return self.pages.render("bad_request", self._locale(request, token), status=400)
        action, scope = requested
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                await self._apply(token, action, ALL_KINDS if scope == ALL else token.kind)
                page = await self._current_page(token)
        except (StoreUnavailableError, TimeoutError) as error:
            reason = error.reason if isinstance(error, FlowstateError) else "Postgres did not answer in time"
            log.warning("unsubscribe_not_stored", action=action, reason=reason)
            return self.pages.render_unavailable(self._locale(request, token))
        return self._render(request, token, "resubscribed" if page == "confirm" else page)

    async def _apply(self, token: UnsubscribeToken, action: str, kind: str) -> None:
        if action == UNSUBSCRIBE:
            if await self._suppressions.unsubscribe(token.address, kind):
                self._on_change("unsubscribed")
            log.info("unsubscribed", recipient=mask_address(token.address), kind=kind)
        else:
            if await self._suppressions.resubscribe(token.address, kind):
                self._on_change("resubscribed")
            log.info("resubscribed", recipient=mask_address(token.address), kind=kind)

    async def _current_page(self, token: UnsubscribeToken) -> str:
        """The page for the stored state: after resubscribing to one kind, all kinds may still be unsubscribed."""
        status = (await self._suppressions.status_for([token.address]))[token.address]
        if ALL_KINDS in status.unsubscribed:
            return "unsubscribed_all"
        return "unsubscribed" if token.kind in status.unsubscribed else "confirm"

    async def _read_action(self, request: web.Request) -> tuple[str, str] | None:
        """The posted action and scope; None when they are invalid.

        A mail client's one-click post means this kind. Clients differ in its capitals and line breaks, and some send no
        body at all: a person has pressed a button all the same.
        """
        body = await read_body(request, MAX_FORM_BYTES)
        posted = read_form(request.headers.get("Content-Type", ""), body)
        form = {name.strip().lower(): value.strip() for name, value in posted.items()}
        one_click = form.get(ONE_CLICK_FIELD, "").lower() == ONE_CLICK_VALUE or not body.strip()
        if one_click and "action" not in form:
            return UNSUBSCRIBE, KIND
        action, scope = form.get("action"), form.get("scope", KIND)
        return (action, scope) if action in (UNSUBSCRIBE, RESUBSCRIBE) and scope in (KIND, ALL) else None

    def _decode_token(self, request: web.Request) -> UnsubscribeToken:
        """Raises InvalidLinkError, also for the token of a kind without unsubscribing."""
        token = self._codec.decode(find_token(request), self._clock.now_ms())
        kind = self.kinds.get(token.kind)  # a newer version may know more kinds
        if kind is not None and not kind.unsubscribable:
            raise ForgedLinkError("emails of this kind are always sent")
        return token

    def _render(self, request: web.Request, token: UnsubscribeToken, page: str) -> web.Response:
        locale = self._locale(request, token)
        label = self.pages.kind_label(locale, token.kind)
        return self.pages.render(
            page,
            locale,
            buttons=[
                Button(action, scope, self.pages.text(locale, "button", name)) for action, scope, name in BUTTONS[page]
            ],
            preferences_url=link_beside(request, PATH, PREFERENCES_PATH),
            address=mask_address(token.address),
            kind=label,
            kind_capitalised=label[:1].upper() + label[1:],
        )

    def _locale(self, request: web.Request, token: UnsubscribeToken | None) -> str:
        return negotiate_locale(request.headers.get("Accept-Language", ""), token.locale if token else "")
