"""Conventions of this codebase that no other tool checks."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from flowstate_daemon.cli.dev import dev
from flowstate_daemon.cli.mail import preview
from flowstate_daemon.config.settings import OutboxSettings

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "flowstate_daemon"
SOURCES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(path for path in PACKAGE.rglob("lua/*.lua"))
MAX_LINES = 500
REFUSED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplemented)\b")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=name_of)
def test_file_length(path: Path) -> None:
    """No source file is longer than 500 lines."""
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_modules_have_a_docstring_and_a_specific_name(path: Path) -> None:
    """Every module starts with a docstring, and none has a generic name."""
    assert path.read_text().startswith('"""')
    assert path.stem not in REFUSED_NAMES


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=name_of)
def test_no_unfinished_code(path: Path) -> None:
    """The code contains no note about work that is left to do."""
    found = UNFINISHED.search(path.read_text())
    assert found is None, found


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_lua_header_documents_the_contract(path: Path) -> None:
    """Each script's header numbers its keys from 1 and says what it returns; the script uses no other key."""
    text = path.read_text()
    header = "\n".join(line for line in text.splitlines() if line.startswith("--"))
    documented = [int(number) for number in re.findall(r"^--\s+KEYS\[(\d+)\]", header, re.MULTILINE)]
    assert documented == list(range(1, len(documented) + 1))
    assert re.search(r"^--\s+Returns", header, re.MULTILINE), "the header does not say what is returned"
    body = text.replace(header, "")
    used = {int(number) for number in re.findall(r"KEYS\[(\d+)\]", body)}
    assert used <= set(documented)


def test_only_the_clock_reads_the_time() -> None:
    """Wall and monotonic time come from base/clock.py alone."""
    reads = re.compile(r"\btime\.(time|time_ns|monotonic|perf_counter)\(|datetime\.now\(|utcnow\(")
    offenders = [name_of(path) for path in SOURCES if path.name != "clock.py" and reads.search(path.read_text())]
    assert offenders == []


def test_only_the_command_line_reads_the_environment() -> None:
    """The command line passes `os.environ` to config/loader.py; no other package reads it."""
    allowed = {"cli", "dev"}
    offenders = [
        name_of(path)
        for path in SOURCES
        if path.relative_to(PACKAGE).parts[0] not in allowed and "os.environ" in path.read_text()
    ]
    assert offenders == []


def test_each_dependency_has_a_reason() -> None:
    """Each dependency in pyproject.toml has its reason on the same line, and is pinned in constraints.txt."""
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    extras = [name for group in project["optional-dependencies"].values() for name in group]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    for requirement in [*project["dependencies"], *extras]:
        line = next(line for line in text.splitlines() if f'"{requirement}"' in line)
        assert "#" in line, f"{requirement} has no reason"
        assert re.split(r"[\[<>=;~ ]", requirement)[0].lower() in pinned, f"{requirement} is not pinned"


def test_the_package_map_names_every_package() -> None:
    """docs/architecture.md describes every package."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    packages = [path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("__")]
    assert [package for package in packages if f"`{package}/`" not in text] == []


def created_folders() -> Iterator[str]:
    """What documented commands create in a checkout: defaults of settings and options, and virtual environments."""
    yield str(OutboxSettings().folder)
    for command in (dev, preview):
        yield from (str(option.default) for option in command.params if isinstance(option.type, click.Path))
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        yield from re.findall(r"-m venv (\w[\w.-]*)", page.read_text())


def test_what_documented_commands_create_is_ignored() -> None:
    """`git add .` after the first steps adds no email, no virtual environment and no secret."""
    ignored = set((ROOT / ".gitignore").read_text().split())
    created = {f"{folder}/" for folder in created_folders()}
    assert {"outbox/", "venv/", ".dev/"} <= created
    assert created - ignored == set()
