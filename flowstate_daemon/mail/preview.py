"""All emails with sample data as HTML pages, which `mail preview` writes into a folder. Pure.

The daemon's own renderer makes them, so a preview is byte for byte what recipients get.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import unescape
from importlib.resources import files

import msgspec
from jinja2 import Environment, StrictUndefined

from flowstate_daemon.mail.catalog import Catalog, built_in_catalog
from flowstate_daemon.mail.kinds import parse_request
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeLinks

PREHEADER = re.compile(r'<div style="display:none[^"]*">(.*?)</div>', re.DOTALL)
TAG = re.compile(r"<[^>]+>")
DARK_MODE = "@media (prefers-color-scheme:dark)"
SAMPLE_RECIPIENT = "ada@example.org"
ISSUED_MS = 1_772_000_000_000
SAMPLE_SECRET = "a secret for the links in previews; it encrypts nothing else"  # noqa: S105 - for links of the preview only


@dataclass(frozen=True, slots=True)
class PreviewMail:
    """One sample in one language. `name` is its file name without extension."""

    name: str
    kind: str
    locale: str
    mail: Email

    @property
    def preheader(self) -> str:
        """The text that inboxes show behind the subject."""
        found = PREHEADER.search(self.mail.html)
        return "" if found is None else unescape(TAG.sub("", found[1])).split("\u00a0\u200c")[0].strip()

    @property
    def dark_html(self) -> str:
        """The email as in dark mode, also where the system is light."""
        return self.mail.html.replace(DARK_MODE, "@media all")

    @property
    def html_bytes(self) -> int:
        return len(self.mail.html.encode())

    @property
    def text_bytes(self) -> int:
        return len(self.mail.text.encode())


def preview_mails(
    brand: Brand,
    public_url: str,
    *,
    kind: str | None = None,
    locale: str | None = None,
    catalog: Catalog | None = None,
) -> list[PreviewMail]:
    """The samples of one kind or all kinds, in one language or all languages."""
    catalog = catalog or built_in_catalog()
    renderer = Renderer(brand, UnsubscribeLinks(public_url, LinkTokenCodec([SAMPLE_SECRET])), catalog)
    found = []
    for name in (kind,) if kind is not None else catalog.kinds:
        for language in (locale,) if locale is not None else catalog.languages(name):
            for sample in catalog.samples_for(name, language):
                job = {"to": SAMPLE_RECIPIENT, "context": sample.with_frontend(brand.frontend_url).context}
                request = parse_request(name, msgspec.json.encode(job), catalog.kinds)
                mail = renderer.render(replace(request, locale=language), issued_ms=ISSUED_MS)
                found.append(PreviewMail(f"{sample.name}.{language}", name, language, mail))
    return found


def render_preview_pages(brand: Brand, found: Sequence[PreviewMail]) -> Iterable[tuple[str, str]]:
    """Name and content of each file: an index page, and of each email both parts and its dark form."""
    template = (files(__package__) / "preview.html").read_text(encoding="utf-8")
    index = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    yield "index.html", index.from_string(template).render(brand=brand, emails=found)
    for preview in found:
        yield f"{preview.name}.html", preview.mail.html
        yield f"{preview.name}.dark.html", preview.dark_html
        yield f"{preview.name}.txt", preview.mail.text
