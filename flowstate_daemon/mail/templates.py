"""Compiles the templates of all emails from layout, parts and translations, once at start. `render` fills them in.

Each file uses Jinja twice. Tags in square brackets, `[% … %]` and `[[ … ]]`, are evaluated here: layout, shared
parts, translations. Tags in curly brackets are evaluated for each email. Between the two, MJML is compiled to HTML
that mail clients display; the curly tags pass through it as numbered markers, whose order is checked afterwards.
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

# Markup without effect: for Outlook before 2007 and Internet Explorer; column widths that are set inline as well;
# conditional comments that end where the next one begins.
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
    """The same page in fewer bytes; clients cut emails of more than about 100 kB."""
    html = REMOVABLE.sub("", html)
    html = STYLE.sub(lambda style: STYLE_WHITESPACE.sub(r"\1", style[0]).strip(), html)
    return INDENT.sub("\n", html)


TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
NUMBER = re.compile(r"JINJA(\d{4})TAG")
TITLE = re.compile(r"<mj-title>(.*?)</mj-title>", re.DOTALL)
PREVIEW = re.compile(r"<mj-preview>(.*?)</mj-preview>", re.DOTALL)
# Tags that MJML or the first pass left over, and markup that loads a file from another server.
FORBIDDEN_MARKUP = re.compile(r"</?mj-\S+|\[\[|\[%|<link|@import")


class TemplateError(ValueError):
    """A template that would produce broken emails; the template has to be fixed."""


@dataclass(frozen=True, slots=True)
class CompiledTemplates:
    """The compiled templates of one kind in one language."""

    subject: Template
    html: Template
    text: Template


@cache
def compile_templates(locale: str) -> Mapping[str, CompiledTemplates]:
    """The templates of every kind in one language. Raises TemplateError, or Jinja's error for a template."""
    translations = load_translations(locale)
    build = build_environment()
    html, text = _environment(translations, html=True), _environment(translations, html=False)
    compiled = {}
    for kind in KINDS:
        context = {**translations.messages(kind), "locale": locale, "kind": kind}
        mjml = build.get_template(f"{kind}.mjml").render(context)
        compiled[kind] = CompiledTemplates(
            subject=_flatten_globals(text.from_string(context["subject"])),
            html=_flatten_globals(html.from_string(compile_mjml(mjml))),
            text=_flatten_globals(text.from_string(build.get_template(f"{kind}.txt").render(context))),
        )
    return compiled


def compile_mjml(source: str) -> str:
    """MJML as HTML, with the Jinja tags in their places. Raises TemplateError."""
    tags: list[str] = []

    def to_marker(tag: re.Match[str]) -> str:
        tags.append(tag[0])
        return f"JINJA{len(tags) - 1:04}TAG"

    # MJML would parse Jinja's tags as text or drop them, so that markers stand for them until the HTML is complete.
    source = TAG.sub(to_marker, source)
    try:
        output = mrml.to_html(source)
    except OSError as error:
        raise TemplateError(f"MJML: {error}") from error
    html = output.content
    if output.warnings or FORBIDDEN_MARKUP.search(html):
        raise TemplateError(f"MJML: unexpected markup: {output.warnings or FORBIDDEN_MARKUP.findall(html)}")
    found = [int(number) for number in NUMBER.findall(html)]
    if found != (expected := _expected_tag_order(source, len(tags))):
        position = next((n for n, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), -1)
        raise TemplateError(f"MJML lost or moved a Jinja tag, near {tags[expected[position]]}")
    return NUMBER.sub(lambda number: tags[int(number[1])], minify_html(html))


def _expected_tag_order(source: str, count: int) -> list[int]:
    """The order of the tags in the HTML: as in the source, except that MJML writes the title twice."""
    title, preview = (
        [int(number) for part in pattern.findall(source) for number in NUMBER.findall(part)]
        for pattern in (TITLE, PREVIEW)
    )
    return title + preview + title + list(range(len(title) + len(preview), count))


def build_environment() -> Environment:
    """The environment of the first pass. Nothing is escaped, because all input is our own text."""
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


def _environment(translations: Translations, *, html: bool) -> Environment:
    environment = Environment(
        autoescape=select_autoescape(default_for_string=html),
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Jinja's own globals are left out: a template can use only what is passed to it.
    environment.globals = {
        **template_functions(translations.formats),
        "plural": lru_cache(CACHE_SIZE)(translations.plural),
        "max_list_rows": MAX_LIST_ROWS,
        "unknown_name": UNKNOWN_NAME,
        "unknown_user_name": UNKNOWN_USER_NAME,
    }
    environment.filters.update(
        user_text=bidi_isolate if html else truncate,
        truncate=truncate,
        split_lines=split_lines,
        bullet_items=bullet_items,
        fit_list=fit_list,
        translate=translations.translate,
    )
    return environment


def _flatten_globals(template: Template) -> Template:
    """The same template with its globals as one plain dict: every rendering copies them, and a ChainMap is slow."""
    template.globals = dict(template.globals)
    return template
