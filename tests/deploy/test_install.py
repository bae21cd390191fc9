"""`make install` and `make uninstall` into a folder, as a package is made: no root, no systemd, twice in a row.

What a host makes of it: test_booted.py. Here also what `systemd-analyze` says of the units, where it is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowstate_daemon import __version__

ROOT = Path(__file__).parents[2]
UNITS = tuple(
    f"flowstate-daemon{kind}"
    for kind in (".service", ".socket", "-failed.target", "@.service", "@.socket", "-failed@.target")
)
MOST_EXPOSED = 15  # tenths, as systemd-analyze counts
INSTALL_S = 1200.0
EDITED = "# edited by the operator\n"

pytestmark = pytest.mark.timeout(INSTALL_S)


def python_of_the_system() -> str:
    """A Python that services may see: not in a home folder. Skips without one."""
    for name in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        fit = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
        if not name.startswith(("/home/", "/root/")) and Path(name).exists():
            done = subprocess.run([name, "-c", fit], capture_output=True, check=False)
            if done.returncode == 0:
                return name
    pytest.skip("there is no Python 3.11 with venv outside of home folders")


def make(word: str, root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`make WORD DESTDIR=root`, as somebody who is not root would call it."""
    output = [f"{name}={value}" for name, value in {"DESTDIR": str(root), **variables}.items()]
    return subprocess.run(["make", "-s", word, *output], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder into which the daemon has been installed twice, and in between somebody has edited the configuration."""
    root = tmp_path_factory.mktemp("root")
    python = python_of_the_system()
    for _ in range(2):
        done = make("install", root, PYTHON=python)
        assert done.returncode == 0, done.stderr
        assert "next       1. set REDIS_URL" in done.stdout
        (root / "etc/flowstate-daemon/environment").write_text(EDITED)
    assert "kept       /etc/flowstate-daemon/environment" in done.stdout
    assert "kept       /etc/flowstate-daemon/flowstate-daemon.toml" not in done.stdout
    yield root
    shutil.rmtree(root)


def test_edited_configuration_is_kept(root: Path) -> None:
    """An upgrade changes no setting; the new samples lie beside the program."""
    etc = root / "etc/flowstate-daemon"
    assert (etc / "environment").read_text() == EDITED
    assert tomllib.loads((etc / "flowstate-daemon.toml").read_text())
    assert (etc / "environment").stat().st_mode & 0o777 == 0o600
    samples = root / "opt/flowstate-daemon/share/config"
    assert (samples / "environment.sample").read_text() == (ROOT / "config/environment.sample").read_text()


def test_nothing_knows_where_it_was_built(root: Path) -> None:
    """The folder is moved to / by a package: no file may name it, nor the name it had while it was built."""
    done = subprocess.run(
        ["grep", "-rIlF", "-e", str(root), "-e", "flowstate-daemon.new", root],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""


def test_nothing_else_is_left_over(root: Path) -> None:
    """Neither a half-built program nor the old one; the command on the path leads to the program."""
    assert sorted(path.name for path in (root / "opt").iterdir()) == ["flowstate-daemon"]
    assert (root / "usr/local/bin/flowstate-daemon").readlink() == Path("/opt/flowstate-daemon/bin/flowstate-daemon")
    assert sorted(path.name for path in root.iterdir()) == ["etc", "opt", "usr"]


def test_the_program_has_an_environment_of_its_own(root: Path) -> None:
    """It runs from there with nothing of this checkout, and everything is pinned."""
    python = root / "opt/flowstate-daemon/bin/python"
    where = "import flowstate_daemon as it; print(it.__version__, it.__file__)"
    done = subprocess.run([python, "-I", "-c", where], capture_output=True, text=True, check=True, cwd="/")
    version, place = done.stdout.split()
    assert version == __version__
    assert Path(place).is_relative_to(root)
    frozen = subprocess.run([python, "-m", "pip", "freeze", "-q"], capture_output=True, text=True, check=True).stdout
    pins = set((ROOT / "constraints.txt").read_text().lower().replace("_", "-").split())
    found = {line.lower().replace("_", "-") for line in frozen.split("\n") if "==" in line}
    assert found - {f"flowstate-daemon=={__version__}"} <= pins
    assert len(found) > 10


def test_documentation_is_installed_with_working_links(root: Path) -> None:
    """All pages are there, in the layout of the repository, and every unit names one of them."""
    share = root / "opt/flowstate-daemon/share/doc/flowstate-daemon"
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"):
        assert (share / name).read_bytes() == (ROOT / name).read_bytes()
    pages = [path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")]
    assert [str(page) for page in pages if not (share / page).exists()] == []
    for name in UNITS:
        unit = (root / "usr/local/lib/systemd/system" / name).read_text()
        (page,) = re.findall(r"^Documentation=file://(.+)$", unit, re.MULTILINE)
        assert (root / page.lstrip("/")).is_file()


def test_everybody_may_run_it_and_nobody_may_change_it(root: Path) -> None:
    """The service has an account of its own, so files must be readable; writable they are for root alone."""
    odd = [
        path
        for path in (root / "opt").rglob("*")
        if not path.is_symlink() and (path.stat().st_mode & 0o022 or not path.stat().st_mode & 0o004)
    ]
    assert odd == []


@pytest.mark.parametrize("name", UNITS)
def test_every_unit_is_there_as_it_was_written(root: Path, name: str) -> None:
    """With the usual places nothing is rewritten."""
    assert (root / "usr/local/lib/systemd/system" / name).read_text() == (ROOT / "systemd" / name).read_text()


@pytest.mark.parametrize("place", ["opt/mail", "/opt/my mail", "/opt/50%"])
def test_a_place_that_units_cannot_name_is_refused(tmp_path: Path, place: str) -> None:
    """Before anything is written."""
    done = make("install", tmp_path, APPDIR=place, PYTHON=sys.executable)
    assert done.returncode != 0
    assert place in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "remedy"),
    [
        ("exit 1", "Python 3.11 or newer is required: make install PYTHON=/usr/bin/python3"),
        ('case "$2" in *ensurepip*) exit 1 ;; esac', "the Python module venv is missing: apt-get install python3-venv"),
        ("echo /home/ada/python3", "/home/ada/python3 is in a home folder, which the service cannot read"),
    ],
)
def test_without_a_fit_python_nothing_is_touched(tmp_path: Path, script: str, remedy: str) -> None:
    """The remedy is named."""
    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/sh\n{script}\n")
    stub.chmod(0o755)
    done = make("install", tmp_path / "root", PYTHON=str(stub))
    assert done.returncode != 0
    assert remedy in done.stderr
    assert not (tmp_path / "root").exists()


def test_a_failure_leaves_the_old_program(root: Path, tmp_path: Path) -> None:
    """When the new one cannot be built, the old one runs on as it was, and nothing half-built stays."""
    program = root / "opt/flowstate-daemon"
    before = program.stat().st_ino
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(tmp_path)}
    done = subprocess.run(
        ["make", "-s", "install", f"DESTDIR={root}", f"PYTHON={python_of_the_system()}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert program.stat().st_ino == before
    assert sorted(path.name for path in (root / "opt").iterdir()) == ["flowstate-daemon"]


def systemd_analyze(*text: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze on this machine")
    return subprocess.run(["systemd-analyze", "--no-pager", *text], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", [name.replace("@.", "@8081.") for name in UNITS])
def test_systemd_finds_nothing_wrong_with_the_units(root: Path, name: str) -> None:
    """It complains about unknown keys in words only: not one word about our units may come."""
    done = systemd_analyze("verify", "--man=no", str(root / "usr/local/lib/systemd/system" / name))
    own = [line for line in done.stderr.splitlines() if "flowstate-daemon" in line]
    assert [line for line in own if "/opt/flowstate-daemon/bin/flowstate-daemon is not executable" not in line] == []


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_little_is_exposed(name: str) -> None:
    """`systemd-analyze security` counts 1.5 at most."""
    done = systemd_analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(ROOT / "systemd" / name))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_template_is_the_service_but_for_its_port(root: Path) -> None:
    """What is tightened in one unit is tightened in the other."""
    one, other = ((ROOT / "systemd" / f"flowstate-daemon{at}.service").read_text().splitlines() for at in ("", "@"))
    kept = [line for line in other if "%i" not in line and not line.startswith("#")]
    assert kept == [line for line in one if line in kept and not line.startswith("#")]
    differs = {line.partition("=")[0] for line in set(one) ^ set(other) if not line.startswith("#")}
    assert differs == {"Description", "After", "OnFailure", "ExecStart"}


def test_uninstalling_leaves_what_is_the_operators(root: Path) -> None:
    """Twice is as good as once; of the installation only the configuration stays, and is named."""
    for _ in range(2):
        done = make("uninstall", root)
        assert done.returncode == 0, done.stderr
        assert "kept       /etc/flowstate-daemon (configuration)" in done.stdout
    left = sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())
    assert left == ["etc/flowstate-daemon/environment", "etc/flowstate-daemon/flowstate-daemon.toml"]
