"""`status`, `emails list`, `config show` and `completion` as an operator runs them."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.cli.main import main
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.dev.embedded import free_port
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.provider_state import ProviderState
from flowstate_daemon.sending.rate_limiter import RateLimiter
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock
from tests.support.ledger_entries import outcome

Capture = pytest.CaptureFixture[str]
HOUR_MS = 3_600_000


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, valkey_url: str, keys: Keys) -> None:
    for name, value in {
        "REDIS_URL": valkey_url,
        "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
        "FLOWSTATE_HTTP_PORT": str(free_port()),
        "COLUMNS": "200",
    }.items():
        monkeypatch.setenv(name, value)


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(main, list(arguments))


async def test_status_shows_what_is_wrong_first(
    connection: Connection, redis: Redis, keys: Keys, capsys: Capture
) -> None:
    """No daemon here, a paused queue, a provider that refuses: each is a problem, and the rest is shown."""
    stage = QueueFixture(redis, keys)
    await stage.put("1", "failed")
    await stage.put("2", "delayed")
    await redis.set(keys("meta-paused"), 1)
    await RateLimiter(connection, keys, Clock(), instance="vm-1").publish_state(
        ProviderState("refused", "the key is invalid", 15_000)
    )
    assert await run("status", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["daemon"]["status"] == "unreachable"
    assert (document["queue"]["failed"], document["queue"]["delayed"], document["queue"]["workers"]) == (1, 1, 0)
    assert document["provider"]["reasons"] == ["vm-1: the key is invalid"]
    problems = "\n".join(document["problems"])
    for text in ("daemon: ", "queue: paused", "no worker is connected", "refuses all emails", "the key is invalid"):
        assert text in problems
    assert await run("status") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "problems at" in lines[0]
    assert lines[2].startswith("problems")
    assert any(line.startswith("queue") and "1 failed" in line for line in lines)
    assert len(lines) <= 24


async def test_status_without_redis_shows_the_rest(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """An unreachable store is one problem; the exit code is not that of an error of this command."""
    monkeypatch.setenv("REDIS_URL", f"redis://:geheim@127.0.0.1:{free_port()}")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:geheim@127.0.0.1:{free_port()}/d")
    assert await run("status", "--json") == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert "error" in document["queue"]
    assert "error" in document["provider"]
    assert "error" in document["schedules"]
    assert "geheim" not in captured.out + captured.err


async def test_status_shows_the_schedules(database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """With Postgres, when each is next due."""
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool).apply()
    monkeypatch.setenv("DATABASE_URL", f"{database_url}&schema=public")
    await run("status", "--json")
    schedules = json.loads(capsys.readouterr().out)["schedules"]
    assert {one["name"] for one in schedules["next"]} == {"task-reminder", "overdue-summary", "focus-report"}
    assert await run("status") == 1
    assert "task-reminder" in capsys.readouterr().out


async def test_status_watches_until_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """One document a line."""
    rounds = 0

    async def interrupt(_seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("flowstate_daemon.cli.status.asyncio.sleep", interrupt)
    assert await run("status", "--watch", "--json") == 130
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("problems" in json.loads(line) for line in lines)


ENTRIES = [
    outcome(1, at=1000, kind="otp"),
    outcome(
        2, at=2000, kind="welcome", to="bob@example.org", outcome="failed", reason="422: INVALID", provider_id=None
    ),
    outcome(3, at=Clock().now_ms() - 2 * HOUR_MS, kind="welcome", to="bob@example.org"),
]
LISTED = [
    ([], ["3", "2", "1"]),
    (["--limit", "2"], ["3", "2"]),
    (["--kind", "welcome"], ["3", "2"]),
    (["--kind", "welcome", "--kind", "otp"], ["3", "2", "1"]),
    (["--to", " BOB@example.org"], ["3", "2"]),
    (["--to", "bob@"], []),
    (["--outcome", "failed"], ["2"]),
    (["--reason", "invalid"], ["2"]),
    (["--newer-than", "1d"], ["3"]),
    (["--older-than", "1d", "--kind", "otp"], ["1"]),
]


async def test_emails_are_listed_alike_from_ledger_and_journal(
    redis: Redis, keys: Keys, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture, clock: FakeClock
) -> None:
    """Each filter gives the same rows from both; the document says which it was."""
    for entry in ENTRIES:
        document = {
            "key": entry.key, "at": entry.at, "job_id": entry.job_id, "kind": entry.kind, "to": entry.to,
            "attempt": entry.attempt, "outcome": entry.outcome, "provider_id": entry.provider_id,
            "reason": entry.reason,
        }  # fmt: skip
        await redis.rpush(keys.own("journal"), json.dumps(document))
    await redis.rpush(keys.own("journal"), "not an entry")
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool).apply()
        await Ledger(pool, clock).write(ENTRIES)
    for options, expected in LISTED:
        for url, source in ((None, "journal in Redis"), (f"{database_url}&schema=public", "ledger")):
            monkeypatch.delenv("DATABASE_URL", raising=False)
            if url:
                monkeypatch.setenv("DATABASE_URL", url)
            assert await run("emails", "list", *options, "--json") == 0
            document = json.loads(capsys.readouterr().out)
            assert document["source"] == source
            assert [one["job_id"] for one in document["emails"]] == expected, (options, source)
            assert not any("bob@" in one["address"] for one in document["emails"])
    assert await run("emails", "list", "--reveal") == 0
    output = capsys.readouterr().out
    assert "bob@example.org" in output
    assert "from the ledger" in output


async def test_empty_journal_lists_nothing(redis: Redis, capsys: Capture) -> None:
    """It says where it looked."""
    assert await run("emails", "list") == 0
    assert capsys.readouterr().out == "no emails match; read from the journal in Redis\n"
    assert await run("emails", "list", "--to", "ada") == 0
    assert capsys.readouterr().out == "no emails match; --to needs the whole address; read from the journal in Redis\n"


async def test_journal_is_read_beyond_one_page(redis: Redis, keys: Keys, capsys: Capture) -> None:
    """The match is the oldest of many entries."""
    rows = [json.dumps({"key": f"k:{n}:1", "at": n, "job_id": str(n), "kind": "otp" if n else "welcome",
                        "to": "a@b.de", "attempt": 1, "outcome": "sent"}) for n in range(1201)]  # fmt: skip
    await redis.rpush(keys.own("journal"), *rows)
    assert await run("emails", "list", "--kind", "welcome", "--json") == 0
    assert [one["job_id"] for one in json.loads(capsys.readouterr().out)["emails"]] == ["0"]


def test_config_shows_values_and_sources_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    """Environment, file and default; a secret is only "set"; filters narrow the list."""
    file = tmp_path / "settings.toml"
    file.write_text('[log]\nlevel = "warning"\n')
    monkeypatch.setenv("RESEND_API_KEY", "re_aB3dE5fG7hJ9kL1mN3pQ5r")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:geheim@127.0.0.1/d")
    assert main(["--config", str(file), "config", "show", "--json"]) == 0
    output = capsys.readouterr().out
    assert "re_aB3" not in output
    assert "geheim" not in output
    shown = {row["setting"]: (row["value"], row["source"]) for row in json.loads(output)}
    assert shown["log.level"] == ("warning", f"[log] level in {file}")
    assert shown["resend.api_key"] == ("set, hidden", "RESEND_API_KEY")
    assert shown["queue.concurrency"][1] == "default"
    assert main(["--config", str(file), "config", "show", "log", "--changed"]) == 0
    output = capsys.readouterr().out
    assert "settings: 1" in output
    assert "log.level" in output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_valid(shell: str, capsys: Capture, tmp_path: Path) -> None:
    """The shell itself checks its syntax, where it is installed."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_FLOWSTATE_DAEMON_COMPLETE" in script
    if shutil.which(shell):
        file = tmp_path / "script"
        file.write_text(script)
        assert subprocess.run([shell, "-n", file], check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("flowstate-daemon sta", {"status"}),
        ("flowstate-daemon queue re", {"remove", "resume", "retry"}),
        ("flowstate-daemon queue list fa", {"failed"}),
        ("flowstate-daemon suppression add --reason bo", {"bounced"}),
        ("flowstate-daemon queue clean failed --older", {"--older-than"}),
    ],
)
def test_shell_completes_commands_options_and_values(
    words: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """What the script asks the program for."""
    monkeypatch.setenv("_FLOWSTATE_DAEMON_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with pytest.raises(SystemExit):
        main([])
    assert {line.partition(",")[2] for line in capsys.readouterr().out.split()} == expected
