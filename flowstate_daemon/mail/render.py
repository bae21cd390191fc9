"""Renders a request to an email: subject, HTML and text. Pure; the same request gives the same bytes.

`templates` compiles all templates when a Renderer is constructed, so an invalid template stops the start and not an
email.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from flowstate_daemon.mail.catalog import Catalog, built_in_catalog
from flowstate_daemon.mail.kinds import MailRequest
from flowstate_daemon.mail.locales import match_locale
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.templates import CompiledTemplates, template_constants
from flowstate_daemon.mail.text_filters import one_line, truncate
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

    def __init__(self, brand: Brand, links: UnsubscribeLinks | None = None, catalog: Catalog | None = None) -> None:
        self._brand = brand
        self._links = links
        self.catalog = catalog or built_in_catalog()
        self._constants = template_constants(brand.app_name, brand.frontend_url)
        default = match_locale(brand.default_locale, self.catalog.locales) or self.catalog.locales[0]
        self._templates = {locale: self._language(locale, default) for locale in (*self.catalog.locales, None)}

    def _language(self, locale: str | None, default: str) -> Mapping[str, tuple[str, CompiledTemplates]]:
        """By kind, the language and the templates of a reader's language; the default ones of a kind without it."""
        found = {}
        for kind in self.catalog.kinds:
            used = locale if locale is not None and (kind, locale) in self.catalog.templates else default
            found[kind] = used, self.catalog.templates[kind, used]
        return found

    def render(self, request: MailRequest, *, created_ms: int | None = None) -> Email:
        """The email of one request, in its own language if that is supported, else in the brand's default language.

        `created_ms`, the job's timestamp, is the issue time of the unsubscribe link; without it the email has no link.
        """
        locale, template = self._templates[match_locale(request.locale, self.catalog.locales)][request.kind]
        link = None
        if self._links is not None and created_ms is not None:
            link = self._links.link(request, issued_ms=created_ms, locale=locale)
        values: dict[str, Any] = {
            **self._constants, **msgspec.structs.asdict(request.context), "unsubscribe_url": link
        }  # fmt: skip
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
            has_code=request.spec.has_code,
        )
