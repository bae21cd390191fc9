"""Renders the operator's pages: templates, texts in two languages, headers, addresses masked until revealed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from aiohttp import web
from jinja2 import Environment, FunctionLoader, StrictUndefined
from jinja2.utils import Joiner
from markupsafe import Markup

from flowstate_daemon.base.redaction import escape_marks, mask_address, redact_codes, redact_text
from flowstate_daemon.mail.kinds import Kind
from flowstate_daemon.web.ages import MINUTE_S, format_age
from flowstate_daemon.web.dashboard.reasons import ReasonTranslator
from flowstate_daemon.web.pages import negotiate_locale
from flowstate_daemon.web.session import Session

PACKAGE_FILES = files(__package__)
ROOT = "/dashboard"
LOCALES = ("en", "fr")
LANGUAGE_COOKIE = "flowstate_language"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "same-origin",
    "X-Robots-Tag": "noindex, nofollow",
}
STATIC_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
MAX_LABEL = 60
NONE = "\N{EN DASH}"  # instead of an absent value
REMEDY_SEPARATOR = re.compile("\u202f?; ")  # French has a narrow space before the semicolon
STATE_CLASSES = {
    "good": ("sent", "delivered", "opened", "clicked", "completed", "accepting"),
    "warn": ("skipped", "expired", "delayed", "retried", "delivery_delayed", "quota_exceeded", "unknown"),
    "bad": ("failed", "bounced", "complained", "suppressed", "removed", "refused", "circuit_open"),
}


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at a page: the session, the language, and whether addresses are revealed."""

    session: Session | None
    locale: str
    reveals: bool = False


class PageRenderer:
    """Renders templates for one product, whose name a reload may change, and one environment: `production`, `outbox`
    or `shadow`.
    """

    def __init__(self, app_name: Callable[[], str], environment: str, kinds: Callable[[], Mapping[str, Kind]]) -> None:
        """`kinds` returns the kinds of email, which a reload may change."""
        self._kinds = kinds
        self._texts = {locale: load_texts(locale) for locale in LOCALES}
        self._reasons = {locale: ReasonTranslator(load_reasons(locale)) for locale in LOCALES}
        self._environment = Environment(
            loader=FunctionLoader(load_template),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "age": lambda seconds: NONE if seconds is None else format_age(seconds),
            "number": format_number,
            "when": format_time,
            "ms": ms_to_datetime,
            "safe_text": redact_text,
            "visible": escape_marks,
            "segment": partial(quote, safe=""),
            "state_class": state_class,
        }
        self._environment.globals = {
            "joiner": Joiner,
            "root": ROOT,
            "app_name": app_name,
            "environment": environment,
            "kinds": kinds,
            "has_outbox": environment == "outbox",
        }

    def text(self, locale: str, key: str, **values: object) -> str:
        """One text; `key` is `section.name`."""
        section, _, name = key.partition(".")
        return self._texts[locale][section][name].format(**values)

    def html(self, template: str, viewer: Viewer, **values: Any) -> str:
        """The HTML of a page, or of the part of one."""

        def text(key: str, **placeholders: object) -> str:
            return self.text(viewer.locale, key, **placeholders)

        def address(full: str | None) -> str:
            return escape_marks(full or "") if viewer.reveals else mask_address(full or "")

        def label(section: str, name: str | None) -> str:
            """The text of a value of a closed set; another one, as of a newer version, is shown as it is."""
            return self._texts[viewer.locale][section].get(name or "", redact_text(name or NONE)[:MAX_LABEL])

        return self._environment.get_template(template).render(
            t=text,
            address=address,
            label=label,
            explain=lambda text: self.reason(text, viewer.locale),
            advice=lambda text: split_remedy(self.reason(text, viewer.locale)),
            safe_reason=lambda text, kind: self.safe_reason(text, kind, viewer.locale),
            content=lambda shown, kind: self.content(shown, kind, viewer),
            seconds=lambda value: localise_number(format_seconds(value), viewer.locale),
            percent=lambda share, digits: localise_number(f"{share * 100:.{digits}f}\u00a0%", viewer.locale),
            viewer=viewer,
            session=viewer.session,
            locale=viewer.locale,
            **values,
        )

    def reason(self, text: str | None, locale: str) -> str:
        """Why something was not done or is wrong, without addresses and keys; translated if it is our text."""
        return self._reasons[locale].translate(redact_text(text or ""))

    def safe_reason(self, text: str | None, kind: str, locale: str) -> str:
        """A reason that concerns an email of this kind: also without what may be its code."""
        return self._reasons[locale].translate(self._safe_text(text or "", kind))

    def content(self, text: str, kind: str, viewer: Viewer) -> str:
        """Text of an email or a job: whole if addresses are revealed, but for its code."""
        return self._without_codes(escape_marks(text), kind) if viewer.reveals else self._safe_text(text, kind)

    def _safe_text(self, text: str, kind: str) -> str:
        """Free text about an email of this kind: without addresses and keys, and without what may be its code."""
        return self._without_codes(redact_text(text), kind)

    def _without_codes(self, text: str, kind: str) -> str:
        found = self._kinds().get(kind)
        return redact_codes(text) if found is None or found.has_code else text

    def page(self, template: str, viewer: Viewer, *, status: int = 200, **values: Any) -> web.Response:
        """A whole page."""
        return web.Response(
            text=self.html(template, viewer, **values),
            status=status,
            headers=HEADERS,
            content_type="text/html",
            charset="utf-8",
        )


def load_texts(locale: str) -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads((PACKAGE_FILES / "translations" / f"{locale}.toml").read_text(encoding="utf-8"))


def load_reasons(locale: str) -> Mapping[str, str]:
    """The translations of the texts that the daemon makes in English; none for English."""
    if locale == LOCALES[0]:
        return {}
    file = PACKAGE_FILES / "translations" / f"reasons.{locale}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def load_template(name: str) -> str:
    return (PACKAGE_FILES / "templates" / name).read_text(encoding="utf-8")


def load_static() -> Mapping[str, tuple[bytes, str]]:
    """The content and type of each file that pages load."""
    found = {}
    for file in (PACKAGE_FILES / "static").iterdir():
        kind = STATIC_TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            found[file.name] = (file.read_bytes(), kind)
    return found


def choose_locale(request: web.Request) -> str:
    """The language that the operator has chosen, else that of the browser."""
    chosen = request.cookies.get(LANGUAGE_COOKIE, "")
    return chosen if chosen in LOCALES else negotiate_locale(request.headers.get("Accept-Language", ""), LOCALES[0])


def state_class(name: str | None) -> str:
    """The CSS class of a state or an outcome: good, bad, warn or ""."""
    return next((css_class for css_class, names in STATE_CLASSES.items() if name in names), "")


def split_remedy(reason: str) -> tuple[str, str]:
    """A reason of the daemon's health as what is wrong and what to do; the second part may be empty."""
    what, *remedy = REMEDY_SEPARATOR.split(reason, maxsplit=1)
    return what, "".join(remedy)


def format_seconds(seconds: float | None) -> str:
    """A latency: milliseconds below a second."""
    if seconds is None:
        return NONE
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 2 * MINUTE_S else format_age(seconds)


def localise_number(text: str, locale: str) -> str:
    """A number with a decimal point as it is written in this language."""
    return text.replace(".", ",") if locale == "fr" else text


def format_number(number: float | None) -> str:
    return NONE if number is None else f"{number:,.0f}".replace(",", "\u202f")


def format_time(at: datetime | None) -> Markup | str:
    """A time in UTC, as an element that the page's script shows in the operator's own time zone."""
    if at is None:
        return NONE
    text = at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}Z">{} UTC</time>').format(text.replace(" ", "T"), text)


def ms_to_datetime(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC)
