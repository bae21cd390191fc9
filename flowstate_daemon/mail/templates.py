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

from flowstate_daemon.mail.contexts import UNKNOWN_NAME, UNKNOWN_USER_NAME
from flowstate_daemon.mail.i18n import CACHE_SIZE, Translations, load_translations, template_functions
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.text_filters import (
    MAX_LIST_ROWS,
    bidi_isolate,
    bullet_items,
    fit_list,
    split_lines,
    truncate,
)

# Outlook before 2007; Internet Explorer; the widths of columns, which have them anyway; comments that end where the
# next one begins.
REMOVABLE = re.compile(
    r"<!--\[if lte mso 11\]>.*?<!\[endif\]-->"
    r"|<!--\[if !mso\]><!-->.*?<!--<!\[endif\]-->"
    r"|<style[^>]*>(?:@media[^{]*\{ *)?(?:\.moz-text-html )?\.mj-column-per-100 .*?</style>"
    r"| class=\"mj-outlook-group-fix mj-column-per-100\""
    r"|<!\[endif\]--><!--\[if mso \| IE\]>",
    re.DOTALL,
)
STYLE = re.compile(r"(?<=<style type=\"text/css\">).*?(?=</style>)", re.DOTALL)
STYLE_WHITESPACE = re.compile(r"\s*([{};])\s*|(?<=[,:]) +")
INDENT = re.compile(r"[ \t]*\n[ \t\n]*")


def minify_html(html: str) -> str:
    """The same page in fewer bytes."""
    html = REMOVABLE.sub("", html)
    html = STYLE.sub(lambda style: STYLE_WHITESPACE.sub(r"\1", style[0]).strip(), html)
    return INDENT.sub("\n", html)


TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
NUMBER = re.compile(r"JINJA(\d{4})TAG")
TITLE = re.compile(r"<mj-title>(.*?)</mj-title>", re.DOTALL)
PREVIEW = re.compile(r"<mj-preview>(.*?)</mj-preview>", re.DOTALL)
FORBIDDEN_MARKUP = re.compile(
    r"</?mj-\S+|\[\[|\[%|<link|@import"
)  # not understood, or fetched from somebody else's server


class TemplateError(ValueError):
    """A template that would break mails: a mistake of whoever wrote it."""


@dataclass(frozen=True, slots=True)
class CompiledTemplates:
    """The compiled templates of one kind in one language."""

    subject: Template
    html: Template
    text: Template


@cache
def compile_templates(locale: str) -> Mapping[str, CompiledTemplates]:
    """The templates of every kind in one language. Raises BadTemplate or what Jinja raises for a template."""
    words = load_translations(locale)
    press = build_environment()
    html, text = _environment(words, html=True), _environment(words, html=False)
    made = {}
    for kind in KINDS:
        ink = {**words.messages(kind), "locale": locale, "kind": kind}
        made[kind] = CompiledTemplates(
            subject=_flatten_globals(text.from_string(ink["subject"])),
            html=_flatten_globals(html.from_string(compile_mjml(press.get_template(f"{kind}.mjml").render(ink)))),
            text=_flatten_globals(text.from_string(press.get_template(f"{kind}.txt").render(ink))),
        )
    return made


def compile_mjml(source: str) -> str:
    """MJML as HTML, with Jinja's tags where they stood. Raises BadTemplate."""
    tags: list[str] = []

    def hidden(tag: re.Match[str]) -> str:
        tags.append(tag[0])
        return f"JINJA{len(tags) - 1:04}TAG"

    source = TAG.sub(hidden, source)
    try:
        output = mrml.to_html(source)
    except OSError as error:
        raise TemplateError(f"MJML: {error}") from error
    html = output.content
    if output.warnings or FORBIDDEN_MARKUP.search(html):
        raise TemplateError(
            f"MJML: something does not belong here: {output.warnings or FORBIDDEN_MARKUP.findall(html)}"
        )
    found = [int(number) for number in NUMBER.findall(html)]
    if found != (wanted := _expected_tag_order(source, len(tags))):
        place = next((n for n, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), -1)
        raise TemplateError(f"MJML has lost or moved a tag of Jinja, near {tags[wanted[place]]}")
    return NUMBER.sub(lambda number: tags[int(number[1])], minify_html(html))


def _expected_tag_order(source: str, count: int) -> list[int]:
    """The order in which the tags must come out: all as they were, the title once more as the name of the whole."""
    title, preview = (
        [int(number) for part in pattern.findall(source) for number in NUMBER.findall(part)]
        for pattern in (TITLE, PREVIEW)
    )
    return title + preview + title + list(range(len(title) + len(preview), count))


def build_environment() -> Environment:
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


def _environment(text: Translations, *, html: bool) -> Environment:
    environment = Environment(
        autoescape=select_autoescape(default_for_string=html),
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # None of Jinja's own globals: templates only show what they are given.
    environment.globals = {
        **template_functions(text.formats),
        "count": lru_cache(CACHE_SIZE)(text.plural),
        "longest_list": MAX_LIST_ROWS,
        "nobody": UNKNOWN_NAME,
        "stranger": UNKNOWN_USER_NAME,
    }
    other = bidi_isolate if html else truncate
    environment.filters.update(
        theirs=other, short=truncate, rows=split_lines, points=bullet_items, listed=fit_list, stock=text.translate
    )
    return environment


def _flatten_globals(template: Template) -> Template:
    """The same template with its globals as one plain dict: each rendering copies them, a chain of maps slowly."""
    template.globals = dict(template.globals)
    return template
