"""Renders a request to an email: subject, HTML and text. Pure; the same request gives the same bytes.

`templates` compiles all templates when a Renderer is constructed, so an invalid template stops the start and not an
email.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flowstate_daemon.base.text import one_line
from flowstate_daemon.mail.kinds import MailRequest
from flowstate_daemon.mail.locales import LOCALES, match_locale
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.templates import compile_templates
from flowstate_daemon.mail.text_filters import truncate
from flowstate_daemon.mail.unsubscribe_links import UnsubscribeLinks, list_unsubscribe_headers

MAX_SUBJECT_LENGTH = 200
BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True, slots=True)
class Brand:
    """The sender (the `From` field), the product's name and the URL of its application."""

    sender: str
    app_name: str
    frontend_url: str
    default_locale: str = "en"


class Renderer:
    """Renders every kind of email in every language."""

    def __init__(self, brand: Brand, links: UnsubscribeLinks | None = None) -> None:
        self._brand = brand
        self._links = links
        self._constants = {"app_name": brand.app_name, "frontend_url": brand.frontend_url.rstrip("/")}
        self._templates = {locale: compile_templates(locale) for locale in LOCALES}

    def render(self, request: MailRequest, *, issued_ms: int | None = None) -> Email:
        """The email of one request, in its own language if that is supported, else in the brand's default language.

        `issued_ms` is the issue time of the links to the daemon's pages, which the email lacks without it. The
        producers' own link to settings is not used: the application has no such page.
        """
        locale = self._locale(request.locale)
        template = self._templates[locale][request.kind]
        link = preferences = None
        if self._links is not None and issued_ms is not None:
            link = self._links.link(request, issued_ms=issued_ms, locale=locale)
            preferences = self._links.preferences_link(request, issued_ms=issued_ms, locale=locale)
        urls = {"unsubscribe_url": link, "settings_url": preferences}
        values = {**self._constants, **request.context.template_values(), **urls}
        subject = truncate(one_line(template.subject.render(values)), MAX_SUBJECT_LENGTH)
        values["subject"] = subject
        return Email(
            kind=request.kind,
            sender=self._brand.sender,
            to=request.to,
            subject=subject,
            html=template.html.render(values),
            text=BLANK_LINES.sub("\n\n", template.text.render(values)).strip() + "\n",
            headers=list_unsubscribe_headers(link),
            tags={"kind": request.kind},
        )

    def _locale(self, wanted: str | None) -> str:
        return match_locale(wanted) or match_locale(self._brand.default_locale) or LOCALES[0]
