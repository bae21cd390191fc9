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
    """The exit code is 1, and the message says to install the newer version."""
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
    assert "re-1" in table.out, "people look up this id at the provider"
    assert "rate: send (waited 0.2 s)" in table.out
    assert "\x1b[31mred" not in table.out
    assert (await run("explain", "nobody@example.org", "--json")).document["mails"] == []
    nothing = (await run("explain", "nobody@example.org")).out
    assert "no emails" in nothing
    assert "queue list" in nothing, "an email that waits is not in the ledger yet"


async def test_suppression_commands_edit_the_list(run: RunCommand) -> None:
    """An address is added once, listed and removed in any spelling; an invalid address is wrong usage."""
    await run("migrate")
    added = await run("suppression", "add", "Eva@bücher.example", "--note", "asked by phone", "--json")
    assert added.document["added"] is True
    again = await run("suppression", "add", "eva@bücher.example")
    assert again.out.strip().endswith("as before")
    await run("suppression", "add", "bob@example.org", "--reason", "bounced")
    (bob, eva) = (await run("suppression", "list", "--reveal", "--json")).document
    assert (bob["address"], bob["reason"]) == ("bob@example.org", "bounced")
    assert (eva["address"], eva["note"]) == ("eva@xn--bcher-kva.example", "asked by phone")
    assert "asked by phone" in (await run("suppression", "list", "eva@bücher.example")).out
    assert (await run("suppression", "remove", "eva@bücher.example", "--json")).document["removed"] == ["manual"]
    assert "was not suppressed" in (await run("suppression", "remove", "eva@bücher.example")).out
    assert (await run("suppression", "add", "no address")).code == 64


@pytest.mark.parametrize(
    "text", ["not an address", "", "@", "ada@", "Ada <ada@example.org>", "a@b@example.org", "é@x.fr"]
)
async def test_explain_of_something_else_than_an_address_is_wrong_usage(text: str) -> None:
    """Each email in the ledger has a valid address, so "0 emails" would hide a typing error."""
    result = await run_command("explain", text, DATABASE_URL=f"postgresql://u:p@127.0.0.1:{free_port()}/d")
    assert (result.code, "ADDRESS is not an email address" in result.err, result.out) == (64, True, "")
    result = await run_command("explain", text, "--json")
    assert (result.code, result.document["error"]) == (64, "usage error")


async def test_unsubscribed_commands_edit_the_list(run: RunCommand) -> None:
    """An unsubscribe of one kind or of all can be listed, added and undone, in any spelling of the address."""
    await run("migrate")
    added = await run("unsubscribed", "add", "Eva@bücher.example", "--json")
    assert added.document == {"address": "eva@xn--bcher-kva.example", "kind": "*", "added": True}
    assert (await run("unsubscribed", "add", "eva@bücher.example")).out.strip().endswith("as before")
    for kind in ("task-reminder", "focus-report"):
        await run("unsubscribed", "add", "ada@example.org", "--kind", kind)
    everything = (await run("unsubscribed", "list", "--reveal", "--json")).document
    assert [(one["address"], one["kind"]) for one in everything] == [
        ("ada@example.org", "focus-report"),
        ("ada@example.org", "task-reminder"),
        ("eva@xn--bcher-kva.example", "*"),
    ]
    assert all(one["since"] for one in everything)
    assert "all kinds" in (await run("unsubscribed", "list", "EVA@bücher.example")).out
    removed = await run("unsubscribed", "remove", "ADA@example.org", "--kind", "task-reminder", "--json")
    assert removed.document == {
        "address": "ada@example.org",
        "removed": ["task-reminder"],
        "still_unsubscribed": ["focus-report"],
    }
    assert "gets all kinds again" in (await run("unsubscribed", "remove", "ada@example.org")).out
    assert "was not unsubscribed" in (await run("unsubscribed", "remove", "ada@example.org")).out
    assert (await run("explain", "ada@example.org", "--json")).document["unsubscribed"] == []


async def test_an_unsubscribe_from_everything_is_not_undone_for_one_kind(run: RunCommand) -> None:
    """The answer says that the address still gets nothing, and how to change that."""
    await run("migrate")
    await run("unsubscribed", "add", "eva@example.org")
    result = await run("unsubscribed", "remove", "eva@example.org", "--kind", "task-reminder")
    assert (result.code, "still unsubscribed from all kinds" in result.out) == (0, True)
    assert "without --kind" in result.out


async def test_unsubscribes_by_operators_leave_a_trace(run: RunCommand) -> None:
    """Who, what and how many, like every other action."""
    await run("migrate")
    await run("unsubscribed", "add", "eva@example.org", "--kind", "task-reminder")
    await run("unsubscribed", "remove", "eva@example.org")
    actions = (await run("suppression", "audit", "--reveal", "--json")).document
    assert [(one["action"], one["target"], one["count"]) for one in actions] == [
        ("unsubscribed remove", "eva@example.org", 1),
        ("unsubscribed add (task-reminder)", "eva@example.org", 1),
    ]
    assert all(" on " in one["actor"] for one in actions)


@pytest.mark.parametrize("command", ["suppression", "unsubscribed"])
async def test_lists_are_complete_unless_a_limit_is_given(run: RunCommand, database_url: str, command: str) -> None:
    """They are saved before a rollback: a list cut at a thousand rows would lose people without a word."""
    await run("migrate")
    table, column, value = {
        "suppression": ("suppressions", "reason", "manual"),
        "unsubscribed": ("unsubscribes", "kind", "*"),
    }[command]
    async with open_pool(clean_dsn(database_url)) as pool, acquire(pool) as connection:
        await connection.execute(
            f"INSERT INTO flowstate_daemon.{table} (address, {column}, since) "
            f"SELECT n || '@example.org', '{value}', now() FROM generate_series(1, 2345) AS n"
        )
    addresses = [one["address"] for one in (await run(command, "list", "--reveal", "--json")).document]
    assert (len(addresses), len(set(addresses))) == (2345, 2345)
    limited = (await run(command, "list", "--limit", "7", "--reveal", "--json")).document
    assert addresses[:7] == [one["address"] for one in limited]
    assert "--limit 7" in (await run(command, "list", "--limit", "7")).out


@pytest.mark.parametrize("command", ["suppression", "unsubscribed"])
async def test_a_text_that_is_no_address_and_in_no_list_is_wrong_usage(run: RunCommand, command: str) -> None:
    """A typing error must not read like "this address gets email"."""
    await run("migrate")
    for action in ("list", "add", "remove"):
        result = await run(command, action, "no address")
        assert (result.code, "not an email address" in result.err) == (64, True), action


async def test_a_suppression_of_an_invalid_address_can_be_removed(run: RunCommand, database_url: str) -> None:
    """The provider may have reported it in that form."""
    await run("migrate")
    async with open_pool(clean_dsn(database_url)) as pool, acquire(pool) as connection:
        await connection.execute("INSERT INTO flowstate_daemon.suppressions VALUES ('no address', 'bounced', now())")
    assert (await run("suppression", "list", "no address", "--json")).document[0]["reason"] == "bounced"
    assert (await run("suppression", "remove", "no address", "--json")).document["removed"] == ["bounced"]
