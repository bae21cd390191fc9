"""The texts of web pages that the documentation quotes are those that the pages show."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files

import pytest

from flowstate_daemon.web.pages import LOCALES
from tests.docs.pages import PAGES

QUOTE = re.compile(r"\b(?:the|la) page `([^`]+)`")
PAGES_WITH_QUOTES = {"en": "docs/troubleshooting.md", "fr": "docs/fr/depannage.md"}
# The pages that a recipient may ask about: nothing was changed, and somebody has to do something.
FAULTS = ("expired", "invalid", "bad_request", "unavailable")


def titles(locale: str) -> dict[str, str]:
    """The titles of the pages in one language, by the name of the page."""
    text = (files("flowstate_daemon.web") / "translations" / f"{locale}.toml").read_text(encoding="utf-8")
    page = tomllib.loads(text)["page"]
    return {name.removesuffix("_title"): title for name, title in page.items() if name.endswith("_title")}


def quoted() -> Iterator[tuple[str, str]]:
    for name, page in PAGES.items():
        yield from ((name, title) for title in QUOTE.findall(page.text))


def test_quoted_titles_exist() -> None:
    """A recipient reads a title to support, and support finds it."""
    known = {title for locale in LOCALES for title in titles(locale).values()}
    assert [quote for quote in quoted() if quote[1] not in known] == []


@pytest.mark.parametrize(("locale", "name"), PAGES_WITH_QUOTES.items())
def test_every_page_about_a_fault_is_explained(locale: str, name: str) -> None:
    """In the language of the documentation."""
    explained = {title for page, title in quoted() if page == name}
    assert {titles(locale)[fault] for fault in FAULTS} - explained == set()


def test_text_of_a_page_is_not_retold() -> None:
    """`the page says that …` is a text that cannot be searched for."""
    retold = re.compile(r"\bthe page (?:says|asks)|\bla page (?:dit|demande|indique)")
    assert [name for name, page in PAGES.items() if retold.search(page.text)] == []
