"""The root of the command line: help that teaches, and errors as exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from flowstate_daemon.cli.main import CONFIG, USAGE_ERROR, app, main
from flowstate_daemon.mail.kinds import KINDS


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESEND_FROM_EMAIL", "FLOWSTATE_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def help_of(capsys: pytest.CaptureFixture[str], *text: str) -> str:
    assert main([*text, "--help"]) == 0
    return capsys.readouterr().out


def test_the_first_steps_keep_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Commands to copy stand one on a line, as they were written."""
    shown = help_of(capsys)
    assert "\n    flowstate-daemon run  " in shown
    assert "\\b" not in shown


def test_no_one_line_help_is_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    """In the lists of commands each has a whole sentence."""
    for group in ((), ("queue",), ("provider",), ("mail",), ("schedule",), ("suppression",)):
        assert "..." not in help_of(capsys, *group).partition("Commands:")[2], group


def test_enqueue_teaches_the_fields_of_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    """One need not read the source to send a mail by hand."""
    shown = help_of(capsys, "enqueue")
    assert all(f"  {kind}: " in shown for kind in KINDS)
    assert "otpCode*" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_every_command_but_run_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    """What the README promises of commands that end."""
    context = click.Context(app)
    commands = {name: app.get_command(context, name) for name in app.list_commands(context)}
    groups = {name: group for name, group in commands.items() if isinstance(group, click.Group)}
    inner = [(name, command) for name, group in groups.items() for command in group.commands]
    outer = [(name,) for name in commands if name not in {"run", *groups}]
    for text in [*inner, *outer]:
        assert "--json" in help_of(capsys, *text), text


def test_an_unknown_command_is_wrong_usage() -> None:
    """Although commands are imported by name, no other module can be reached."""
    assert main(["show"]) == USAGE_ERROR


def test_a_mistake_is_told_in_words_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that asked for JSON gets a document whatever happens; people read standard error."""
    assert main(["check", "--json"]) == CONFIG
    said = capsys.readouterr()
    assert "RESEND_FROM_EMAIL: missing" in said.err
    document = json.loads(said.out)
    assert (document["error"], document["exit_code"]) == ("wrong configuration", CONFIG)
    assert "RESEND_FROM_EMAIL" in document["reasons"][0]


def test_wrong_usage_is_told_in_json_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    """A script that misspelt a state reads why in the same place as every other error."""
    assert main(["queue", "list", "lost", "--json"]) == USAGE_ERROR
    document = json.loads(capsys.readouterr().out)
    assert (document["error"], document["exit_code"]) == ("wrong usage", USAGE_ERROR)
    assert "'lost' is not one of" in document["reasons"][0]


def test_a_full_disk_is_told_in_a_sentence() -> None:
    """What `queue list > file` meets; a traceback would hide the cause."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "flowstate_daemon", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        1,
        "flowstate-daemon: failed\n  - cannot write: No space left on device\n",
    )


@pytest.mark.parametrize("option", [("--wait", "-1"), ("--priority", "0"), ("--delay", "-5"), ("--context", "{bad")])
def test_wrong_usage_exits_64(option: tuple[str, str]) -> None:
    """An option out of bounds is a mistake of the caller, found before any store is asked."""
    assert main(["enqueue", "welcome", "--to", "ada@example.org", *option]) == USAGE_ERROR


DEEP = '{"a":' + "[" * 5000 + "]" * 5000 + "}"
MISUSES = [
    ["enqueue", "welcome", "--to", "a@example.org", "--wait", "nan"],
    ["enqueue", "welcome", "--to", "a@example.org", "--wait", "inf"],
    ["enqueue", "welcome", "--to", "a@example.org", "--wait", "-1"],
    ["enqueue", "welcome", "--to", "a@example.org", "--context", DEEP],
    ["enqueue", "welcome", "--to", "a@example.org", "--context", '{"a":' + "9" * 5000 + "}"],
    ["queue", "clean", "failed", "--grace", "nan"],
    ["queue", "clean", "failed", "--grace", "inf"],
]


@pytest.mark.parametrize("text", MISUSES, ids=lambda text: " ".join(text)[-40:])
def test_numbers_and_documents_that_are_none_are_wrong_usage(text: list[str]) -> None:
    """Said in a sentence, before any store is asked."""
    assert main(text) == USAGE_ERROR


def test_a_context_file_that_is_no_text_is_wrong_usage(tmp_path: Path) -> None:
    """A photograph instead of the JSON."""
    file = tmp_path / "context.json"
    file.write_bytes(b"\xff\xd8")
    assert main(["enqueue", "welcome", "--to", "a@example.org", "--context", f"@{file}"]) == USAGE_ERROR


def test_a_context_without_end_is_not_read_to_its_end() -> None:
    """A device instead of a file."""
    assert main(["enqueue", "welcome", "--to", "a@example.org", "--context", "@/dev/zero"]) == USAGE_ERROR


@pytest.mark.parametrize("file", ["/nowhere/flowstate.toml", "/"])
def test_a_configuration_file_that_cannot_be_read_is_wrong_configuration(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A supervisor must not try again, and the other mistakes are told with it."""
    monkeypatch.setenv("FLOWSTATE_CONFIG", file)
    assert main(["run"]) == CONFIG
    output = capsys.readouterr().err
    assert file in output
    assert "RESEND_FROM_EMAIL" in output
