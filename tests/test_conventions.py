"""The house rules that no other tool checks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "flowstate_daemon"
SOURCES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((PACKAGE / "queue" / "lua").glob("*.lua"))
WALL = 300
REFUSED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplemented)\b")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=name_of)
def test_files_stay_under_the_wall(path: Path) -> None:
    """No source file is longer than 300 lines."""
    assert len(path.read_text().splitlines()) <= WALL


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_modules_say_what_lives_in_them(path: Path) -> None:
    """Every module opens with a docstring, and none has a name that says nothing."""
    assert path.read_text().startswith('"""')
    assert path.stem not in REFUSED_NAMES


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=name_of)
def test_nothing_is_left_unfinished(path: Path) -> None:
    """No note to do something later stands in the code."""
    found = UNFINISHED.search(path.read_text())
    assert found is None, found


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_lua_headers_tell_the_contract(path: Path) -> None:
    """Each script's header numbers its keys from 1, names what it returns, and uses no key beyond them unannounced."""
    text = path.read_text()
    header = "\n".join(line for line in text.splitlines() if line.startswith("--"))
    output = [int(number) for number in re.findall(r"^--\s+KEYS\[(\d+)\]", header, re.MULTILINE)]
    assert output == list(range(1, len(output) + 1))
    assert re.search(r"^--\s+Returns", header, re.MULTILINE), "the header does not say what is returned"
    body = text.replace(header, "")
    used = {int(number) for number in re.findall(r"KEYS\[(\d+)\]", body)}
    assert used <= set(output)


def test_only_the_clock_asks_for_the_time() -> None:
    """Wall and monotonic time come from base/clock.py alone."""
    asks = re.compile(r"\btime\.(time|time_ns|monotonic|perf_counter)\(|datetime\.now\(|utcnow\(")
    guilty = [name_of(path) for path in SOURCES if path.name != "clock.py" and asks.search(path.read_text())]
    assert guilty == []


def test_only_the_command_line_reads_the_environment() -> None:
    """`os.environ` is handed to base/config.py by the command line and touched by nobody else."""
    allowed = {"cli", "dev"}
    guilty = [
        name_of(path)
        for path in SOURCES
        if path.relative_to(PACKAGE).parts[0] not in allowed and "os.environ" in path.read_text()
    ]
    assert guilty == []


def test_each_dependency_says_why() -> None:
    """Each dependency in pyproject.toml has its reason on its own line, and is pinned in constraints.txt."""
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    extras = [name for group in project["optional-dependencies"].values() for name in group]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    for requirement in [*project["dependencies"], *extras]:
        line = next(line for line in text.splitlines() if f'"{requirement}"' in line)
        assert "#" in line, f"{requirement} does not say why it is there"
        assert re.split(r"[\[<>=;~ ]", requirement)[0].lower() in pinned, f"{requirement} is not pinned"


def test_the_plan_names_every_room() -> None:
    """The package's README speaks of every room there is."""
    plan = (PACKAGE / "README.md").read_text()
    rooms = [path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("__")]
    assert [room for room in rooms if f"`{room}/`" not in plan] == []
