"""The HTML pages: complete in both languages, escaped, in the reader's language."""

from __future__ import annotations

import base64
import hashlib
import re
from string import Formatter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.web.pages import LOCALES, Button, Pages, negotiate_locale

PAGES = Pages("FlowState", "https://flowstate.example/")
HOSTILE = "<script>alert(1)</script>\"'&{0}{address.__class__}"


def fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_languages_have_the_same_texts() -> None:
    """Every text exists in each language with the same placeholders; every kind with unsubscribe links has a name."""
    english, french = (PAGES._text[locale] for locale in LOCALES)
    for section, text in english.items():
        assert french[section].keys() == text.keys()
        for name, value in text.items():
            assert section == "format" or fields(value) - {"kind_capitalised"} <= fields(french[section][name]) | {
                "kind"
            }
    kinds = {name for name, kind in KINDS.items() if kind.unsubscribable}
    assert (
        kinds
        == english["kind"].keys() - {"other"}
        == {name.partition("_")[0] for name in english["when_plain"]} - {"other"}
    )
    assert PAGES.kind_label("en", "a future kind") == "emails of this kind"


@pytest.mark.parametrize("locale", LOCALES)
def test_all_values_are_escaped(locale: str) -> None:
    """Names, addresses and links are text, wherever the page shows them."""
    pages = Pages(HOSTILE, 'https://x.example/"><b>')
    response = pages.render(
        "confirm", locale, buttons=[Button(HOSTILE, HOSTILE, HOSTILE)], address=HOSTILE, kind=HOSTILE
    )
    assert response.text is not None
    assert not re.search(r"<script|<b>|\"'", response.text)
    assert response.text.count("&lt;script&gt;") == 9
    assert "{address.__class__}" in response.text


def test_content_security_policy_allows_only_the_style_sheet() -> None:
    """The browser runs no scripts and loads nothing; the style sheet is allowed by its hash."""
    response = PAGES.render("invalid", "en", status=400)
    assert response.text is not None
    (style,) = re.findall(r"<style>(.*?)</style>", response.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = response.headers["Content-Security-Policy"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert "style=" not in response.text
    assert len(response.text) < 5_000


@pytest.mark.parametrize(
    ("accept_language", "fallback", "locale"),
    [
        ("", "", "en"),
        ("", "fr", "fr"),
        ("", "fr_CA", "fr"),
        ("fr", "en", "fr"),
        ("fr-CH, en;q=0.9", "en", "fr"),
        ("en;q=0.8, fr;q=0.9", "en", "fr"),
        ("de-DE, de;q=0.9", "fr", "fr"),
        ("de, en;q=0.1", "fr", "en"),
        ("fr;q=0", "en", "en"),
        ("*", "fr", "fr"),
        ("fr;q=high, en;q=nan", "", "en"),
    ],
)
def test_browser_language_takes_precedence(accept_language: str, fallback: str, locale: str) -> None:
    """Accept-Language takes precedence over the language of the email."""
    assert negotiate_locale(accept_language, fallback) == locale


@given(st.text(), st.text())
def test_any_header_gives_a_supported_language(accept_language: str, fallback: str) -> None:
    """An invalid header falls back to a supported language."""
    assert negotiate_locale(accept_language, fallback) in LOCALES
