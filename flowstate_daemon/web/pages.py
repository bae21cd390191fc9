"""The HTML pages for recipients: two templates, one style sheet, texts in two languages.

Every value is escaped, and a page loads nothing from another address.
"""

from __future__ import annotations

import base64
import hashlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from aiohttp import web
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from flowstate_daemon.mail.unsubscribe_links import ExpiredLinkError, InvalidLinkError

LOCALES = ("en", "fr")
PATHS_OF_PEOPLE = ("/unsubscribe", "/preferences")  # the beginning of links in emails, also of one that was cut off
PATHS_OF_PROGRAMS = ("/api/", "/health", "/metrics", "/webhooks/")
PACKAGE_FILES = files(__package__)
RETRY_AFTER_S = 60
MAX_LANGUAGES = 20  # of an Accept-Language header


@dataclass(frozen=True, slots=True)
class Button:
    """A form with one button. It posts `action` and `scope` to the address of the page."""

    action: str
    scope: str
    label: str


@dataclass(frozen=True, slots=True)
class Link:
    """A link at the end of a page."""

    url: str
    label: str


class Pages:
    """Renders the pages."""

    def __init__(
        self,
        app_name: str,
        frontend_url: str,
        kind_texts: Callable[[str], Mapping[str, tuple[str, str]]] = lambda _locale: {},
    ) -> None:
        """`frontend_url` is the address of the application, for pages that lead nowhere else; it may be empty.

        `kind_texts` returns the names of further kinds in a language, and when they come.
        """
        style, script = _template("page.css"), _template("time_zone.js")
        self.app_name = app_name
        self._frontend_url = frontend_url
        self._environment = environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.globals = {
            "app_name": app_name,
            "style": Markup(style),  # noqa: S704 - our own file; the browser checks its hash
            "script": Markup(script),  # noqa: S704 - the same
        }
        self._text = {locale: _with_kinds(_load_texts(locale), kind_texts(locale)) for locale in LOCALES}
        self._headers = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": f"default-src 'none'; style-src '{_digest(style)}'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Robots-Tag": "noindex, nofollow",
        }
        self._script_policy = f"; script-src '{_digest(script)}'"

    # Compiled at the first request, so that a start need not: 10 ms.
    @cached_property
    def _page(self) -> Template:
        return self._environment.from_string(_template("page.html"))

    @cached_property
    def _preferences(self) -> Template:
        return self._environment.from_string(_template("preferences.html"))

    def text(self, locale: str, section: str, name: str) -> str:
        return self._text[locale][section][name]

    def texts(self, locale: str, section: str) -> Mapping[str, str]:
        return self._text[locale][section]

    def kind_label(self, locale: str, kind: str) -> str:
        """The name of a kind of email; a general one for kinds that only a newer version knows."""
        names = self._text[locale]["kind"]
        return names.get(kind, names["other"])

    def render(
        self,
        page: str,
        locale: str,
        *,
        buttons: Sequence[Button] = (),
        status: int = 200,
        preferences_url: str = "",
        **values: str,
    ) -> web.Response:
        """The page with this name; `values` fill the placeholders of its text.

        It leads to the preference page, or where that is not known to the application.
        """
        text = self._text[locale]
        html = self._page.render(
            locale=locale,
            title=text["page"][f"{page}_title"].format(**values),
            lead=text["page"][page].format(**values),
            buttons=buttons,
            note=text["note"]["codes"] if buttons else "",
            link=self._link(locale, preferences_url),
        )
        return self._response(html, status)

    def render_preferences(self, locale: str, status: int = 200, **view: Any) -> web.Response:
        """The preference page. `view` has the fields that its template needs."""
        response = self._response(self._preferences.render(locale=locale, **view), status)
        if view["zone"] and view["zone"].prefill:
            response.headers["Content-Security-Policy"] += self._script_policy
        return response

    def render_invalid_link(self, locale: str, error: InvalidLinkError) -> web.Response:
        """The answer to a link that expired, was cut, or is not ours."""
        page, status = ("expired", 410) if isinstance(error, ExpiredLinkError) else ("invalid", 400)
        return self.render(page, locale, status=status)

    def render_unavailable(self, locale: str) -> web.Response:
        """The answer while the choice cannot be read or stored."""
        response = self.render("unavailable", locale, status=503)
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    def _link(self, locale: str, preferences_url: str) -> Link | None:
        text = self._text[locale]["button"]
        if preferences_url:
            return Link(preferences_url, text["settings"])
        return Link(self._frontend_url, text["open"].format(app=self.app_name)) if self._frontend_url else None

    def _response(self, html: str, status: int) -> web.Response:
        return web.Response(text=html, status=status, headers=self._headers, content_type="text/html", charset="utf-8")


def error_page(pages: Pages, request: web.Request, status: int) -> web.Response | None:
    """The error as a readable page for a person; programs get JSON."""
    path = request.path.lower()
    by_browser = "text/html" in request.headers.get("Accept", "") and not path.startswith(PATHS_OF_PROGRAMS)
    if not by_browser and not path.startswith(PATHS_OF_PEOPLE):
        return None
    page = "unavailable" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "bad_request"
    if status == HTTPStatus.NOT_FOUND:
        page = "invalid"
    locale = negotiate_locale(request.headers.get("Accept-Language", ""), "")
    return pages.render(page, locale, status=status)


def negotiate_locale(accept_language: str, fallback: str) -> str:
    """The supported language with the highest quality in the header; else `fallback`; else the first supported."""
    accepted = sorted(map(_parse_quality, accept_language.split(",")[:MAX_LANGUAGES]), key=lambda entry: -entry[1])
    for language, weight in [*accepted, (_language(fallback), 1.0)]:
        if weight > 0 and language in LOCALES:
            return language
    return LOCALES[0]


def _parse_quality(text: str) -> tuple[str, float]:
    """One entry of Accept-Language, such as `fr-CH;q=0.9`, as language and quality."""
    tag, _, weight = text.partition(";q=")
    try:
        return _language(tag), float(weight or "1")
    except ValueError:
        return "", 0.0


def _language(tag: str) -> str:
    return tag.strip().replace("_", "-").partition("-")[0].lower()


def _template(name: str) -> str:
    return (PACKAGE_FILES / "templates" / name).read_text(encoding="utf-8").rstrip("\n")


def _digest(text: str) -> str:
    """The hash of an inline style or script, as a security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _load_texts(locale: str) -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads((PACKAGE_FILES / "translations" / f"{locale}.toml").read_text(encoding="utf-8"))


def _with_kinds(
    texts: Mapping[str, Mapping[str, str]], kinds: Mapping[str, tuple[str, str]]
) -> Mapping[str, Mapping[str, str]]:
    """The texts with those of further kinds; the built-in kinds keep the texts of the pages."""
    own, when = texts["kind"], texts["when_plain"]
    names = {kind: name for kind, (name, _) in kinds.items() if name and kind not in own}
    sentences = {kind: why for kind, (_, why) in kinds.items() if why}
    return {**texts, "kind": {**own, **names}, "when_plain": {**sentences, **when}}
