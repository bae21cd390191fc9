"""Renders a request to an email: subject, HTML and text. Pure; the same request gives the same bytes.

`templates` compiles all templates when a Renderer is constructed, so an invalid template stops the start and not an
email.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
from jinja2 import Template

from flowstate_daemon.base.text import header_line
from flowstate_daemon.mail.app_links import AppLinks
from flowstate_daemon.mail.backend_text import MONTH_FIRST
from flowstate_daemon.mail.catalog import Catalog, built_in_catalog
from flowstate_daemon.mail.kinds import MailRequest
from flowstate_daemon.mail.locales import match_locale
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.templates import CompiledTemplates, template_constants
from flowstate_daemon.mail.text_filters import close_isolates, truncate
from flowstate_daemon.mail.unsubscribe_links import UnsubscribeLinks, list_unsubscribe_headers

MAX_SUBJECT_LENGTH = 200
REFERENCE_BYTES = 12
AUTOMATIC = {"Auto-Submitted": "auto-generated"}  # RFC 3834: no out-of-office reply is sent to it


@dataclass(frozen=True, slots=True)
class Brand:
    """What all emails have in common: the sender (the `From` field), names, links and pictures."""

    sender: str
    app_name: str
    frontend_url: str
    default_locale: str = "en"
    reply_to: str = ""
    links: AppLinks | None = None
    logo_url: str | None = None
    logo_width: int = 0
    logo_height: int = 0
    support_url: str | None = None
    postal_address: str = ""
    backend_dates: str = MONTH_FIRST

    def constants(self, links: AppLinks) -> dict[str, Any]:
        """The values that are the same for all emails."""
        return {
            **template_constants(self.app_name, self.frontend_url),
            "settings_url": links.settings or None,
            "reset_password_url": links.url("reset_password"),
            "support_url": self.support_url,
            "postal_address": self.postal_address,
            "logo_url": self.logo_url,
            "logo_width": self.logo_width,
            "logo_height": self.logo_height,
            "date_order": self.backend_dates,
        }


class Renderer:
    """Renders every kind of email in every language."""

    def __init__(self, brand: Brand, links: UnsubscribeLinks | None = None, catalog: Catalog | None = None) -> None:
        self._brand = brand
        self._links = links
        self.catalog = catalog or built_in_catalog()
        self._app_links = brand.links or AppLinks(brand.frontend_url)
        self._constants = brand.constants(self._app_links)
        self._default = match_locale(brand.default_locale, self.catalog.locales) or self.catalog.locales[0]
        self._prepared: dict[tuple[str, str | None], tuple[str, CompiledTemplates, dict[str, Any]]] = {}

    def _prepare(self, kind: str, locale: str | None) -> tuple[str, CompiledTemplates, dict[str, Any]]:
        """Language, templates and constants for readers of a language; the default one where the kind lacks it.

        Built-in templates are compiled at their first use, which takes about 25 ms.
        """
        used = locale if locale is not None and (kind, locale) in self.catalog.templates else self._default
        templates = self.catalog.templates[kind, used]
        constants = {name: value for name, value in self._constants.items() if name in templates.constants}
        return used, templates, constants

    def render(self, request: MailRequest, *, issued_ms: int | None = None, created_ms: int | None = None) -> Email:
        """The email of one request, in its own language if that is supported, else in the brand's default language.

        `issued_ms` is the issue time of the links to the daemon's pages, which the email lacks without it;
        `created_ms` is when the job was created, 0 or None for the issue time. The producers' own link to settings is
        not used: the application has no such page.
        """
        reader = request.kind, match_locale(request.locale, self.catalog.locales)
        if reader not in self._prepared:
            self._prepared[reader] = self._prepare(*reader)
        locale, template, constants = self._prepared[reader]
        created_ms = created_ms or issued_ms
        link = None
        urls: dict[str, str | None] = {"unsubscribe_url": None}
        if self._links is not None and issued_ms is not None:
            link, preferences = self._links.links(request, issued_ms=issued_ms, locale=locale)
            urls = {"unsubscribe_url": link, "settings_url": preferences}
        values: dict[str, Any] = {
            **constants,
            **msgspec.structs.asdict(request.context),
            **urls,
            "created_ms": created_ms,
        }
        for field, name in request.spec.links:
            values[field] = self._app_links.replace(name, values[field])
        subject = close_isolates(truncate(header_line(_render(template.subject, values)), MAX_SUBJECT_LENGTH - 1))
        values["subject"] = subject
        return Email(
            kind=request.kind,
            sender=self._brand.sender,
            to=request.to,
            subject=subject,
            html=_render(template.html, values),
            text=_without_blank_lines(_render(template.text, values)).strip() + "\n",
            headers=_headers(request, link, created_ms),
            tags={"kind": request.kind},
            has_code=request.spec.has_code,
            reply_to=self._brand.reply_to,
        )


def _render(template: Template, values: dict[str, Any]) -> str:
    """As `Template.render`, which copies the values first, and looks for globals, which our templates do not have."""
    environment = template.environment
    context = environment.context_class(environment, values, template.name, template.blocks)
    try:
        return "".join(template.root_render_func(context))
    except Exception:  # noqa: BLE001 - raised again, with the line of the template
        environment.handle_exception()


def _without_blank_lines(text: str) -> str:
    """At most one blank line between two others."""
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


def _headers(request: MailRequest, link: str | None, created_ms: int | None) -> dict[str, str]:
    """The extra header fields. The same for every attempt of an email."""
    headers = {**AUTOMATIC, **list_unsubscribe_headers(link)}
    if request.spec.has_code and created_ms is not None:
        # Without it Gmail folds a new code under the older ones with the same subject.
        name = f"{request.kind} {request.to} {created_ms}".encode()
        headers["X-Entity-Ref-ID"] = hashlib.blake2b(name, digest_size=REFERENCE_BYTES).hexdigest()
    return headers
