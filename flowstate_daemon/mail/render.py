"""From a request to a finished mail: subject, HTML and text. Pure, and the same bytes for the same request.

`daemon` builds one Renderer from the configuration; `work` calls it for each mail. Templates and words are read and
compiled at construction: a template that is wrong keeps the daemon from starting, not a mail from leaving.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import msgspec
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template, select_autoescape

from flowstate_daemon.mail.catalogue import KINDS, NOBODY, STRANGER, MailRequest
from flowstate_daemon.mail.language import LOCALES, spoken
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.phrasebook import Phrasebook, read_phrasebook
from flowstate_daemon.mail.unsubscribe import UnsubscribeLinks, headers_for

LONGEST_SUBJECT = 200
LONGEST_LIST = 50  # lines; providers of mailboxes cut mails at about 100 kB
BULLET = re.compile(r"^[-*•]\s+")
BLANKS = re.compile(r"\n{3,}")
JOINERS = "\u200d\ufe0f"  # what an emoji that was cut in the middle would end with


@dataclass(frozen=True, slots=True)
class Brand:
    """Who writes: the `From` field as it is sent, the product's name, where its application lives."""

    sender: str
    app_name: str
    frontend_url: str
    default_locale: str = "en"


@dataclass(frozen=True, slots=True)
class Letter:
    """The compiled templates of one kind in one language."""

    subject: Template
    html: Template
    text: Template


class Renderer:
    """Renders every kind of mail in every language."""

    def __init__(self, brand: Brand, links: UnsubscribeLinks | None = None) -> None:
        self._brand = brand
        self._links = links
        self._letters = {locale: _letters(brand, read_phrasebook(locale)) for locale in LOCALES}

    def render(self, request: MailRequest, *, made_ms: int | None = None) -> Email:
        """The mail of one request, in its own language if we speak it, else in the brand's.

        `made_ms`, the job's timestamp, dates the link to unsubscribe; a mail without it, such as a preview, has none.
        """
        locale = self._locale(request.locale)
        letter = self._letters[locale][request.kind]
        values = msgspec.structs.asdict(request.context)
        link = None
        if self._links is not None and made_ms is not None:
            link = self._links.link(request, issued_ms=made_ms, locale=locale)
        values["unsubscribe_url"] = link
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


def one_line(text: str) -> str:
    """Text that fits a header field: printable, without line breaks or runs of blanks."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char for char in " ".join(text.split()) if char.isprintable() or char in JOINERS)


def cut(text: str, longest: int) -> str:
    """At most `longest` characters, cut between words if a word ends near there."""
    if len(text) <= longest:
        return text
    head = text[: longest - 1]
    words, blank, rest = head.rpartition(" ")
    if blank and len(rest) <= longest // 4:
        head = words
    return head.rstrip(JOINERS + " ") + "…"


def rows(text: str) -> list[str]:
    return text.split("\n") if text else []


def points(text: str) -> list[str]:
    """The lines of a list without the blank ones, and without the bullets that a producer may have put there."""
    found = (BULLET.sub("", row.strip()) for row in rows(text))
    return [point for point in found if point]


def _letters(brand: Brand, words: Phrasebook) -> Mapping[str, Letter]:
    environment = _environment(brand, words)
    return {
        kind: Letter(
            subject=_light(environment.from_string(words.word(kind, "subject"))),
            html=_light(environment.get_template(f"{kind}.html")),
            text=_light(environment.get_template(f"{kind}.txt")),
        )
        for kind in KINDS
    }


def _light(template: Template) -> Template:
    """The same template with its globals as one plain dict: each rendering copies them, a chain of maps slowly."""
    template.globals = dict(template.globals)
    return template


def _environment(brand: Brand, words: Phrasebook) -> Environment:
    folder = files(__package__) / "templates"

    def source(name: str) -> str:
        text = (folder / name).read_text(encoding="utf-8")
        return words.fill(text, kind=name.rpartition(".")[0])

    environment = Environment(
        loader=FunctionLoader(source),
        autoescape=select_autoescape(enabled_extensions=("html",), default_for_string=False),
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    constants: dict[str, Any] = {
        "app_name": brand.app_name,
        "frontend_url": brand.frontend_url.rstrip("/"),
        "locale": words.locale,
        "longest_list": LONGEST_LIST,
        "nobody": NOBODY,
        "stranger": STRANGER,
        "count": words.count,
    }
    environment.globals = constants  # and none of Jinja's own: templates only show what they are given
    environment.filters.update(rows=rows, points=points, short=cut, stock=words.translated)
    return environment
