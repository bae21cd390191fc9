"""The root of the command line: help, and errors as exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from flowstate_daemon.cli.main import CONFIG, USAGE_ERROR, app, main
from flowstate_daemon.mail.kinds import KINDS


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESEND_FROM_EMAIL", "FLOWSTATE_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments, "--help"]) == 0
    return capsys.readouterr().out


def test_first_steps_keep_their_line_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    """Commands to copy are printed one per line."""
    output = help_of(capsys)
    assert "\n    flowstate-daemon run  " in output
    assert "\\b" not in output


def test_one_line_help_is_never_truncated(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command in a list has a complete sentence."""
    for group in ((), ("queue",), ("provider",), ("mail",), ("schedule",), ("suppression",), ("unsubscribed",)):
        assert "..." not in help_of(capsys, *group).partition("Commands:")[2], group


def test_enqueue_help_lists_the_fields_of_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    """An operator can send an email without reading the source."""
    output = help_of(capsys, "enqueue")
    assert all(f"  {kind}: " in output for kind in KINDS)
    assert "otpCode*" in output
    assert max(map(len, output.splitlines())) <= 100


def test_every_command_but_run_has_json(capsys: pytest.CaptureFixture[str]) -> None:
    """As the README says."""
    context = click.Context(app)
    commands = {name: app.get_command(context, name) for name in app.list_commands(context)}
    groups = {name: group for name, group in commands.items() if isinstance(group, click.Group)}
    subcommands = [(name, command) for name, group in groups.items() for command in group.commands]
    top_level = [(name,) for name in commands if name not in {"run", *groups}]
    for command_path in [*subcommands, *top_level]:
        assert "--json" in help_of(capsys, *command_path), command_path


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["chek"], "check"),
        (["ruun"], "run"),
        (["Check"], "check"),
        (["migrat"], "migrate"),
        (["suppresion", "list"], "suppression"),
        (["unsubscribe"], "unsubscribed"),
        (["queue", "lst"], "list"),
        (["queue", "stats"], "status"),
        (["schedule", "lis"], "list"),
        (["provider", "retyr"], "retry"),
        (["unsubscribed", "remvoe"], "remove"),
        (["queue", "list", "failed", "--olddest"], "--oldest"),
        (["enqueue", "welcome", "--contxt", "{}"], "--context"),
        (["check", "--jsn"], "--json"),
        (["--confg", "x", "check"], "--config"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_mistyped_name_is_suggested(arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands, subcommands and options; also in the document of --json."""
    assert main(arguments) == USAGE_ERROR
    captured = capsys.readouterr()
    assert re.search(rf"[Dd]id you mean:? (one of: .*)?'?{meant}'?\?", captured.err), captured.err
    assert main([*arguments, "--json"]) == USAGE_ERROR
    assert re.search(
        rf"[Dd]id you mean:? (one of: .*)?'?{meant}'?\?", json.loads(capsys.readouterr().out)["reasons"][0]
    )


@pytest.mark.parametrize("command", [["check"], ["queue", "list", "failed"], ["run"], ["config", "show"]])
def test_config_after_the_command_is_explained(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The option belongs to the program; a suggestion of a similar option would mislead."""
    assert main([*command, "--config", "x.toml"]) == USAGE_ERROR
    error = capsys.readouterr().err
    assert "flowstate-daemon --config FILE" in error
    assert "did you mean" not in error.lower()


@pytest.mark.parametrize("arguments", [["zzz"], ["queue", "zzz"], ["queue", "list", "failed", "--zzz"], ["show"]])
def test_name_like_no_other_gets_no_suggestion(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong guess would mislead; the message points to --help instead."""
    assert main(arguments) == USAGE_ERROR
    error = capsys.readouterr().err
    assert "did you mean" not in error.lower()
    assert "--help" in error


def test_unknown_command_is_a_usage_error() -> None:
    """Commands are imported by name, but only those of the table."""
    assert main(["show"]) == USAGE_ERROR


def test_configuration_error_is_printed_as_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json, standard output has a document for every error; standard error has the text."""
    assert main(["check", "--json"]) == CONFIG
    captured = capsys.readouterr()
    assert "RESEND_FROM_EMAIL: missing" in captured.err
    document = json.loads(captured.out)
    assert (document["error"], document["exit_code"]) == ("invalid configuration", CONFIG)
    assert "RESEND_FROM_EMAIL" in document["reasons"][0]


def test_usage_error_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The document has the same form as for every other error."""
    assert main(["queue", "list", "lost", "--json"]) == USAGE_ERROR
    document = json.loads(capsys.readouterr().out)
    assert (document["error"], document["exit_code"]) == ("usage error", USAGE_ERROR)
    assert "'lost' is not one of" in document["reasons"][0]


def test_full_disk_is_reported_without_traceback() -> None:
    """As in `queue list > file`; a traceback would hide the cause."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "flowstate_daemon", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        1,
        "flowstate-daemon: failed\n  - cannot write: No space left on device\n",
    )


@pytest.mark.parametrize("option", [("--wait", "-1"), ("--priority", "0"), ("--delay", "-5"), ("--context", "{bad")])
def test_option_out_of_range_exits_64(option: tuple[str, str]) -> None:
    """It is rejected before the command connects to a store."""
    assert main(["enqueue", "welcome", "--to", "ada@example.org", *option]) == USAGE_ERROR


DEEP = '{"a":' + "[" * 5000 + "]" * 5000 + "}"
INVALID_ARGUMENTS = [
    ["enqueue", "welcome", "--to", "a@example.org", "--wait", "nan"],
    ["enqueue", "welcome", "--to", "a@example.org", "--wait", "inf"],
    ["enqueue", "welcome", "--to", "a@example.org", "--wait", "-1"],
    ["enqueue", "welcome", "--to", "a@example.org", "--context", DEEP],
    ["enqueue", "welcome", "--to", "a@example.org", "--context", '{"a":' + "9" * 5000 + "}"],
    ["queue", "clean", "failed", "--grace", "nan"],
    ["queue", "clean", "failed", "--grace", "inf"],
]


@pytest.mark.parametrize("arguments", INVALID_ARGUMENTS, ids=lambda arguments: " ".join(arguments)[-40:])
def test_invalid_number_or_document_is_a_usage_error(arguments: list[str]) -> None:
    """It is rejected before the command connects to a store."""
    assert main(arguments) == USAGE_ERROR


def test_binary_context_file_is_a_usage_error(tmp_path: Path) -> None:
    """A photo instead of JSON."""
    file = tmp_path / "context.json"
    file.write_bytes(b"\xff\xd8")
    assert main(["enqueue", "welcome", "--to", "a@example.org", "--context", f"@{file}"]) == USAGE_ERROR


def test_endless_context_file_is_a_usage_error() -> None:
    """A device instead of a file is not read without limit."""
    assert main(["enqueue", "welcome", "--to", "a@example.org", "--context", "@/dev/zero"]) == USAGE_ERROR


@pytest.mark.parametrize("file", ["/nowhere/flowstate.toml", "/"])
def test_unreadable_configuration_file_is_a_configuration_error(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A supervisor must not retry, and the other errors are listed as well."""
    monkeypatch.setenv("FLOWSTATE_CONFIG", file)
    assert main(["run"]) == CONFIG
    errors = capsys.readouterr().err
    assert file in errors
    assert "RESEND_FROM_EMAIL" in errors
