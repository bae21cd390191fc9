"""Makes the templates of all mails out of layout, parts and words, once at start. `render` fills them in.

Two languages stand in one file. What is in square brackets, `[% … %]` and `[[ … ]]`, is done here: frames, shared
parts, words. What is in curly ones is a mail's own and waits for it. In between, MJML becomes HTML with tables and
all that mail programs need; Jinja's tags travel through it as numbers, and must come out complete and in order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import mrml
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template, select_autoescape

from flowstate_daemon.mail.catalogue import KINDS
from flowstate_daemon.mail.contexts import NOBODY, STRANGER
from flowstate_daemon.mail.formats import REMEMBERED, functions_of
from flowstate_daemon.mail.phrasebook import Phrasebook, read_phrasebook
from flowstate_daemon.mail.shaping import LONGEST_LIST, cut, isolated, listed, points, rows
from flowstate_daemon.mail.slimming import slim

TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
NUMBER = re.compile(r"JINJA(\d{4})TAG")
TITLE = re.compile(r"<mj-title>(.*?)</mj-title>", re.DOTALL)
PREVIEW = re.compile(r"<mj-preview>(.*?)</mj-preview>", re.DOTALL)
FOREIGN = re.compile(r"</?mj-\S+|\[\[|\[%|<link|@import")  # not understood, or fetched from somebody else's server


class BadTemplate(ValueError):
    """A template that would break mails: a mistake of whoever wrote it."""


@dataclass(frozen=True, slots=True)
class Letter:
    """The compiled templates of one kind in one language."""

    subject: Template
    html: Template
    text: Template


@cache
def letters(locale: str) -> Mapping[str, Letter]:
    """The templates of every kind in one language. Raises BadTemplate or what Jinja raises for a template."""
    words = read_phrasebook(locale)
    press = press_of()
    html, text = _environment(words, html=True), _environment(words, html=False)
    made = {}
    for kind in KINDS:
        ink = {**words.words(kind), "locale": locale, "kind": kind}
        made[kind] = Letter(
            subject=_light(text.from_string(ink["subject"])),
            html=_light(html.from_string(compiled(press.get_template(f"{kind}.mjml").render(ink)))),
            text=_light(text.from_string(press.get_template(f"{kind}.txt").render(ink))),
        )
    return made


def compiled(source: str) -> str:
    """MJML as HTML, with Jinja's tags where they stood. Raises BadTemplate."""
    tags: list[str] = []

    def hidden(tag: re.Match[str]) -> str:
        tags.append(tag[0])
        return f"JINJA{len(tags) - 1:04}TAG"

    source = TAG.sub(hidden, source)
    try:
        output = mrml.to_html(source)
    except OSError as error:
        raise BadTemplate(f"MJML: {error}") from error
    html = output.content
    if output.warnings or FOREIGN.search(html):
        raise BadTemplate(f"MJML: something does not belong here: {output.warnings or FOREIGN.findall(html)}")
    found = [int(number) for number in NUMBER.findall(html)]
    if found != (wanted := _wanted(source, len(tags))):
        place = next((n for n, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), -1)
        raise BadTemplate(f"MJML has lost or moved a tag of Jinja, near {tags[wanted[place]]}")
    return NUMBER.sub(lambda number: tags[int(number[1])], slim(html))


def _wanted(source: str, count: int) -> list[int]:
    """The order in which the tags must come out: all as they were, the title once more as the name of the whole."""
    title, preview = (
        [int(number) for part in pattern.findall(source) for number in NUMBER.findall(part)]
        for pattern in (TITLE, PREVIEW)
    )
    return title + preview + title + list(range(len(title) + len(preview), count))


def press_of() -> Environment:
    """What is done at start: no escaping, since all of it is our own text."""
    folder = files(__package__) / "templates"
    return Environment(
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=select_autoescape(()),
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _environment(words: Phrasebook, *, html: bool) -> Environment:
    environment = Environment(
        autoescape=select_autoescape(default_for_string=html),
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # None of Jinja's own globals: templates only show what they are given.
    environment.globals = {
        **functions_of(words.formats),
        "count": lru_cache(REMEMBERED)(words.count),
        "longest_list": LONGEST_LIST,
        "nobody": NOBODY,
        "stranger": STRANGER,
    }
    theirs = isolated if html else cut
    environment.filters.update(
        theirs=theirs, short=cut, rows=rows, points=points, listed=listed, stock=words.translated
    )
    return environment


def _light(template: Template) -> Template:
    """The same template with its globals as one plain dict: each rendering copies them, a chain of maps slowly."""
    template.globals = dict(template.globals)
    return template
