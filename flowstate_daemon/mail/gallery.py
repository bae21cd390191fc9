"""All mails with sample data, as pages to look at: what `mail preview` writes into a folder. Pure.

Mails are made by the daemon's own renderer, so a gallery shows what people get, byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

import msgspec
from jinja2 import Environment, StrictUndefined

from flowstate_daemon.mail.catalogue import read_request
from flowstate_daemon.mail.language import LOCALES
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.mail.samples import all_samples
from flowstate_daemon.mail.unsubscribe import LinkSeal, UnsubscribeLinks

READER = "ada@example.org"
ISSUED_MS = 1_772_000_000_000
KNOWN_TO_ALL = "what seals the links of samples, so that they open nobody's door"


@dataclass(frozen=True, slots=True)
class Plate:
    """One sample in one language. `name` is its files' name without the ending."""

    name: str
    kind: str
    locale: str
    mail: Email

    @property
    def html_bytes(self) -> int:
        return len(self.mail.html.encode())

    @property
    def text_bytes(self) -> int:
        return len(self.mail.text.encode())


def plates(brand: Brand, public_url: str, *, kind: str | None = None, locale: str | None = None) -> list[Plate]:
    """The samples of one kind or of all, in one language or in all."""
    renderer = Renderer(brand, UnsubscribeLinks(public_url, LinkSeal([KNOWN_TO_ALL])))
    found = []
    for sample in all_samples(brand.frontend_url):
        if kind in (None, sample.kind):
            request = read_request(sample.kind, msgspec.json.encode({"to": READER, "context": sample.context}))
            for language in LOCALES if locale is None else (locale,):
                mail = renderer.render(replace(request, locale=language), made_ms=ISSUED_MS)
                found.append(Plate(f"{sample.name}.{language}", sample.kind, language, mail))
    return found


def pages(brand: Brand, found: Sequence[Plate]) -> Iterable[tuple[str, str]]:
    """The files of a gallery, name and content: a page that shows all, and both parts of each mail."""
    template = (files(__package__) / "templates" / "gallery.html").read_text(encoding="utf-8")
    index = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    yield "index.html", index.from_string(template).render(app_name=brand.app_name, plates=found)
    for plate in found:
        yield f"{plate.name}.html", plate.mail.html
        yield f"{plate.name}.txt", plate.mail.text
