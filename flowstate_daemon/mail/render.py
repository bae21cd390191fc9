"""From a request to a finished mail: subject, HTML and text. Pure, and the same bytes for the same request.

`daemon` builds one Renderer from the configuration; `work` calls it for each mail. Templates are made by `press` at
construction: one that is wrong keeps the daemon from starting, not a mail from leaving.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flowstate_daemon.mail.catalogue import MailRequest
from flowstate_daemon.mail.language import LOCALES, spoken
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.press import letters
from flowstate_daemon.mail.shaping import cut, one_line
from flowstate_daemon.mail.unsubscribe import UnsubscribeLinks, headers_for

LONGEST_SUBJECT = 200
BLANKS = re.compile(r"\n{3,}")


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
        self._letters = {locale: letters(locale) for locale in LOCALES}

    def render(self, request: MailRequest, *, made_ms: int | None = None) -> Email:
        """The mail of one request, in its own language if we speak it, else in the brand's.

        `made_ms`, the job's timestamp, dates the link to unsubscribe; a mail without it, such as a preview, has none.
        """
        locale = self._locale(request.locale)
        letter = self._letters[locale][request.kind]
        link = None
        if self._links is not None and made_ms is not None:
            link = self._links.link(request, issued_ms=made_ms, locale=locale)
        values = {**self._constants, **request.context.values(), "unsubscribe_url": link}
        subject = cut(one_line(letter.subject.render(values)), LONGEST_SUBJECT)
        values["subject"] = subject
        return Email(
            kind=request.kind,
            sender=self._brand.sender,
            to=request.to,
            subject=subject,
            html=letter.html.render(values),
            text=BLANKS.sub("\n\n", letter.text.render(values)).strip() + "\n",
            headers=headers_for(link),
            tags={"kind": request.kind},
        )

    def _locale(self, wanted: str | None) -> str:
        return spoken(wanted) or spoken(self._brand.default_locale) or LOCALES[0]
