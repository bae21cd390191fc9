"""From a request to a finished mail: subject, HTML and text. Pure, and the same bytes for the same request.

`daemon` builds one Renderer from the configuration; `work` calls it for each mail. Templates are made by `press` at
construction: one that is wrong keeps the daemon from starting, not a mail from leaving.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flowstate_daemon.mail.kinds import MailRequest
from flowstate_daemon.mail.locales import LOCALES, match_locale
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.templates import compile_templates
from flowstate_daemon.mail.text_filters import one_line, truncate
from flowstate_daemon.mail.unsubscribe_links import UnsubscribeLinks, list_unsubscribe_headers

MAX_SUBJECT_LENGTH = 200
BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True, slots=True)
class Brand:
    """Who writes: the `From` field as it is sent, the product's name, where its application lives."""

    sender: str
    app_name: str
    frontend_url: str
    default_locale: str = "en"


class Renderer:
    """Renders every kind of mail in every language."""

    def __init__(self, brand: Brand, links: UnsubscribeLinks | None = None) -> None:
        self._brand = brand
        self._links = links
        self._constants = {"app_name": brand.app_name, "frontend_url": brand.frontend_url.rstrip("/")}
        self._templates = {locale: compile_templates(locale) for locale in LOCALES}

    def render(self, request: MailRequest, *, made_ms: int | None = None) -> Email:
        """The mail of one request, in its own language if we speak it, else in the brand's.

        `made_ms`, the job's timestamp, dates the link to unsubscribe; a mail without it, such as a preview, has none.
        """
        locale = self._locale(request.locale)
        template = self._templates[locale][request.kind]
        link = None
        if self._links is not None and made_ms is not None:
            link = self._links.link(request, issued_ms=made_ms, locale=locale)
        values = {**self._constants, **request.context.template_values(), "unsubscribe_url": link}
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
