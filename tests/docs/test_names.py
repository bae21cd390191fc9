"""Every name in the documentation exists: commands, options, settings, variables, links, files, failure reasons."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import click
import pytest

from flowstate_daemon.cli.main import app
from flowstate_daemon.config.loader import ENV_NAMES, KEYS, SECTIONS
from flowstate_daemon.config.sources import IGNORED_ENV
from tests.docs.pages import PAGES, ROOT, Page
from tests.docs.settings_tables import SAMPLE, render_page, render_sample

VARIABLE = re.compile(r"\b(?:FLOWSTATE|REDIS|RESEND|DATABASE)_[A-Z][A-Z_]*[A-Z]\b")
SETTING = re.compile(rf"(?:{'|'.join(SECTIONS)})\.[a-z_]+")
CALL = re.compile(r"(?<![\w./@-])(?<!-[ut] )flowstate-daemon((?:[ \t]+[^\s|;&<>()`#\\]+)*)")
MIN_REASON_LENGTH = 12  # shorter fragments match by chance
REASONS = ("reason", "in the reason", "motif", "dans le motif")  # headers of the first column of such tables
EXTERNAL_SCHEMES = frozenset({"https", "http", "mailto"})
every_page = pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)


def calls(page: Page) -> Iterator[list[str]]:
    """The arguments of every call of the command in code."""
    for code in page.code:
        for match in CALL.finditer(code):
            text = match[1].replace("…", " ").split("'")[0]
            yield shlex.split(text.split('"')[0].split("$")[0])


def resolve_command(arguments: list[str]) -> tuple[click.Command, list[str]]:
    """The command that these arguments name, and the remaining arguments. Fails if there is no such command."""
    command: click.Command = app
    rest = list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"there is no command {' '.join(arguments)!r}"
        command, rest = found, rest[1:]
        while rest and rest[0] == "--config":
            rest = rest[2:]
    return command, rest


@every_page
def test_commands_and_options_exist(page: Page) -> None:
    """Commands and options in prose and in all blocks are those of the command line."""
    for text in calls(page):
        plain = text[2:] if text[:1] == ["--config"] else text
        command, rest = resolve_command(plain)
        known = {option for param in command.params for option in param.opts} | {"--help", "-h", "--version"}
        for argument in rest:
            option = argument.split("=")[0]
            assert not option.startswith("--") or option in known, f"{' '.join(text)!r} has no option {option}"


@every_page
def test_settings_and_variables_exist(page: Page) -> None:
    """Settings and variables are those of the configuration; each variable also exists with the suffix `_FILE`."""
    known = {*ENV_NAMES, *IGNORED_ENV, *(f"{name}_FILE" for name in ENV_NAMES)}
    for code in page.code:
        assert {name for name in VARIABLE.findall(code) if name not in known} == set()
    keys = {".".join(key) for key in KEYS}
    assert {span for span in page.spans if SETTING.fullmatch(span)} <= keys
    assert {span for span in page.spans if re.fullmatch(r"\[[a-z]+\]", span)} <= {f"[{name}]" for name in SECTIONS}


def test_settings_tables_and_sample_are_current() -> None:
    """The tables and the sample match the code; `python -m tests.docs.settings_tables` updates them."""
    page = PAGES["docs/configuration.md"].text
    assert page == render_page(page)
    assert SAMPLE.read_text() == render_sample(SAMPLE.read_text())
    assert "### `[redis]`" in page


@every_page
def test_links_resolve(page: Page) -> None:
    """Linked files exist, and linked headings are in them."""
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme in EXTERNAL_SCHEMES:
            continue
        target = (page.folder / unquote(parts.path)).resolve() if parts.path else ROOT / page.name
        assert target.exists(), f"{link}: there is no such file"
        if parts.fragment:
            other = PAGES[str(target.relative_to(ROOT))]
            assert unquote(parts.fragment) in other.anchors, f"{link}: there is no such heading"


def test_index_lists_every_page() -> None:
    """Each index links to all pages of its folder."""
    for index, pages in (("docs/README.md", "docs/"), ("docs/fr/README.md", "docs/fr/")):
        if index not in PAGES:
            continue
        folder = ROOT / pages
        listed = {(folder / urlsplit(link).path).resolve() for link in PAGES[index].links}
        missing = [str(file.relative_to(ROOT)) for file in folder.glob("*.md") if file.resolve() not in listed]
        assert [name for name in missing if name != index] == []


def test_reasons_are_texts_of_the_code() -> None:
    """Code in the first column of a table of reasons is a string in the code."""
    literals = [text.read_text() for text in (ROOT / "flowstate_daemon" / "queue" / "lua").rglob("*.lua")]
    for file in (ROOT / "flowstate_daemon").rglob("*.py"):
        nodes = ast.walk(ast.parse(file.read_text()))
        literals += [str(node.value) for node in nodes if isinstance(node, ast.Constant)]
    messages = "\n".join(literals)
    reasons = {
        part.strip(" ;:-`")
        for page in PAGES.values()
        for table in page.tables
        for row in table
        if table[0][0] in REASONS
        for _, span in re.findall(r"(`+)(.+?)\1(?!`)", row[0])
        for part in re.split(r"…|\d+|\(422.*\)|flowstate_daemon|^\w+: |`", span)
    }
    assert [reason for reason in sorted(reasons) if len(reason) > MIN_REASON_LENGTH and reason not in messages] == []
