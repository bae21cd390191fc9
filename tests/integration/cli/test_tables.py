"""Every command with a table, on narrow terminals: no column and no word is missing, no line is too long."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis
from rich.cells import cell_len

from flowstate_daemon.cli.main import main
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger, ProviderEvent
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock
from tests.support.ledger_entries import START_MS, outcome

REASON = "Resend: Invalid `to` field. The email address 日本語日本語@example.org needs to follow the format"
BOUNCE = "550 5.1.1 user unknown; see https://support.example.org/answers/at/length/6596-no-such-user"
NOTE = "asked by phone on Monday, 名前は山田です, and again by letter"
COMMANDS = [
    ["queue", "list", "failed"],
    ["queue", "list", "delayed"],
    ["queue", "show", "f1"],
    ["queue", "status"],
    ["queue", "audit"],
    ["provider", "status"],
    ["explain", "ada@example.org"],
    ["suppression", "list"],
    ["suppression", "audit"],
    ["unsubscribed", "list"],
    ["schedule", "list"],
    ["check"],
    ["mail", "preview", "--locale", "fr"],
]


@pytest.fixture
async def _stores(
    valkey_url: str,
    keys: Keys,
    database_url: str,
    redis: Redis,
    clock: FakeClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A queue with failed and delayed jobs, a ledger, both lists, and operators' actions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", valkey_url)
    monkeypatch.setenv("FLOWSTATE_QUEUE_PREFIX", keys.prefix)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("RESEND_FROM_EMAIL", "hello@flowstate.dev")
    monkeypatch.setenv("FLOWSTATE_DELIVERY", "outbox")
    stage = QueueFixture(redis, keys)
    for number in range(2):
        await stage.put(f"f{number}", "failed", finishedOn=2, failedReason=REASON, timestamp=START_MS)
        await stage.put(f"d{number}", "delayed", delay=10**9, timestamp=START_MS)
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool).apply()
        ledger = Ledger(pool, clock)
        await ledger.write([outcome(1), outcome(2, reason=REASON, outcome="failed", provider_id=None)])
        await ledger.record_events([ProviderEvent("e1", "re-1", "bounced", START_MS, "ada@example.org", BOUNCE)])
        lists = Suppressions(pool, clock)
        await lists.add("somebody.with.a.long.name@subdomain.example.org", "manual", NOTE, actor="ops on host")
        await lists.unsubscribe("ada@example.org", "task-reminder", actor="ops on host")
    for command in (["queue", "pause"], ["queue", "resume"]):
        await asyncio.to_thread(main, command)


@pytest.mark.usefixtures("_stores")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_nothing_is_lost_on_a_narrow_terminal(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 80 and 60 columns the output has every word that it has in a pipe, in lines that fit."""
    monkeypatch.delenv("COLUMNS", raising=False)
    capsys.readouterr()
    code = await asyncio.to_thread(main, command)
    title, _, _columns, *rows = capsys.readouterr().out.splitlines()  # records omit fields without a value
    words = {word for word in " ".join([title, *rows]).split() if not any(char.isdigit() for char in word)}
    assert len(words) > 1
    for width in (80, 60):
        monkeypatch.setenv("COLUMNS", str(width))
        assert await asyncio.to_thread(main, command) == code
        output = capsys.readouterr().out
        assert max(map(cell_len, output.splitlines())) <= width
        squeezed = "".join(output.split())
        assert [word for word in words if word not in squeezed] == []


@pytest.mark.usefixtures("_stores")
async def test_explain_shows_what_the_provider_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer of the provider and the reason are the point of the command."""
    monkeypatch.setenv("COLUMNS", "60")
    assert await asyncio.to_thread(main, ["explain", "ada@example.org"]) == 0
    squeezed = "".join(capsys.readouterr().out.split())
    assert "".join(BOUNCE.split()) in squeezed
    assert "".join(REASON.split()) in squeezed
