"""The few HTML pages that people see without the application: one template, one style, words in two languages.

Built by `daemon`, used by `unsubscribe`. Everything that is shown is escaped; nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from aiohttp import web
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

LOCALES = ("en", "fr")
ROOM = files(__package__)
MOST_LANGUAGES = 20  # of an Accept-Language header


@dataclass(frozen=True, slots=True)
class Button:
    """One form with one button; what it posts to the page's own address."""

    action: str
    scope: str
    label: str


class Pages:
    """Shows pages. `frontend_url` is where the application's settings are."""

    def __init__(self, app_name: str, frontend_url: str) -> None:
        style = (ROOM / "templates" / "page.css").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        environment.globals = {
            "app_name": app_name,
            "settings_url": f"{frontend_url.rstrip('/')}/settings/notifications" if frontend_url else "",
            "style": Markup(style),  # noqa: S704 - a file of our own, and its hash is what the browser checks
        }
        self._template = environment.from_string((ROOM / "templates" / "page.html").read_text(encoding="utf-8"))
        self._words = {locale: _words(locale) for locale in LOCALES}
        self._headers = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Robots-Tag": "noindex, nofollow",
        }

    def word(self, locale: str, section: str, name: str) -> str:
        return self._words[locale][section][name]

    def kind(self, locale: str, kind: str) -> str:
        """What people call a kind of mail, also one that only a newer daemon knows."""
        names = self._words[locale]["kind"]
        return names.get(kind, names["other"])

    def show(
        self, page: str, locale: str, *, buttons: Sequence[Button] = (), status: int = 200, **values: str
    ) -> web.Response:
        """The page of that name; `values` fill its words."""
        words = self._words[locale]
        html = self._template.render(
            locale=locale,
            title=words["page"][f"{page}_title"],
            lead=words["page"][page].format(**values),
            buttons=buttons,
            note=words["note"]["codes"] if buttons else "",
            settings=words["button"]["settings"],
        )
        return web.Response(text=html, status=status, headers=self._headers, content_type="text/html", charset="utf-8")


def preferred(accepted: str, otherwise: str) -> str:
    """The language of ours that a browser likes best; else that of the mail; else the first that we have."""
    wishes = sorted(map(_wish, accepted.split(",")[:MOST_LANGUAGES]), key=lambda wish: -wish[1])
    for language, weight in [*wishes, (_language(otherwise), 1.0)]:
        if weight > 0 and language in LOCALES:
            return language
    return LOCALES[0]


def _wish(text: str) -> tuple[str, float]:
    """One member of Accept-Language: `fr-CH;q=0.9`."""
    tag, _, weight = text.partition(";q=")
    try:
        return _language(tag), float(weight or "1")
    except ValueError:
        return "", 0.0


def _language(tag: str) -> str:
    return tag.strip().replace("_", "-").partition("-")[0].lower()


def _words(locale: str) -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads((ROOM / "words" / f"{locale}.toml").read_text(encoding="utf-8"))
