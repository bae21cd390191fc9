"""Rules for every email in every language, checked with minimal, maximal and hostile contexts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest

from flowstate_daemon.mail.app_links import AppLinks
from flowstate_daemon.mail.catalog import built_in_catalog
from flowstate_daemon.mail.kind_spec import snake_case
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.samples import FRONTEND_URL, Sample, all_samples
from tests.support.html import Page
from tests.support.mail_samples import WEB, crowded, every_sample, fullest, hostile, rendered, smallest

CLIP = 102_000  # bytes, behind which Gmail hides the rest of a mail
MARKUP = re.compile(r"</?(?:bdi|p|td|tr|table|div|span|a|ul|li|br|h1|h2|strong)\b|&(?:amp|lt|gt|nbsp|#\d+);")
LEFTOVER = re.compile(r"\{\{|\}\}|\{%|%\}|\{#|\[\[|\]\]|\[%|%\]|</?mj-|JINJA|Undefined|\bNone\b|\bnull\b|\bNaN\b|\{n\}")
TAGS = {
    "html", "head", "title", "meta", "style", "body", "div", "table", "tbody", "tr", "td", "th", "img", "a", "h1", "h2",
    "p", "br", "ul", "ol", "li", "bdi", "span", "strong",
}  # fmt: skip
SAMPLES = {sample.name: sample for sample in every_sample()}
every_sample_once = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)


@cache
def mails(name: str) -> tuple[tuple[str, Email, Page], ...]:
    """A sample in every language, with its HTML as a reader sees it."""
    done = ((locale, rendered(SAMPLES[name], locale)) for locale in LOCALES)
    return tuple((locale, mail, Page(mail.html)) for locale, mail in done)


def expected_links(sample: Sample) -> set[str]:
    """Every address that the context names, and where the application lives."""
    rows = [row for value in sample.context.values() if isinstance(value, list) for row in value]
    named = {
        value for fields in (sample.context, *rows) for name, value in fields.items() if name.lower().endswith("url")
    }
    links, fields = AppLinks(FRONTEND_URL), dict(KINDS[sample.kind].links)
    replaced = {
        links.replace(fields[snake_case(name)], value)
        for name, value in sample.context.items()
        if snake_case(name) in fields and value
    }
    return {FRONTEND_URL, *named, *replaced} - {None}


def typed_in(value: Any) -> str:
    """All texts of a context: what they contain may be in the email."""
    if isinstance(value, list | Mapping):
        return "\n".join(typed_in(inner) for inner in (value.values() if isinstance(value, Mapping) else value))
    return value if isinstance(value, str) else ""


def test_samples_cover_all_kinds_and_edge_cases() -> None:
    """The other tests of this module run with all kinds and all edge cases."""
    for sort in (all_samples(), smallest(), hostile()):
        assert {sample.kind for sample in sort} == KINDS.keys()
    assert {sample.kind for sample in fullest()} == KINDS.keys()
    assert len(list(crowded())) == 6
    assert max(len(sample.context.get("tasks") or ()) for sample in fullest()) == 50


@every_sample_once
def test_email_size_is_limited(sample: Sample) -> None:
    """Gmail shows the first 102 kB; the subject is one line of at most 200 characters."""
    for _, mail, _ in mails(sample.name):
        assert len(mail.html.encode()) < CLIP
        assert len(mail.text.encode()) < CLIP
        assert 5 < len(mail.subject) <= 200
        assert mail.subject.splitlines() == [mail.subject]


@every_sample_once
def test_html_has_only_allowed_elements(sample: Sample) -> None:
    """No script, no form, no external resource but the logo; user text adds no tag."""
    for _, _, page in mails(sample.name):
        assert {tag for tag, _ in page.tags} <= TAGS
        assert page.all("img") == []
        assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
        assert "url(" not in "".join(attrs.get("style", "") for _, attrs in page.tags)


@every_sample_once
def test_html_is_accessible(sample: Sample) -> None:
    """Language and direction are set, there is one h1, and tables are marked as layout or data."""
    for locale, _, page in mails(sample.name):
        (html,) = page.all("html")
        assert (html["lang"], html["dir"]) == (locale, "ltr")
        assert [len(page.all(tag)) for tag in ("h1", "title")] == [1, 1]
        layout = [table for table in page.all("table") if table.get("role") in {"presentation", "list"}]
        assert len(page.all("table")) - len(layout) <= 1
        assert (len(page.all("table")) > len(layout)) == bool(page.all("th"))
        assert all(head["scope"] == "row" for head in page.all("th"))


@every_sample_once
def test_preview_text_is_hidden_and_not_empty(sample: Sample) -> None:
    """The preview text comes first, followed by spaces that keep the rest out."""
    for _, mail, _ in mails(sample.name):
        body = mail.html.partition("<body")[2]
        found = re.search(r'<div style="display:none[^"]*overflow:hidden;">(.*?)</div>', body, re.DOTALL)
        assert found is not None
        assert body.index(found[0]) == body.index("<div")
        text, blanks, _ = found[1].partition("\u00a0\u200c" * 100)
        assert blanks
        assert len(re.sub(r"<[^>]+>", "", text).strip()) > 3


@every_sample_once
def test_links_are_absolute_and_known(sample: Sample) -> None:
    """Each link is absolute, comes from the job or the configuration, and is in the text part as well."""
    for _, mail, page in mails(sample.name):
        links = page.links
        own = {link for link in links if link.startswith((f"{WEB}/unsubscribe/", f"{WEB}/preferences/"))}
        assert len(own) == 1 + KINDS[sample.kind].unsubscribable
        assert links - own <= expected_links(sample)
        assert all(re.match(r"https?://[^/]+", link) for link in links)
        assert all(link in mail.text for link in links)


@every_sample_once
def test_text_part_is_plain_text(sample: Sample) -> None:
    """It exists, says more than the subject, and has no markup except in user text."""
    typed = typed_in(sample.context)
    for _, mail, _ in mails(sample.name):
        assert len(mail.text) > 100
        assert "\n\n\n" not in mail.text
        assert [found for found in MARKUP.findall(mail.text) if found not in typed] == []


@every_sample_once
def test_no_placeholder_is_left(sample: Sample) -> None:
    """No placeholder, template tag or missing value, unless user text contains it."""
    typed = typed_in(sample.context)
    for _, mail, page in mails(sample.name):
        attributes = [value for _, attrs in page.tags for value in attrs.values()]
        for text in (mail.subject, mail.text, page.text, *attributes):
            assert [found for found in LEFTOVER.findall(text) if found not in typed] == []


@every_sample_once
def test_languages_differ_in_text_and_agree_in_tags(sample: Sample) -> None:
    """Subject, title and both parts are translated; the tags are the same."""
    (_, one, page), (_, other, other_page) = mails(sample.name)
    assert one.subject != other.subject
    assert one.text != other.text
    assert page.text != other_page.text
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in other_page.tags]


def texts(locale: str) -> dict[str, str]:
    """Every text and every plural form of a language, by kind and name."""
    found = {}
    for (kind, language), one in built_in_catalog().texts.items():
        if language == locale:
            found |= {f"{kind}.{name}": text for name, text in one.messages.items()}
            found |= {
                f"plural.{noun}.{form}": text for noun, forms in one.plurals.items() for form, text in forms.items()
            }
    return found


def test_french_emails_contain_no_english() -> None:
    """Outside of fields, no longer part of an English phrase remains."""
    pieces = {
        piece
        for text in texts("en").values()
        for piece in re.split(r"\{\{.*?\}\}|\{n\}", text)
        if len(piece.strip()) > 8
    }
    assert len(pieces) > 50
    for sample in (*all_samples(), *smallest()):
        _, mail, page = mails(sample.name)[LOCALES.index("fr")]
        said = f"{mail.subject}\n{mail.text}\n{page.text}"
        assert [piece for piece in pieces if piece in said and piece.strip() not in typed_in(sample.context)] == []


def test_every_text_is_translated() -> None:
    """No French text is a copy of the English one."""
    english, french = texts("en"), texts("fr")
    copied = [
        name
        for name, text in english.items()
        if french.get(name) == text and re.sub(r"\{\{.*?\}\}|\{n\}", "", text).strip(" ·")
    ]
    assert copied == []
