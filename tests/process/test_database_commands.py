"""Commands about people, as an operator types them: words for people, JSON for programs, exit codes for scripts."""

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
class Said:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Type = Callable[..., Awaitable[Said]]


async def typed(*text: str, **environment: str) -> Said:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "flowstate_daemon", *text),
        env={"PATH": os.environ["PATH"], "COLUMNS": "200", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return Said(process.returncode or 0, out.decode(), err.decode())


@pytest.fixture
def type_(database_url: str) -> Type:
    """Types a command where DATABASE_URL is that of the test's own database, in Prisma's form."""

    async def type_(*text: str) -> Said:
        return await typed(*text, DATABASE_URL=f"{database_url}&schema=public")

    return type_


async def test_migrate_checks_applies_and_has_nothing_more_to_do(type_: Type) -> None:
    """--check tells what is pending with exit code 1 and changes nothing; after migrating both say that all is done."""
    for _ in range(2):
        said = await type_("migrate", "--check", "--json")
        assert (said.code, said.document) == (1, {"pending": TITLES})
    said = await type_("migrate")
    assert (said.code, said.out.split()) == (0, [word for title in TITLES for word in ("applied:", title)])
    assert (await type_("migrate", "--check")).code == 0
    assert "up to date" in (await type_("migrate")).out


async def test_migrate_refuses_a_newer_database(type_: Type, database_url: str) -> None:
    """The exit code is that of a failure, and the reason says what to do."""
    await type_("migrate")
    async with open_pool(clean_dsn(database_url)) as pool, acquire(pool) as connection:
        await connection.execute(
            "INSERT INTO flowstate_daemon.migrations (version, name, checksum) VALUES (999, 'x', '')"
        )
    said = await type_("migrate")
    assert said.code == 1
    assert "install the newer version" in said.err


async def test_without_postgres_the_exit_code_says_why() -> None:
    """No DATABASE_URL is a wrong configuration, an unreachable one is a store that is away."""
    assert (await typed("explain", "ada@example.org")).code == 78
    url = f"postgresql://u:geheim@127.0.0.1:{free_port()}/d"
    said = await typed("explain", "ada@example.org", DATABASE_URL=url)
    assert said.code == 69
    assert "geheim" not in said.err


async def test_explain_before_migrating_names_the_remedy(type_: Type) -> None:
    """An operator who has forgotten to migrate is told to."""
    said = await type_("explain", "ada@example.org")
    assert said.code == 69
    assert "flowstate-daemon migrate" in said.err


async def test_explain_tells_mails_decisions_and_events(type_: Type, database_url: str, clock: FakeClock) -> None:
    """For programs everything, for people the same as a table that hostile text cannot break out of."""
    await type_("migrate")
    async with open_pool(clean_dsn(database_url)) as pool:
        ledger = Ledger(pool, clock)
        await ledger.write([outcome(1), outcome(2, reason="\x1b[31mred", outcome="failed", provider_id=None)])
        await ledger.record_events([ProviderEvent("e1", "re-1", "delivered", START_MS, "ada@example.org")])
    await type_("suppression", "add", "ada@example.org")
    said = await type_("explain", "ADA@Example.org", "--json")
    document = said.document
    assert document["suppressed"] == ["manual"]
    assert [mail["job_id"] for mail in document["mails"]] == ["2", "1"]
    assert document["mails"][1]["state"] == "delivered"
    assert document["mails"][1]["attempts"][0]["decisions"][2] == {
        "check": "rate",
        "result": "send",
        "reason": "waited 0.2 s",
    }
    table = await type_("explain", "ada@example.org")
    assert table.code == 0
    assert "delivered" in table.out
    assert "rate: send (waited 0.2 s)" in table.out
    assert "\x1b[31mred" not in table.out
    assert (await type_("explain", "nobody@example.org", "--json")).document["mails"] == []


async def test_the_suppression_list_is_kept_by_hand(type_: Type) -> None:
    """Added once, listed, found in the spelling of mails, removed; an address that is none is wrong usage."""
    await type_("migrate")
    added = await type_("suppression", "add", "Eva@bücher.example", "--note", "asked by phone", "--json")
    assert added.document["added"] is True
    again = await type_("suppression", "add", "eva@bücher.example")
    assert again.out.strip().endswith("as before")
    await type_("suppression", "add", "bob@example.org", "--reason", "bounced")
    (bob, eva) = (await type_("suppression", "list", "--json")).document
    assert (bob["address"], bob["reason"]) == ("bob@example.org", "bounced")
    assert (eva["address"], eva["note"]) == ("eva@xn--bcher-kva.example", "asked by phone")
    assert "asked by phone" in (await type_("suppression", "list", "eva@bücher.example")).out
    assert (await type_("suppression", "remove", "eva@bücher.example", "--json")).document["removed"] == ["manual"]
    assert "was not suppressed" in (await type_("suppression", "remove", "eva@bücher.example")).out
    assert (await type_("suppression", "add", "no address")).code == 64
