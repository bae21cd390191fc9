"""All mails with sample data, as pages to look at: what `mail preview` writes into a folder. Pure.

Mails are made by the daemon's own renderer, so a gallery shows what people get, byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

import msgspec
from jinja2 import Environment, StrictUndefined

from flowstate_daemon.mail.kinds import parse_request
from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.mail.samples import all_samples
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeLinks

SAMPLE_RECIPIENT = "ada@example.org"
ISSUED_MS = 1_772_000_000_000
SAMPLE_SECRET = "what seals the links of samples, so that they open nobody's door"  # noqa: S105 - signs links of the preview only


@dataclass(frozen=True, slots=True)
class PreviewMail:
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


def preview_mails(
    brand: Brand, public_url: str, *, kind: str | None = None, locale: str | None = None
) -> list[PreviewMail]:
    """The samples of one kind or of all, in one language or in all."""
    renderer = Renderer(brand, UnsubscribeLinks(public_url, LinkTokenCodec([SAMPLE_SECRET])))
    found = []
    for sample in all_samples(brand.frontend_url):
        if kind in (None, sample.kind):
            request = parse_request(
                sample.kind, msgspec.json.encode({"to": SAMPLE_RECIPIENT, "context": sample.context})
            )
            for language in LOCALES if locale is None else (locale,):
                mail = renderer.render(replace(request, locale=language), made_ms=ISSUED_MS)
                found.append(PreviewMail(f"{sample.name}.{language}", sample.kind, language, mail))
    return found


def render_preview_pages(brand: Brand, found: Sequence[PreviewMail]) -> Iterable[tuple[str, str]]:
    """The files of a gallery, name and content: a page that shows all, and both parts of each mail."""
    template = (files(__package__) / "templates" / "preview.html").read_text(encoding="utf-8")
    index = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    yield "index.html", index.from_string(template).render(app_name=brand.app_name, plates=found)
    for preview in found:
        yield f"{preview.name}.html", preview.mail.html
        yield f"{preview.name}.txt", preview.mail.text
