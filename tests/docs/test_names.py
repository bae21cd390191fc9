"""Every name in the handbook exists: commands and options, settings and variables, numbers, events, links, files."""

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
from tests.docs.settings_tables import written

VARIABLE = re.compile(r"\b(?:FLOWSTATE|REDIS|RESEND|DATABASE)_[A-Z][A-Z_]*[A-Z]\b")
SETTING = re.compile(rf"(?:{'|'.join(SECTIONS)})\.[a-z_]+")
CALL = re.compile(r"(?<![\w./@-])(?<!-[ut] )flowstate-daemon((?:[ \t]+[^\s|;&<>()`#\\]+)*)")
MIN = 12  # letters of a reason that say something
REASONS = ("reason", "in the reason", "motif", "dans le motif")  # what the first column of such a table is called
OUTSIDE = frozenset({"https", "http", "mailto"})
every_page = pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)


def calls(page: Page) -> Iterator[list[str]]:
    """The words of every call of our command that is set as code."""
    for code in page.code:
        for match in CALL.finditer(code):
            text = match[1].replace("…", " ").split("'")[0]
            yield shlex.split(text.split('"')[0].split("$")[0])


def command_of(text: list[str]) -> tuple[click.Command, list[str]]:
    """The command that these words name, and what is left of them. Fails on a word that names none."""
    command: click.Command = app
    rest = list(text)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"there is no command {' '.join(text)!r}"
        command, rest = found, rest[1:]
        while rest and rest[0] == "--config":
            rest = rest[2:]
    return command, rest


@every_page
def test_commands_and_options_exist(page: Page) -> None:
    """In prose and in blocks, run or not."""
    for text in calls(page):
        plain = text[2:] if text[:1] == ["--config"] else text
        command, rest = command_of(plain)
        known = {option for param in command.params for option in param.opts} | {"--help", "-h", "--version"}
        for word in rest:
            option = word.split("=")[0]
            assert not option.startswith("--") or option in known, f"{' '.join(text)!r} has no option {option}"


@every_page
def test_settings_and_variables_exist(page: Page) -> None:
    """Each may also be read from a file."""
    known = {*ENV_NAMES, *IGNORED_ENV, *(f"{name}_FILE" for name in ENV_NAMES)}
    for code in page.code:
        assert {name for name in VARIABLE.findall(code) if name not in known} == set()
    keys = {".".join(key) for key in KEYS}
    assert {span for span in page.spans if SETTING.fullmatch(span)} <= keys
    assert {span for span in page.spans if re.fullmatch(r"\[[a-z]+\]", span)} <= {f"[{name}]" for name in SECTIONS}


def test_the_tables_of_settings_are_true() -> None:
    """They are made out of the code; `python -m tests.docs.settings_tables` writes them anew."""
    page = PAGES["docs/configuration.md"].text
    assert page == written(page)
    assert "### `[redis]`" in page


@every_page
def test_links_lead_somewhere(page: Page) -> None:
    """To files that are there, and to headings that are in them."""
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme in OUTSIDE:
            continue
        target = (page.folder / unquote(parts.path)).resolve() if parts.path else ROOT / page.name
        assert target.exists(), f"{link} leads nowhere"
        if parts.fragment:
            other = PAGES[str(target.relative_to(ROOT))]
            assert unquote(parts.fragment) in other.anchors, f"{link}: there is no such heading"


def test_the_index_names_every_page() -> None:
    """Nobody finds a page that no index leads to."""
    for index, pages in (("docs/README.md", "docs/"), ("docs/fr/README.md", "docs/fr/")):
        if index not in PAGES:
            continue
        folder = ROOT / pages
        listed = {(folder / urlsplit(link).path).resolve() for link in PAGES[index].links}
        missing = [str(file.relative_to(ROOT)) for file in folder.glob("*.md") if file.resolve() not in listed]
        assert [name for name in missing if name != index] == []


def test_reasons_are_the_codes_own_words() -> None:
    """What stands as code in a table of reasons is what the daemon says."""
    literals = [text.read_text() for text in (ROOT / "flowstate_daemon" / "queue" / "lua").rglob("*.lua")]
    for file in (ROOT / "flowstate_daemon").rglob("*.py"):
        nodes = ast.walk(ast.parse(file.read_text()))
        literals += [str(node.value) for node in nodes if isinstance(node, ast.Constant)]
    said = "\n".join(literals)
    reasons = {
        part.strip(" ;:-`")
        for page in PAGES.values()
        for table in page.tables
        for row in table
        if table[0][0] in REASONS
        for _, span in re.findall(r"(`+)(.+?)\1(?!`)", row[0])
        for part in re.split(r"…|\d+|\(422.*\)|flowstate_daemon|^\w+: |`", span)
    }
    assert [reason for reason in sorted(reasons) if len(reason) > MIN and reason not in said] == []
