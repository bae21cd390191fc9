"""Commands show masked addresses; with --reveal they show whole ones, and say so in the audit log, as the pages do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture
from tests.process.test_database_commands import CommandOutput, run_command
from tests.support.clock import FakeClock
from tests.support.ledger_entries import outcome

ADDRESS = "ada.lovelace@example.org"
DATA = '{"type":"otp","to":"ada.lovelace@example.org","context":{"otpCode":"482913","cc":["ada.lovelace@example.org"]}}'
# The command, and the audit log that says that it has revealed something; None: its argument names the person.
COMMANDS: list[tuple[list[str], str]] = [
    (["queue", "list", "failed"], "queue"),
    (["queue", "show", "f1"], "queue"),
    (["emails", "list"], "suppression"),
    (["suppression", "list"], "suppression"),
    (["unsubscribed", "list"], "suppression"),
    (["suppression", "audit"], "suppression"),
]


@pytest.fixture
async def environment(redis: Redis, keys: Keys, valkey_url: str, database_url: str) -> dict[str, str]:
    """One person in every store."""
    await QueueFixture(redis, keys).put("f1", "failed", name="otp", data=DATA, finishedOn=2, failedReason="no")
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool).apply()
        await Ledger(pool, FakeClock()).write([outcome(1, to=ADDRESS)])
        lists = Suppressions(pool, FakeClock())
        await lists.add(ADDRESS, "manual", actor="ops")
        await lists.unsubscribe(ADDRESS, "task-reminder", actor="ops")
    return {"REDIS_URL": valkey_url, "FLOWSTATE_QUEUE_PREFIX": keys.prefix, "DATABASE_URL": database_url}


async def audit(which: str, environment: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await run_command(which, "audit", "--json", **environment)).document
    return [one for one in found if "revealed" in one["action"]]


@pytest.mark.parametrize(("command", "log"), COMMANDS, ids=str)
async def test_addresses_are_masked_until_revealed(environment: dict[str, str], command: list[str], log: str) -> None:
    """As a table and as JSON; only the revealing of them is recorded, with what was shown."""
    for options in ([], ["--json"]):
        masked: CommandOutput = await run_command(*command, *options, **environment)
        assert (masked.code, ADDRESS in masked.out, "a***@example.org" in masked.out) == (0, False, True), masked
        assert "482913" not in masked.out
    assert await audit(log, environment) == []
    for number, options in enumerate(([], ["--json"]), 1):
        shown = await run_command(*command, "--reveal", *options, **environment)
        assert (shown.code, ADDRESS in shown.out) == (0, True), shown
        assert ("482913" in shown.out) == (command[:2] == ["queue", "show"])
        recorded = await audit(log, environment)
        assert len(recorded) == number
        assert " on " in recorded[0]["actor"]
        assert ADDRESS not in recorded[0]["target"]


async def test_journal_without_postgres_is_audited_in_redis(environment: dict[str, str]) -> None:
    """`emails list` reads another store then."""
    del environment["DATABASE_URL"]
    assert (await run_command("emails", "list", "--reveal", **environment)).code == 0
    (recorded,) = await audit("queue", environment)
    assert (recorded["action"], recorded["target"]) == ("addresses revealed", "emails list")


@pytest.mark.parametrize("command", ["suppression", "unsubscribed"])
async def test_export_is_recorded(environment: dict[str, str], tmp_path: Path, command: str) -> None:
    """A file with all addresses is the largest revealing of all."""
    assert (await run_command(command, "export", str(tmp_path / "list.csv"), **environment)).code == 0
    (recorded,) = await audit("suppression", environment)
    assert (recorded["target"], recorded["count"]) == (f"{command} export", 1)


@pytest.mark.parametrize("command", ["suppression", "unsubscribed"])
async def test_who_names_an_address_sees_it(environment: dict[str, str], command: str) -> None:
    """Nothing is revealed to whoever has typed it."""
    shown = await run_command(command, "list", ADDRESS, **environment)
    assert ADDRESS in shown.out
    assert await audit("suppression", environment) == []
