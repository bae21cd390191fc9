"""Compiles the templates of emails from layout, parts, bodies and texts, once at start. `render` fills them in.

Each file uses Jinja twice. Tags in square brackets, `[% … %]` and `[[ … ]]`, are evaluated here: layout, shared
parts, translations. Tags in curly brackets are evaluated for each email. Between the two, MJML is compiled to HTML
that mail clients display; the curly tags pass through it as numbered markers, whose order is checked afterwards.
"""

from __future__ import annotations

import codecs
import re
import traceback
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mrml
from jinja2 import (
    BaseLoader,
    Environment,
    StrictUndefined,
    Template,
    TemplateNotFound,
    TemplateSyntaxError,
    UndefinedError,
    meta,
    nodes,
    select_autoescape,
)

from flowstate_daemon.mail.backend_text import MONTH_FIRST, find_streak_start, parse_backend_date
from flowstate_daemon.mail.contexts import UNKNOWN_NAME, UNKNOWN_USER_NAME
from flowstate_daemon.mail.field_types import TITLE_PLACEHOLDER
from flowstate_daemon.mail.i18n import CACHE_SIZE, Formats, Texts
from flowstate_daemon.mail.kind_files import COMMON, KindFiles, SourceFile
from flowstate_daemon.mail.kind_spec import Kind
from flowstate_daemon.mail.task_facts import longest_minutes, task_fact_functions
from flowstate_daemon.mail.template_tree import CALL, ISOLATED_TEXT, USER_TEXT, rewrite
from flowstate_daemon.mail.text_filters import (
    MAX_LIST_ROWS,
    UserText,
    fit_list,
    split_lines,
    truncate,
)

# Jinja loads this codec with its first string; without free file descriptors that looks like a syntax error.
codecs.lookup("unicode_escape")

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
    """A template that would produce broken emails; the template has to be fixed. `near` is a part of it."""

    def __init__(self, message: str, near: str = "") -> None:
        super().__init__(message)
        self.near = near

    def line_in(self, file: SourceFile) -> int | None:
        """The line of the file that contains the part."""
        rows = enumerate(file.text.splitlines(), 1)
        return next((number for number, row in rows if self.near and self.near in row), None)


@dataclass(frozen=True, slots=True)
class CompiledTemplates:
    """The compiled templates of one kind in one language. `constants` are those of NO_CONSTANTS that they use."""

    subject: Template
    html: Template
    text: Template
    constants: frozenset[str] = frozenset()


DAY_MS = 86_400_000
NO_CONSTANTS: Mapping[str, Any] = {
    **dict.fromkeys(("app_name", "frontend_url", "postal_address", "reset_password_url"), ""),
    **dict.fromkeys(("unsubscribe_url", "settings_url", "support_url", "logo_url", "created_ms")),
    **dict.fromkeys(("logo_width", "logo_height"), 0),
    "date_order": MONTH_FIRST,
}

# What templates may use besides; their own fields cannot have these names.
CONSTANTS: Mapping[str, Any] = {
    "max_list_rows": MAX_LIST_ROWS,
    "unknown_name": UNKNOWN_NAME,
    "unknown_user_name": UNKNOWN_USER_NAME,
}


def template_constants(app_name: str, frontend_url: str) -> dict[str, Any]:
    """The values that every template may use, besides those of the email."""
    return {**NO_CONSTANTS, "app_name": app_name, "frontend_url": frontend_url.rstrip("/")}


def backend_date_functions(formats: Formats) -> dict[str, Callable[..., str]]:
    """The functions for dates that the backend has written as text, which is shown if it cannot be read."""

    @lru_cache(CACHE_SIZE)
    def backend_date(text: str, order: str) -> str:
        day = parse_backend_date(text, order)
        return text if day is None else formats.long_date(day)

    @lru_cache(CACHE_SIZE)
    def start_of_streak(text: str, days: int, day_number: int | None, order: str) -> str:
        day = find_streak_start(text, days, day_number, order)
        return text if day is None else formats.long_date(day)

    def streak_start(text: str, days: int, created_ms: int | None, order: str) -> str:
        return start_of_streak(text, days, None if created_ms is None else created_ms // DAY_MS, order)

    return {"backend_date": backend_date, "streak_start": streak_start}


class TemplateCompiler:
    """Compiles kinds, and collects the problems of their files."""

    def __init__(self, files: KindFiles, problems: list[str]) -> None:
        self._files = files
        self._problems = problems
        self._build = build_environment(files)

    def compile(self, kind: Kind, texts: Texts, *, check: bool = True) -> CompiledTemplates | None:
        """The templates of one kind in one language; None if there are problems.

        `check` also looks for names that do not exist, which otherwise fail when an email is rendered.
        """
        context = {**texts.resolve(kind.variants), "locale": texts.locale, "kind": kind.name}
        known = len(self._problems)
        if check:
            self._check_names(kind, context)
        if len(self._problems) > known:
            return None
        sources = self._sources(kind, context)
        if sources is None:
            return None
        compiled = {
            part: self._compile(kind, texts, source, html=part == "html", check=check)
            for part, source in sources.items()
        }
        subject, html, text = compiled["subject"], compiled["html"], compiled["text"]
        if subject is None or html is None or text is None:
            return None
        used = frozenset(name for name in NO_CONSTANTS if any(_contains(source, name) for source in sources.values()))
        return CompiledTemplates(subject, html, text, used)

    def _sources(self, kind: Kind, context: Mapping[str, Any]) -> dict[str, str] | None:
        """The Jinja source of each part, behind the kind's values that it uses."""
        try:
            mjml = self._build.get_template(f"{kind.name}/body.mjml").render(context)
            text = self._build.get_template(f"{kind.name}/body.txt").render(context)
            sources = {"subject": context["subject"], "html": compile_mjml(mjml), "text": text}
        except (TemplateSyntaxError, TemplateNotFound, UndefinedError, TypeError) as error:
            self._problems.append(self._template_problem(kind, error))
        except TemplateError as error:
            file = self._file(kind, "body.mjml")
            self._problems.append(file.problem(str(error), error.line_in(file)))
        else:
            return {part: _with_values(kind, source) for part, source in sources.items()}
        return None

    def _compile(self, kind: Kind, texts: Texts, source: str, *, html: bool, check: bool) -> Template | None:
        functions = _functions(texts, html=html)
        environment = _environment(texts, functions, html=html)
        try:
            tree = environment.parse(source)
            if check:
                assigned = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "store"}
                known = _known_names(kind) | functions.keys() | CONSTANTS.keys() | assigned
                for name in sorted(meta.find_undeclared_variables(tree) - known):
                    self._problems.append(self._locate(kind, name, f"there is no field, value or function {name}"))
            return environment.from_string(rewrite(tree, functions.keys(), CONSTANTS, html=html))
        except TemplateSyntaxError as error:
            line = source.splitlines()[error.lineno - 1]
            tags = TAG.findall(line) or [line.strip()]
            self._problems.append(self._locate(kind, tags[0], f"{error.message} in {' '.join(tags)[:200]}"))
            return None

    def _check_names(self, kind: Kind, context: Mapping[str, Any]) -> None:
        """Every name in square brackets is a text."""
        for name in ("body.mjml", "body.txt"):
            file = self._file(kind, name)
            try:
                source = self._build.parse(file.text)
            except TemplateSyntaxError as error:
                self._problems.append(file.problem(error.message or "syntax error", error.lineno))
                continue
            imported = {name for node in source.find_all(nodes.FromImport) for name in node.names}
            for text in sorted(meta.find_undeclared_variables(source) - imported - context.keys()):
                self._problems.append(file.problem(f"there is no text {text} in texts/*.toml", file.find_word(text)))

    def _template_problem(self, kind: Kind, error: Exception) -> str:
        """The file and the line of an error in the first pass."""
        if isinstance(error, TemplateNotFound):
            return self._locate(kind, str(error.name), f"there is no template {error.name}")
        frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, TemplateSyntaxError) and error.filename:
            frames.append((error.filename, error.lineno))
        paths = {str(file.path): file for file in self._files.files.values()}
        file, line = next(
            ((paths[name], line) for name, line in reversed(frames) if name in paths),
            (self._file(kind, "body.mjml"), None),
        )
        return file.problem(str(error), line)

    def _locate(self, kind: Kind, word: str, message: str) -> str:
        """The problem with the first place where a word stands: the kind's own files come before the common ones."""
        names = sorted(self._files.files, key=lambda name: not name.startswith(f"{kind.name}/"))
        for name in names:
            file = self._files.files[name]
            if not name.startswith((f"{kind.name}/", f"{COMMON}/")) or "samples" in name:
                continue
            line = next((n for n, row in enumerate(file.text.splitlines(), 1) if _contains(row, word)), None)
            if line is not None:
                return file.problem(message, line)
        return self._file(kind, "kind.toml").problem(message)

    def _file(self, kind: Kind, name: str) -> SourceFile:
        return self._files.files[f"{kind.name}/{name}"]


def _contains(row: str, word: str) -> bool:
    return re.search(rf"(?<![\w]){re.escape(word)}(?![\w])", row) is not None


def _known_names(kind: Kind) -> AbstractSet[str]:
    fields = {rule.name for rule in kind.rules}
    return {*fields, *kind.values, *template_constants("", ""), "subject"}


def _with_values(kind: Kind, source: str) -> str:
    """The source behind the definitions of the values that it uses."""
    used = [name for name in kind.values if _contains(source, name)]
    return "".join(f"{{% set {name} = {kind.values[name]} %}}" for name in used) + source


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
        raise TemplateError(
            f"MJML lost or moved a Jinja tag, near {tags[expected[position]]}", tags[expected[position]]
        )
    return NUMBER.sub(lambda number: tags[int(number[1])], minify_html(html))


def _expected_tag_order(source: str, count: int) -> list[int]:
    """The order of the tags in the HTML: as in the source, except that MJML writes the title twice."""
    title, preview = (
        [int(number) for part in pattern.findall(source) for number in NUMBER.findall(part)]
        for pattern in (TITLE, PREVIEW)
    )
    return title + preview + title + list(range(len(title) + len(preview), count))


class _FileLoader(BaseLoader):
    """Finds templates by the paths of their files, and those in the common folder by their names."""

    def __init__(self, files: KindFiles) -> None:
        self._files = files

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, None]:  # noqa: ARG002
        file = self._files.files.get(template) or self._files.get(COMMON, template)
        if file is None:
            raise TemplateNotFound(template)
        return file.text, str(file.path), None


def build_environment(files: KindFiles) -> Environment:
    """The environment of the first pass. Nothing is escaped, because all input is our own text."""
    return Environment(
        loader=_FileLoader(files),
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


def _functions(texts: Texts, *, html: bool) -> dict[str, Callable[..., Any]]:
    """What templates and texts may call, by name."""
    functions = texts.formats.functions
    user_text = UserText(_untitled(texts))
    return {
        **functions,
        **task_fact_functions(texts, functions, user_text.in_html if html else user_text.in_text, html=html),
        **backend_date_functions(texts.formats),
        "plural": texts.cached_plural,
        # Instead of Jinja's filters of these names, which are ten times slower.
        "max": max,
        "min": min,
        "longest_minutes": longest_minutes,
    }


def _environment(texts: Texts, functions: Mapping[str, Callable[..., Any]], *, html: bool) -> Environment:
    environment = Environment(
        autoescape=select_autoescape(default_for_string=html),
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    user_text = UserText(_untitled(texts))
    environment.globals = {}  # a template can use only what is passed to it
    environment.filters.update(
        {
            **{CALL.format(name): function for name, function in functions.items()},
            USER_TEXT: user_text.in_html if html else user_text.in_text,
            ISOLATED_TEXT: user_text.in_text,
        },
        plain_text=user_text.plain_text,
        truncate=truncate,
        split_lines=split_lines,
        fit_list=fit_list,
        spell=" ".join,  # for screen readers; Jinja's own join takes three times as long
        translate=texts.cached_phrase,
    )
    return environment


def _untitled(texts: Texts) -> str:
    return texts.messages.get("untitled", TITLE_PLACEHOLDER)
