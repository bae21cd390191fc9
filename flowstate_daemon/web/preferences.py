"""`/preferences/<token>`: the page on which recipients choose what they get, when, and in which language.

It needs no login: the link is in every email and can be read and made by this daemon only. GET changes nothing. The
token is never logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, StoreUnavailableError
from flowstate_daemon.base.redaction import mask_address
from flowstate_daemon.database.preferences import PreferenceStore, RecipientSettings
from flowstate_daemon.database.recipients import NO_USER_PREFERENCES, UserPreferenceReader
from flowstate_daemon.mail.locales import LOCALES, match_locale
from flowstate_daemon.mail.unsubscribe_links import (
    PREFERENCES_PATH,
    InvalidLinkError,
    LinkTokenCodec,
    UnsubscribeToken,
)
from flowstate_daemon.web.bodies import read_body
from flowstate_daemon.web.link_tokens import find_token, token_path
from flowstate_daemon.web.pages import Pages, negotiate_locale
from flowstate_daemon.web.preference_form import (
    FormContext,
    InvalidFormError,
    UnknownZoneError,
    apply_form,
    parse_form,
)
from flowstate_daemon.web.preference_view import PreferenceView, Recipient

log = structlog.get_logger()

MAX_FORM_BYTES = 16_384
STORE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class RecipientReader:
    """Reads and writes what one recipient has chosen, here and in the application."""

    store: PreferenceStore
    app: UserPreferenceReader

    async def load(self, token: UnsubscribeToken) -> Recipient:
        settings = await self.store.load(token.address)
        app = (await self.app.preferences_of([token.address])).get(token.address, NO_USER_PREFERENCES)
        return Recipient(mask_address(token.address), token.kind, settings, app)


class PreferencePage:
    """The routes of the preference page."""

    def __init__(
        self, codec: LinkTokenCodec, recipients: RecipientReader, view: PreferenceView, pages: Pages, clock: Clock
    ) -> None:
        self._codec = codec
        self._recipients = recipients
        self.view = view
        self.pages = pages  # replaced by a reload, as are the kinds of the view
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        path = token_path(PREFERENCES_PATH)
        return [web.get(path, self.get), web.post(path, self.post)]

    async def get(self, request: web.Request) -> web.Response:
        """Show what is stored."""
        try:
            token = self._decode_token(request)
        except InvalidLinkError as error:
            return self.pages.render_invalid_link(self._fallback_locale(request, None), error)
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                recipient = await self._recipients.load(token)
        except (StoreUnavailableError, TimeoutError):
            return self.pages.render_unavailable(self._fallback_locale(request, token))
        return self._render(self._locale(request, token, recipient), recipient)

    async def post(self, request: web.Request) -> web.Response:
        """Store what was chosen, then show it."""
        try:
            token = self._decode_token(request)
        except InvalidLinkError as error:
            return self.pages.render_invalid_link(self._fallback_locale(request, None), error)
        body = await read_body(request, MAX_FORM_BYTES)
        try:
            form = parse_form(body)
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return await self._apply(request, token, form)
        except InvalidFormError:
            return self.pages.render("bad_request", self._fallback_locale(request, token), status=400)
        except (StoreUnavailableError, TimeoutError) as error:
            reason = error.reason if isinstance(error, FlowstateError) else "Postgres did not answer in time"
            log.warning("preferences_not_stored", reason=reason)
            return self.pages.render_unavailable(self._fallback_locale(request, token))

    async def _apply(self, request: web.Request, token: UnsubscribeToken, form: Mapping[str, str]) -> web.Response:
        recipient = await self._recipients.load(token)
        zone = recipient.zone(self.view.default_zone)
        context = FormContext(self.view.kinds, zone, self._clock.now())
        viewed = match_locale(form.get("view"))
        try:
            changed = apply_form(form, recipient.settings, context)
        except UnknownZoneError as error:
            locale = viewed or self._locale(request, token, recipient)
            return self._render(locale, recipient, status=400, zone_text=error.text)
        language_before = recipient.settings.preferences.language
        await self._store(token, recipient.settings, changed)
        recipient = replace(recipient, settings=changed)
        chosen = match_locale(changed.preferences.language)
        if chosen is not None and chosen != language_before:
            viewed = chosen
        return self._render(viewed or self._locale(request, token, recipient), recipient, saved=True)

    async def _store(self, token: UnsubscribeToken, before: RecipientSettings, after: RecipientSettings) -> None:
        if before != after:
            await self._recipients.store.save(token.address, after)
        log.info(
            "preferences_saved",
            recipient=mask_address(token.address),
            changed=before != after,
            unsubscribed=sorted(after.unsubscribed),
        )

    def _decode_token(self, request: web.Request) -> UnsubscribeToken:
        return self._codec.decode(find_token(request), self._clock.now_ms())

    def _render(
        self, locale: str, recipient: Recipient, *, status: int = 200, saved: bool = False, zone_text: str = ""
    ) -> web.Response:
        fields = self.view.build(self.pages, locale, recipient, self._clock.now(), saved=saved, zone_text=zone_text)
        return self.pages.render_preferences(locale, status, **fields)

    def _locale(self, request: web.Request, token: UnsubscribeToken, recipient: Recipient) -> str:
        """The language that the reader switched to; else the one they have chosen; else that of the browser."""
        asked = request.query.get("language")
        if asked in LOCALES:
            return asked
        return PreferenceView.language(recipient, self._fallback_locale(request, token))

    def _fallback_locale(self, request: web.Request, token: UnsubscribeToken | None) -> str:
        asked = request.query.get("language")
        if asked in LOCALES:
            return asked
        return negotiate_locale(request.headers.get("Accept-Language", ""), token.locale if token else "")
