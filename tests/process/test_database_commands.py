"""Commands on the database as an operator runs them: text, JSON and exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger, ProviderEvent
from flowstate_daemon.database.migrations import known_migrations
from flowstate_daemon.database.pool import acquire, open_pool
from flowstate_daemon.dev.embedded import free_port
from tests.support.clock import FakeClock
from tests.support.ledger_entries import START_MS, outcome

TITLES = [migration.title for migration in known_migrations()]


@dataclass(frozen=True, slots=True)
class CommandOutput:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


RunCommand = Callable[..., Awaitable[CommandOutput]]


async def run_command(*arguments: str, **environment: str) -> CommandOutput:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "flowstate_daemon", *arguments),
        env={"PATH": os.environ["PATH"], "COLUMNS": "200", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return CommandOutput(process.returncode or 0, out.decode(), err.decode())


@pytest.fixture
def run(database_url: str) -> RunCommand:
    """Runs a command with the DATABASE_URL of the test's own database, in the form of Prisma."""

    async def run(*arguments: str) -> CommandOutput:
        return await run_command(*arguments, DATABASE_URL=f"{database_url}&schema=public")

    return run


async def test_migrate_reports_and_applies_pending_migrations(run: RunCommand) -> None:
    """--check lists pending migrations with exit code 1 and changes nothing; after migrating there are none."""
    for _ in range(2):
        result = await run("migrate", "--check", "--json")
        assert (result.code, result.document) == (1, {"pending": TITLES})
    result = await run("migrate")
    assert (result.code, result.out.split()) == (0, [word for title in TITLES for word in ("applied:", title)])
    assert (await run("migrate", "--check")).code == 0
    assert "up to date" in (await run("migrate")).out


async def test_migrate_fails_on_a_newer_database(run: RunCommand, database_url: str) -> None:
    """The exit code is 1, and the message tells to install the newer version."""
    await run("migrate")
    async with open_pool(clean_dsn(database_url)) as pool, acquire(pool) as connection:
        await connection.execute(
            "INSERT INTO flowstate_daemon.migrations (version, name, checksum) VALUES (999, 'x', '')"
        )
    result = await run("migrate")
    assert result.code == 1
    assert "install the newer version" in result.err


async def test_exit_code_without_postgres() -> None:
    """Without DATABASE_URL the exit code is 78, with an unreachable database it is 69."""
    assert (await run_command("explain", "ada@example.org")).code == 78
    url = f"postgresql://u:geheim@127.0.0.1:{free_port()}/d"
    result = await run_command("explain", "ada@example.org", DATABASE_URL=url)
    assert result.code == 69
    assert "geheim" not in result.err


async def test_explain_without_migrations_names_the_remedy(run: RunCommand) -> None:
    """The message names the command `migrate`."""
    result = await run("explain", "ada@example.org")
    assert result.code == 69
    assert "flowstate-daemon migrate" in result.err


async def test_explain_shows_emails_decisions_and_events(run: RunCommand, database_url: str, clock: FakeClock) -> None:
    """JSON contains everything; the table contains the same, with control characters removed."""
    await run("migrate")
    async with open_pool(clean_dsn(database_url)) as pool:
        ledger = Ledger(pool, clock)
        await ledger.write([outcome(1), outcome(2, reason="\x1b[31mred", outcome="failed", provider_id=None)])
        await ledger.record_events([ProviderEvent("e1", "re-1", "delivered", START_MS, "ada@example.org")])
    await run("suppression", "add", "ada@example.org")
    result = await run("explain", "ADA@Example.org", "--json")
    document = result.document
    assert document["suppressed"] == ["manual"]
    assert [mail["job_id"] for mail in document["mails"]] == ["2", "1"]
    assert document["mails"][1]["state"] == "delivered"
    assert document["mails"][1]["attempts"][0]["decisions"][2] == {
        "check": "rate",
        "result": "send",
        "reason": "waited 0.2 s",
    }
    table = await run("explain", "ada@example.org")
    assert table.code == 0
    assert "delivered" in table.out
    assert "rate: send (waited 0.2 s)" in table.out
    assert "\x1b[31mred" not in table.out
    assert (await run("explain", "nobody@example.org", "--json")).document["mails"] == []


async def test_suppression_commands_edit_the_list(run: RunCommand) -> None:
    """An address is added once, listed and removed in any spelling; an invalid address is wrong usage."""
    await run("migrate")
    added = await run("suppression", "add", "Eva@bücher.example", "--note", "asked by phone", "--json")
    assert added.document["added"] is True
    again = await run("suppression", "add", "eva@bücher.example")
    assert again.out.strip().endswith("as before")
    await run("suppression", "add", "bob@example.org", "--reason", "bounced")
    (bob, eva) = (await run("suppression", "list", "--json")).document
    assert (bob["address"], bob["reason"]) == ("bob@example.org", "bounced")
    assert (eva["address"], eva["note"]) == ("eva@xn--bcher-kva.example", "asked by phone")
    assert "asked by phone" in (await run("suppression", "list", "eva@bücher.example")).out
    assert (await run("suppression", "remove", "eva@bücher.example", "--json")).document["removed"] == ["manual"]
    assert "was not suppressed" in (await run("suppression", "remove", "eva@bücher.example")).out
    assert (await run("suppression", "add", "no address")).code == 64
