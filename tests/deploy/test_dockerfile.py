"""The content of the Dockerfile: rules of a linter and our own; test_image.py builds and runs it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowstate_daemon import __version__

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().split("\n")


def instructions() -> list[tuple[str, str]]:
    """The instructions in order, each on one line, without comments."""
    lines = (line for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#"))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def arguments_of(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


def test_hadolint_reports_nothing() -> None:
    """hadolint, which also runs shellcheck on RUN instructions, passes with all rules enabled."""
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint comes as a wheel for Linux on x86-64 only")
    done = subprocess.run(
        [program, "--failure-threshold", "style", ROOT / "Dockerfile"], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in TEXT


def test_base_images_are_pinned() -> None:
    """Both stages use the same base image, by version and digest; an operator can name another one."""
    assert [rest.split()[0] for rest in arguments_of("FROM")] == ["${PYTHON_IMAGE}"] * 2
    (image,) = (rest.partition("=")[2] for rest in arguments_of("ARG") if rest.startswith("PYTHON_IMAGE="))
    assert re.fullmatch(r"python:3\.12\.\d+-slim-\w+@sha256:[0-9a-f]{64}", image)


def test_locale_data_of_the_translations_is_kept() -> None:
    """The image keeps the Babel locales of the built-in texts, and those that the builder adds for its own."""
    (kept,) = re.findall(r'^ARG LOCALES="([a-z|]+)"$', TEXT, re.MULTILINE)
    texts = (ROOT / "flowstate_daemon/mail/kinds/common/texts").glob("*.toml")
    assert set(kept.split("|")) == {"root", *(file.stem for file in texts)}
    assert '! -regex ".*/($LOCALES)[.]dat" -delete' in TEXT


@pytest.mark.parametrize("word", ["ENTRYPOINT", "CMD"])
def test_entrypoint_and_command_use_the_exec_form(word: str) -> None:
    """With the exec form there is no shell, and the daemon is PID 1 and receives the signals."""
    (rest,) = arguments_of(word)
    assert isinstance(json.loads(rest), list)


def test_health_check_uses_the_exec_form() -> None:
    """The health check runs `flowstate-daemon` without a shell."""
    (rest,) = arguments_of("HEALTHCHECK")
    assert json.loads(rest.partition(" CMD ")[2])[0] == "flowstate-daemon"


def test_final_user_is_a_number_other_than_root() -> None:
    """A supervisor can verify only a numeric user id as not being root."""
    user, group = arguments_of("USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_stop_signal_is_sigterm() -> None:
    """The stop signal is SIGTERM, which drains, whatever the base image sets."""
    assert arguments_of("STOPSIGNAL") == ["SIGTERM"]


def test_dockerfile_downloads_nothing() -> None:
    """There is no ADD, which may download and unpack, and no curl, wget or sudo."""
    assert arguments_of("ADD") == []
    assert not [rest for rest in arguments_of("RUN") if "curl" in rest or "wget" in rest or "sudo" in rest]


def test_dockerfile_contains_no_secret() -> None:
    """No ENV, ARG or LABEL names a secret, since layers keep them."""
    text = " ".join([*arguments_of("ENV"), *arguments_of("ARG"), *arguments_of("LABEL")]).upper()
    assert not [word for word in ("KEY", "SECRET", "PASSWORD", "TOKEN", "_URL") if word in text]


def test_version_label_is_the_package_version() -> None:
    """The label is the version of the package, unless a build argument overrides it."""
    assert f"VERSION={__version__}" in arguments_of("ARG")
    assert 'org.opencontainers.image.version="${VERSION}"' in " ".join(arguments_of("LABEL"))


def test_image_contains_the_documentation() -> None:
    """Messages and pages refer to files of docs/, which must exist in the image."""
    copied = [rest.split() for rest in arguments_of("COPY") if "share/doc/flowstate-daemon" in rest]
    assert {name for words in copied for name in words[:-1]} >= {"README.md", "CHANGELOG.md", "docs"}


def test_build_context_has_only_copied_files() -> None:
    """.dockerignore excludes everything that no COPY names, such as the history and the secrets folder."""
    copied = {word for rest in arguments_of("COPY") if "--from" not in rest for word in rest.split()[:-1]}
    assert IGNORED[1] == "*"
    assert {line[1:] for line in IGNORED if line.startswith("!")} == copied
