"""The Dockerfile as it is written: a linter's rules, and ours, in any CI; test_image.py builds and runs it."""

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


def output(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def test_the_linter_has_nothing_to_say() -> None:
    """hadolint, which also gives what RUN says to shellcheck; every rule, none switched off."""
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint comes as a wheel for Linux on x86-64 only")
    done = subprocess.run(
        [program, "--failure-threshold", "style", ROOT / "Dockerfile"], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in TEXT


def test_every_base_is_named_with_its_version() -> None:
    """No base floats over a major version, and both stages stand on the same one."""
    bases = [rest.split()[0] for rest in output("FROM")]
    assert len(bases) == 2
    assert set(bases) == {"python:3.12-slim"}


def test_only_pinned_packages_get_in() -> None:
    """Whatever pip is asked to install, it takes from constraints.txt, or it is ours and alone."""
    commands = [
        command for rest in output("RUN") for command in rest.split("&&") if "pip" in command and "install " in command
    ]
    asked = [command for command in commands if "uninstall" not in command]
    assert len(asked) == 3
    assert all("--constraint constraints.txt" in command or "--no-deps" in command for command in asked)


def test_the_languages_of_the_mails_stay() -> None:
    """Babel's other ones are thrown away; a new language has to be named here as well."""
    kept = set(re.findall(r"! -name (\w+)\.dat", TEXT))
    assert kept == {"root", *(file.stem for file in (ROOT / "flowstate_daemon/mail/translations").glob("*.toml"))}


@pytest.mark.parametrize("word", ["ENTRYPOINT", "CMD"])
def test_no_shell_stands_between_the_signal_and_the_daemon(word: str) -> None:
    """The exec form: the daemon itself is PID 1."""
    (rest,) = output(word)
    assert isinstance(json.loads(rest), list)


def test_the_health_check_needs_no_shell() -> None:
    """The exec form again, and a command of ours."""
    (rest,) = output("HEALTHCHECK")
    assert json.loads(rest.partition(" CMD ")[2])[0] == "flowstate-daemon"


def test_the_last_word_on_the_user_is_a_number_that_is_not_root() -> None:
    """A name could be root's; only a number lets a supervisor see that it is not."""
    user, group = output("USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_the_stop_signal_is_the_one_that_drains() -> None:
    """SIGTERM, whatever the base says."""
    assert output("STOPSIGNAL") == ["SIGTERM"]


def test_nothing_is_fetched_past_the_builder() -> None:
    """ADD may unpack and download; COPY does what it says."""
    assert output("ADD") == []
    assert not [rest for rest in output("RUN") if "curl" in rest or "wget" in rest or "sudo" in rest]


def test_no_secret_is_built_in() -> None:
    """A layer keeps what was in its arguments and variables for ever."""
    text = " ".join([*output("ENV"), *output("ARG"), *output("LABEL")]).upper()
    assert not [word for word in ("KEY", "SECRET", "PASSWORD", "TOKEN", "_URL") if word in text]


def test_the_label_tells_the_version() -> None:
    """That of the package, unless the builder says otherwise."""
    assert f"VERSION={__version__}" in output("ARG")
    assert 'org.opencontainers.image.version="${VERSION}"' in " ".join(output("LABEL"))


def test_image_contains_the_documentation() -> None:
    """Messages and pages refer to files of docs/, which must exist in the image."""
    copied = [rest.split() for rest in output("COPY") if "share/doc/flowstate-daemon" in rest]
    assert {name for words in copied for name in words[:-1]} >= {"README.md", "CHANGELOG.md", "docs"}


def test_the_builder_gets_only_what_is_copied() -> None:
    """Everything is ignored but what COPY names: no history, no secrets folder, no environment."""
    copied = {word for rest in output("COPY") if "--from" not in rest for word in rest.split()[:-1]}
    assert IGNORED[1] == "*"
    assert {line[1:] for line in IGNORED if line.startswith("!")} == copied
