"""Commands on a host with the systemd service: they use its settings, and name the server that they ask."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from flowstate_daemon.cli import context
from flowstate_daemon.cli.main import main
from flowstate_daemon.config import unit_settings
from flowstate_daemon.dev.embedded import free_port
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture
from tests.unit.base.test_unit_settings import ordinary_user


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valkey_url: str, keys: Keys) -> Path:
    """A service whose environment file names the queue; the shell sets nothing."""
    for name in ("REDIS_URL", "DATABASE_URL", "CREDENTIALS_DIRECTORY", "SYSTEMD_EXEC_PID", "FLOWSTATE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "environment"
    file.write_text(
        f"REDIS_URL={valkey_url}\nFLOWSTATE_QUEUE_PREFIX={keys.prefix}\nRESEND_FROM_EMAIL=a@flowstate.dev\n"
        "FLOWSTATE_DELIVERY=outbox\n"
    )
    for store in ("credstore", "credstore.encrypted"):
        (tmp_path / store).mkdir()
    monkeypatch.setattr(unit_settings, "ENVIRONMENT_FILE", file)
    monkeypatch.setattr(context, "ENVIRONMENT_FILE", file)
    stores = (tmp_path / "credstore", tmp_path / "credstore.encrypted")
    monkeypatch.setattr(unit_settings, "CREDENTIAL_STORES", stores)
    return tmp_path


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(main, list(arguments))


async def failed_jobs(capsys: pytest.CaptureFixture[str]) -> int:
    capsys.readouterr()
    assert await run("queue", "status", "--json") == 0
    return int(json.loads(capsys.readouterr().out)["failed"])


async def test_command_reads_the_settings_of_the_service(
    service: Path, redis: Redis, keys: Keys, valkey_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Variables from the environment file, and credentials below them."""
    await QueueFixture(redis, keys).put("1", "failed", finishedOn=2, failedReason="no")
    assert await failed_jobs(capsys) == 1
    file = service / "environment"
    file.write_text(f"FLOWSTATE_QUEUE_PREFIX={keys.prefix}\n")
    (service / "credstore" / "flowstate-daemon.redis_url").write_text(f"{valkey_url}\n")
    assert await failed_jobs(capsys) == 1


@pytest.mark.parametrize(
    "command",
    [
        ["queue", "status"],
        ["queue", "list", "failed"],
        ["queue", "status", "--json"],
        ["provider", "status"],
        ["check"],
    ],
    ids=" ".join,
)
async def test_command_names_queue_and_server(
    service: Path, keys: Keys, valkey_url: str, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """On standard error, so that documents stay as they are; with the source of the address and without a password."""
    await run(*command)
    name = f"flowstate-daemon: queue {keys.prefix}:email on {valkey_url.rstrip('/')}"
    assert capsys.readouterr().err.splitlines()[0].startswith(name)


async def test_command_names_the_server_that_does_not_answer(
    service: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the shell sets wins over the service, and the output says so; the login is not shown."""
    port = free_port()
    monkeypatch.setenv("REDIS_URL", f"redis://me:geheim@127.0.0.1:{port}")
    assert await run("queue", "status") == 69
    captured = capsys.readouterr().err
    assert f"on redis://***@127.0.0.1:{port} (REDIS_URL)" in captured
    assert "geheim" not in captured
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:geheim@127.0.0.1:{port}/app?schema=public")
    assert await run("explain", "ada@example.org") == 69
    captured = capsys.readouterr().err
    assert f"database postgresql://***@127.0.0.1:{port}/app (DATABASE_URL)" in captured
    assert "geheim" not in captured


@pytest.mark.parametrize(
    ("command", "setting"),
    [(["queue", "status"], "REDIS_URL"), (["check"], "REDIS_URL"), (["explain", "a@b.org"], "DATABASE_URL")],
)
def test_settings_that_only_root_can_read_are_no_reason_to_guess(
    service: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    setting: str,
) -> None:
    """78 with the command to run, and nothing is asked; a server named in the shell is used."""
    (service / "environment").chmod(0)
    service.chmod(0o755)
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/flowstate-daemon", *command])
    with ordinary_user():
        readable = os.access(service / "environment", os.R_OK, effective_ids=True)
        assert not readable
        code = main(command)
        monkeypatch.setenv(
            setting, f"{'redis' if setting == 'REDIS_URL' else 'postgresql'}://127.0.0.1:{free_port()}/0"
        )
        monkeypatch.setenv("RESEND_FROM_EMAIL", "hello@flowstate.dev")
        monkeypatch.setenv("FLOWSTATE_DELIVERY", "outbox")
        assert main(command) == 69
    monkeypatch.undo()
    captured = capsys.readouterr()
    assert code == 78
    assert f"run: sudo flowstate-daemon {' '.join(command)}" in captured.err
    assert f"or set {setting}" in captured.err


async def test_encrypted_credential_is_no_reason_to_guess(
    service: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has the command that lets systemd decrypt it."""
    (service / "environment").write_text("")
    (service / "credstore.encrypted" / "flowstate-daemon.redis_url").write_text("…")
    monkeypatch.setattr(sys, "argv", ["flowstate-daemon", "queue", "status"])
    assert await run("queue", "status") == 78
    error = capsys.readouterr().err
    assert "sudo systemd-run" in error
    assert f"LoadCredentialEncrypted=redis_url:{service}/credstore.encrypted/flowstate-daemon.redis_url" in error
    assert error.rstrip().endswith("flowstate-daemon queue status")


@pytest.mark.parametrize("variable", ["SYSTEMD_EXEC_PID", "CREDENTIALS_DIRECTORY", "FLOWSTATE_CONFIG"])
async def test_process_of_a_unit_or_with_its_own_file_reads_only_what_it_was_given(
    service: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    """The reload of the unit checks its own environment; `--config` names another configuration."""
    (service / "empty").mkdir()
    (service / "own.toml").write_text("")
    values = {"SYSTEMD_EXEC_PID": str(os.getpid()), "CREDENTIALS_DIRECTORY": str(service / "empty")}
    monkeypatch.setenv(variable, values.get(variable, str(service / "own.toml")))
    assert await run("check", "--config-only") == 78
    assert "RESEND_FROM_EMAIL: missing" in capsys.readouterr().err
