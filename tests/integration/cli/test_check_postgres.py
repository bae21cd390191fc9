"""`check` on a real Postgres: permissions, migrations, roles."""

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


async def test_pending_migrations_are_a_warning(check: Check, database_url: str) -> None:
    """Before the first start all migrations are pending, which is a warning because `run` applies them."""
    results = await check(DATABASE_URL=database_url)
    assert results["postgres"].level is Level.OK
    assert results["migrations"].level is Level.WARN
    assert "0001_ledger" in results["migrations"].message
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool).apply()
    results = await check(DATABASE_URL=database_url)
    assert results["migrations"].level is Level.OK
    assert results["postgres permissions"].level is Level.OK


async def test_remedy_of_a_role_without_rights_grants_them(check: Check, database_url: str) -> None:
    """The check passes after an administrator has run the statement of the remedy."""
    role = f"r{uuid4().hex[:12]}"  # roles belong to the server, which the tests share
    await execute(database_url, f"CREATE ROLE {role} LOGIN")
    url = database_url.replace("postgres@", f"{role}@", 1)
    result = (await check(DATABASE_URL=url))["postgres permissions"]
    assert result.level is Level.FAIL
    await execute(database_url, result.remedy.partition(": ")[2])
    assert (await check(DATABASE_URL=url))["postgres permissions"].level is Level.OK
    await execute(database_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_read_only_server_is_reported(check: Check, database_url: str) -> None:
    """A read-only server, such as a replica, is named in the message."""
    result = (await check(DATABASE_URL=f"{database_url}&options=-c%20default_transaction_read_only%3Don"))["postgres"]
    assert "read-only" in result.message


async def test_closed_port_is_unreachable(check: Check) -> None:
    """The result is unreachable, and does not contain the password."""
    result = (await check(DATABASE_URL="postgresql://me:geheim@127.0.0.1:1/flowstate"))["postgres"]
    assert result.unreachable
    assert "geheim" not in f"{result}"


async def test_invalid_url_is_misconfigured(check: Check) -> None:
    """The result is a configuration error, for which `run` would exit with 78."""
    assert (await check(DATABASE_URL="postgresql://me@host:port:more/flowstate"))["postgres"].misconfigured


@pytest.mark.parametrize(("zone", "known"), [("Europe/Paris", True), ("America/New_York", True), ("Mars/Base", False)])
async def test_zone_unknown_to_postgres_is_a_mismatch(database_url: str, zone: str, known: bool) -> None:
    """A zone is accepted when Python and Postgres agree on its offsets in summer and winter."""
    async with open_pool(clean_dsn(database_url), size=1) as pool:
        assert (await time_zone_mismatch(pool, zone, Clock()) is None) is known
