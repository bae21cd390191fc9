"""`make install` and `make uninstall` with DESTDIR, as for a package: without root and systemd, twice in a row.

test_booted.py tests the installation on a host. Units are checked with `systemd-analyze` if it is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from flowstate_daemon import __version__
from flowstate_daemon.config.loader import ENV_NAMES
from tests.deploy.pins import is_secret, pinned_versions

ROOT = Path(__file__).parents[2]
UNITS = tuple(
    f"flowstate-daemon{kind}"
    for kind in (".service", ".socket", "-failed.target", "@.service", "@.socket", "-failed@.target")
)
MAX_EXPOSURE = 15  # in tenths, the unit of systemd-analyze
INSTALL_S = 1200.0
OBSERVE_EVERY_S = 0.001  # without a pause the thread would take the processor from the installation
EDITED = "# edited by the operator\n"
VERSIONS = "flowstate-daemon.versions"
ENVIRONMENT = ["bin", "lib", "pyvenv.cfg", "share"]

pytestmark = pytest.mark.timeout(INSTALL_S)


def system_python() -> str:
    """A Python outside of home folders, which services can read. Skips the test without one."""
    own = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    for name in (own, "/usr/bin/python3", "/usr/local/bin/python3"):
        fit = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
        if not name.startswith(("/home/", "/root/")) and Path(name).exists():
            done = subprocess.run([name, "-c", fit], capture_output=True, check=False)
            if done.returncode == 0:
                return name
    pytest.skip("there is no Python 3.11 with venv outside of home folders")


def make(target: str, root: Path, *, source: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `make TARGET DESTDIR=root` as a user who is not root."""
    assignments = [f"{name}={value}" for name, value in {"DESTDIR": str(root), **variables}.items()]
    return subprocess.run(["make", "-s", target, *assignments], cwd=source, capture_output=True, text=True, check=False)


class Observer:
    """Opens a file again and again while its block runs: how often it was missing, and in how many versions it came."""

    def __init__(self, file: Path) -> None:
        self.missed = 0
        self._file = file
        self._found: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._observe)

    @property
    def versions(self) -> int:
        return len(self._found)

    def _observe(self) -> None:
        while not self._ended.wait(OBSERVE_EVERY_S):
            self._look()
        self._look()

    def _look(self) -> None:
        try:
            self._found.add(self._file.stat().st_ino)
        except OSError:
            self.missed += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder into which the daemon was installed twice, with an edit of the configuration in between."""
    root = tmp_path_factory.mktemp("root")
    python = system_python()
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
    """An upgrade changes no configuration; the new samples are installed with the program."""
    etc = root / "etc/flowstate-daemon"
    assert (etc / "environment").read_text() == EDITED
    assert tomllib.loads((etc / "flowstate-daemon.toml").read_text())
    assert (etc / "environment").stat().st_mode & 0o777 == 0o600
    samples = root / "opt/flowstate-daemon/share/config"
    assert (samples / "environment.sample").read_text() == (ROOT / "config/environment.sample").read_text()


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", "bash-completion/completions/flowstate-daemon"),
        ("zsh", "zsh/site-functions/_flowstate-daemon"),
        ("fish", "fish/vendor_completions.d/flowstate-daemon.fish"),
    ],
)
def test_completion_is_installed_for_each_shell(root: Path, shell: str, place: str) -> None:
    """Where the shell looks for it, readable by everyone; where the shell is installed, it accepts the script."""
    file = root / "usr/local/share" / place
    assert "_FLOWSTATE_DAEMON_COMPLETE" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    if shutil.which(shell):
        subprocess.run([shell, "-n", file], check=True)


def test_no_file_contains_the_build_folder(root: Path) -> None:
    """No file contains DESTDIR, since a package is moved."""
    done = subprocess.run(
        ["grep", "-rIlF", "-e", str(root), root],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""


def test_no_other_files_are_installed(root: Path) -> None:
    """Nothing temporary is left beside the two versions, and the command in the path links to the newer one."""
    assert sorted(path.name for path in (root / "opt").iterdir()) == ["flowstate-daemon", VERSIONS]
    _, version = sorted((root / "opt" / VERSIONS).iterdir())
    assert (root / "opt/flowstate-daemon").readlink() == Path(VERSIONS, version.name)
    assert sorted(path.name for path in version.iterdir() if path.name not in {"lib64", "include"}) == ENVIRONMENT
    assert (root / "usr/local/bin/flowstate-daemon").readlink() == Path("/opt/flowstate-daemon/bin/flowstate-daemon")
    assert sorted(path.name for path in root.iterdir()) == ["etc", "opt", "usr"]


def test_program_runs_in_its_own_environment(root: Path) -> None:
    """The program imports nothing from this checkout, and has exactly the packages that it needs, as pinned; no pip."""
    python = root / "opt/flowstate-daemon/bin/python"
    where = "import flowstate_daemon as it; print(it.__version__, it.__file__)"
    done = subprocess.run([python, "-I", "-c", where], capture_output=True, text=True, check=True, cwd="/")
    version, place = done.stdout.split()
    assert version == __version__
    assert Path(place).is_relative_to(root)
    listing = (
        "import importlib.metadata as it; print(*(f'{one.name.lower()}=={one.version}' for one in it.distributions()))"
    )
    done = subprocess.run([python, "-I", "-c", listing], capture_output=True, text=True, check=True, cwd="/")
    found = {name.replace("_", "-") for name in done.stdout.split()}
    assert found - {f"flowstate-daemon=={__version__}"} <= set(pinned_versions("requirements.txt"))
    assert len(found) > 30


def test_start_line_names_the_version(root: Path) -> None:
    """The command starts Python in the folder of its version, so a running process stays within that version."""
    version = (root / "opt/flowstate-daemon").resolve()
    text = (version / "bin/flowstate-daemon").read_text()
    assert text.startswith(f"#!/opt/{VERSIONS}/{version.name}/bin/python")


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


def test_program_is_readable_by_all_and_writable_by_root(root: Path) -> None:
    """All files are readable by the account of the service, and only their owner may write."""
    wrong = [
        path
        for path in (root / "opt").rglob("*")
        if not path.is_symlink() and (path.stat().st_mode & 0o022 or not path.stat().st_mode & 0o004)
    ]
    assert wrong == []


@pytest.mark.parametrize("name", UNITS)
def test_units_are_installed_unchanged(root: Path, name: str) -> None:
    """With the default folders the units are installed without changes."""
    assert (root / "usr/local/lib/systemd/system" / name).read_text() == (ROOT / "systemd" / name).read_text()


@pytest.mark.parametrize("place", ["opt/mail", "/opt/my mail", "/opt/50%"])
def test_invalid_appdir_is_rejected(tmp_path: Path, place: str) -> None:
    """A folder that units cannot contain is rejected before anything is written."""
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
def test_unsuitable_python_is_rejected(tmp_path: Path, script: str, remedy: str) -> None:
    """Without a suitable Python the error names the remedy, and nothing is written."""
    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/sh\n{script}\n")
    stub.chmod(0o755)
    done = make("install", tmp_path / "root", PYTHON=str(stub))
    assert done.returncode != 0
    assert remedy in done.stderr
    assert not (tmp_path / "root").exists()


def test_running_process_keeps_its_version(root: Path, tmp_path: Path) -> None:
    """A process that loads a module after an installation gets that of the version it was started with.

    During it the program can be started at each moment: the switch is one rename.
    """
    shutil.copytree(root / "opt", tmp_path / "opt", symlinks=True)
    program = tmp_path / "opt/flowstate-daemon"
    old = program.resolve()
    late = next(old.glob("lib/python*/site-packages/flowstate_daemon/mail/samples.py"))
    late.write_text(late.read_text() + "\nVERSION = 'old'\n")
    script = "import uvloop; print(flush=True); input(); from flowstate_daemon.mail.samples import VERSION as it"
    command = [old / "bin/python", "-I", "-c", f"{script}; print(it)"]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as running,
        Observer(program / "bin/flowstate-daemon") as observer,
    ):
        assert running.stdout is not None
        running.stdout.readline()
        for _ in range(2):  # after the second time it is not even the previous version
            done = make("install", tmp_path, PYTHON=system_python())
            assert done.returncode == 0, done.stderr
        assert program.resolve() != old
        output, _ = running.communicate("go\n", timeout=60)
    assert output.strip() == "old"
    assert observer.missed == 0
    assert observer.versions == 3


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-build.txt"])
def test_package_with_another_hash_is_refused(tmp_path: Path, name: str) -> None:
    """When a downloaded file does not have the listed hash, the installation fails and leaves nothing."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for file in map(os.fsdecode, filter(None, files)):
        if file.startswith(("systemd/", "flowstate_daemon/", "Makefile", "pyproject", "README", "LICENSE", "require")):
            (tmp_path / "source" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, tmp_path / "source" / file)
    listed = tmp_path / "source" / name
    listed.write_text(re.sub("sha256:[0-9a-f]{64}", f"sha256:{'0' * 64}", listed.read_text()))
    root = tmp_path / "root"
    done = make("install", root, source=tmp_path / "source", PYTHON=system_python())
    assert done.returncode != 0
    assert "HASH" in done.stderr
    assert list((root / "opt").iterdir()) == []


def test_failed_install_keeps_the_old_program(root: Path, tmp_path: Path) -> None:
    """When the new program cannot be built, the old one is unchanged and no temporary folder is left."""
    program = root / "opt/flowstate-daemon"
    before = program.stat().st_ino
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(tmp_path)}
    done = subprocess.run(
        ["make", "-s", "install", f"DESTDIR={root}", f"PYTHON={system_python()}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert program.stat().st_ino == before
    assert sorted(path.name for path in (root / "opt").iterdir()) == ["flowstate-daemon", VERSIONS]
    assert len(list((root / "opt" / VERSIONS).iterdir())) == 2


def systemd_analyze(*text: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze on this machine")
    return subprocess.run(["systemd-analyze", "--no-pager", *text], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", [name.replace("@.", "@8081.") for name in UNITS])
def test_systemd_analyze_verify_reports_nothing(root: Path, name: str) -> None:
    """No output is about our units; unknown keys do not change the exit code of `systemd-analyze verify`."""
    done = systemd_analyze("verify", "--man=no", str(root / "usr/local/lib/systemd/system" / name))
    own = [line for line in done.stderr.splitlines() if "flowstate-daemon" in line]
    assert [line for line in own if "/opt/flowstate-daemon/bin/flowstate-daemon is not executable" not in line] == []


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_systemd_exposure_score_is_low(name: str) -> None:
    """The score of `systemd-analyze security` is at most 1.5."""
    done = systemd_analyze("security", "--offline=true", f"--threshold={MAX_EXPOSURE}", str(ROOT / "systemd" / name))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_every_secret_can_be_a_credential(name: str) -> None:
    """The unit loads each setting that holds a secret under a name of its own, and docs/systemd.md lists the files."""
    text = (ROOT / "systemd" / name).read_text()
    loaded = dict(re.findall(r"^LoadCredential=(\w+):(flowstate-daemon\.\w+)$", text, re.MULTILINE))
    secrets = {key for key in ENV_NAMES.values() if is_secret(*key)}
    assert {ENV_NAMES[variable.upper()] for variable in loaded} == secrets
    assert len(set(loaded.values())) == len(loaded) == len(secrets)
    page = (ROOT / "docs/systemd.md").read_text()
    assert [file for file in loaded.values() if f"`{file}`" not in page] == []


def test_template_unit_differs_only_in_its_port(root: Path) -> None:
    """Service and template unit have the same settings except those that contain the port."""
    one, other = ((ROOT / "systemd" / f"flowstate-daemon{at}.service").read_text().splitlines() for at in ("", "@"))
    kept = [line for line in other if "%i" not in line and not line.startswith("#")]
    assert kept == [line for line in one if line in kept and not line.startswith("#")]
    differs = {line.partition("=")[0] for line in set(one) ^ set(other) if not line.startswith("#")}
    assert differs == {"Description", "After", "OnFailure", "ExecStart"}


def test_uninstall_keeps_the_configuration(root: Path) -> None:
    """Uninstalling, once or twice, removes everything except the configuration, which it names."""
    for _ in range(2):
        done = make("uninstall", root)
        assert done.returncode == 0, done.stderr
        assert "kept       /etc/flowstate-daemon (configuration)" in done.stdout
    left = sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())
    assert left == ["etc/flowstate-daemon/environment", "etc/flowstate-daemon/flowstate-daemon.toml"]
