"""`check` on a real Postgres: rights, migrations, roles."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.server_info import time_zone_mismatch
from tests.integration.cli.conftest import Check


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def test_pending_migrations_are_named_and_then_gone(check: Check, database_url: str) -> None:
    """Before the first start everything is pending, which is only a warning: `run` migrates."""
    found = await check(DATABASE_URL=database_url)
    assert found["postgres"].level is Level.OK
    assert found["migrations"].level is Level.WARN
    assert "0001_ledger" in found["migrations"].message
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool).apply()
    found = await check(DATABASE_URL=database_url)
    assert found["migrations"].level is Level.OK
    assert found["postgres permissions"].level is Level.OK


async def test_a_role_without_the_schema_is_told_what_an_administrator_must_run(
    check: Check, database_url: str
) -> None:
    """The statement in the remedy is enough."""
    role = f"r{uuid4().hex[:12]}"  # roles are the server's, not the database's
    await execute(database_url, f"CREATE ROLE {role} LOGIN")
    url = database_url.replace("postgres@", f"{role}@", 1)
    result = (await check(DATABASE_URL=url))["postgres permissions"]
    assert result.level is Level.FAIL
    await execute(database_url, result.remedy.partition(": ")[2])
    assert (await check(DATABASE_URL=url))["postgres permissions"].level is Level.OK
    await execute(database_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_a_read_only_server_is_told(check: Check, database_url: str) -> None:
    """As a replica is: nothing could be written down."""
    result = (await check(DATABASE_URL=f"{database_url}&options=-c%20default_transaction_read_only%3Don"))["postgres"]
    assert "read-only" in result.message


async def test_nobody_there_is_unreachable(check: Check) -> None:
    """With the remedy, and without the password."""
    result = (await check(DATABASE_URL="postgresql://me:geheim@127.0.0.1:1/flowstate"))["postgres"]
    assert result.unreachable
    assert "geheim" not in f"{result}"


async def test_a_url_with_a_mistake_is_a_mistake_of_the_configuration(check: Check) -> None:
    """`run` would exit 78."""
    assert (await check(DATABASE_URL="postgresql://me@host:port:more/flowstate"))["postgres"].misconfigured


@pytest.mark.parametrize(("zone", "known"), [("Europe/Paris", True), ("America/New_York", True), ("Mars/Base", False)])
async def test_both_sides_must_know_a_zones_summer_and_winter(database_url: str, zone: str, known: bool) -> None:
    """Mails are planned by the hours of people's walls."""
    async with open_pool(clean_dsn(database_url), size=1) as pool:
        assert (await time_zone_mismatch(pool, zone, Clock()) is None) is known
