"""The API under schemathesis: whatever a client sends, no answer is a 500 and each is as documented."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import asyncpg
import pytest

from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon.builders import build_manual_runs
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import BORN, QueueFixture
from tests.support.clock import FakeClock
from tests.support.ledger_entries import outcome
from tests.support.operator_api import OPERATE, READ, ApiClient, build_operator, build_recipients, serve_api

# Not `positive_data_acceptance`: a schema cannot say which actions a state allows, or which context a kind needs.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
MAX_RUN_S = 300  # 30 s on two idle cores
QUICK = ("--phases=examples,coverage",)
# An unavailable store is answered with 503, which the document describes; it does not describe 500.
OUTAGE_CHECKS = tuple(check for check in CHECKS if check != "not_a_server_error")


class RestlessClock(FakeClock):
    """A second passes at each look, so that no rate limit answers before the endpoint does."""

    def monotonic(self) -> float:
        self._mono_s += 1.0
        return super().monotonic()


@pytest.fixture
def clock() -> FakeClock:
    return RestlessClock()


@pytest.fixture
async def api(
    pool: asyncpg.Pool, database_url: str, connection: Connection, keys: Keys, clock: FakeClock
) -> AsyncIterator[ApiClient]:
    """All endpoints, on stores with some jobs, emails and lists."""
    config = load({"DATABASE_URL": database_url, "FRONTEND_URL": "https://flowstate.example"})
    schedules = build_manual_runs(config, pool, clock)
    recipients = build_recipients(pool, clock)
    await Ledger(pool, clock).write([outcome(number) for number in range(20)])
    await recipients.suppressions.add("ada@example.org", "manual")
    async with serve_api(build_operator(connection, keys, clock, recipients, schedules)) as api:
        yield api


@pytest.fixture
async def jobs(api: ApiClient, keys: Keys, redis: object) -> None:
    stage = QueueFixture(redis, keys)  # type: ignore[arg-type]
    for number in range(5):
        await stage.put(f"f{number}", "failed", at=BORN + number, failedReason="422", finishedOn=BORN + number)
        await stage.put(f"d{number}", "delayed", at=BORN + number)


async def fuzz(
    api: ApiClient, folder: Path, *options: str, token: str = OPERATE, checks: Sequence[str] = CHECKS
) -> str:
    """Run schemathesis against the API; returns what it printed. Fails when a check does."""
    arguments = (
        "run",
        f"{api.url}/api/v1/openapi.json",
        f"--header=Authorization: Bearer {token}",
        f"--checks={','.join(checks)}",
        "--seed=12",
        "--request-timeout=10",
        "--generation-database=none",
        "--continue-on-failure",
        "--no-color",
        "--warnings=off",
        *options,
    )
    program = Path(sys.executable).parent / "schemathesis"
    process = await asyncio.create_subprocess_exec(
        program, *arguments, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(MAX_RUN_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode(errors="replace")
    assert process.returncode == 0, text
    return text


def check_every_operation_was_tested(api: ApiClient, output: str) -> None:
    """The summary names as many operations as there are endpoints."""
    count = len(api.api.endpoints)
    assert re.search(rf"Selected: {count}/{count}\b", output), output
    assert re.search(rf"Tested: {count}\b", output), output


@pytest.mark.timeout(MAX_RUN_S + 60)
async def test_no_request_breaks_the_api(api: ApiClient, jobs: None, tmp_path: Path) -> None:
    """Examples, edge cases of every parameter, random and invalid data, and sequences of calls."""
    output = await fuzz(api, tmp_path, "--max-examples=10")
    check_every_operation_was_tested(api, output)


@pytest.mark.timeout(MAX_RUN_S + 60)
async def test_no_request_breaks_the_api_for_a_token_that_may_read(api: ApiClient, jobs: None, tmp_path: Path) -> None:
    """Whatever it sends to what it may not do gets a documented refusal."""
    check_every_operation_was_tested(api, await fuzz(api, tmp_path, *QUICK, token=READ))


@pytest.fixture(params=["no Postgres", "Postgres away", "Redis away", "no tables"])
async def crippled_api(
    request: pytest.FixtureRequest,
    connection: Connection,
    keys: Keys,
    clock: FakeClock,
    database_url: str,
    pool: asyncpg.Pool,
    unreachable_pool: asyncpg.Pool,
) -> AsyncIterator[ApiClient]:
    """All endpoints on a daemon that lacks a store."""
    config = load({"DATABASE_URL": database_url, "FRONTEND_URL": "https://flowstate.example"})
    recipients, schedules = None, None
    if request.param != "no Postgres":
        used = unreachable_pool if request.param == "Postgres away" else pool
        recipients, schedules = build_recipients(used, clock), build_manual_runs(config, used, clock)
    if request.param == "no tables":
        await pool.execute("DROP SCHEMA flowstate_daemon CASCADE; DROP TABLE users CASCADE")
    if request.param == "Redis away":
        connection = Connection("redis://127.0.0.1:1/0", client_name=keys.client_name)
    async with serve_api(build_operator(connection, keys, clock, recipients, schedules)) as api:
        yield api


@pytest.mark.timeout(MAX_RUN_S + 60)
async def test_no_request_breaks_the_api_without_a_store(crippled_api: ApiClient, tmp_path: Path) -> None:
    """Every answer is documented, also that a store is unavailable."""
    check_every_operation_was_tested(crippled_api, await fuzz(crippled_api, tmp_path, *QUICK, checks=OUTAGE_CHECKS))
