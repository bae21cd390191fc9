"""The API over a real socket and real stores: it requires a token, explains refusals and returns no codes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs

from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.web.api import Api
from flowstate_daemon.web.auth import ANONYMOUS_BURST, AUTHENTICATED_BURST, BearerAuth
from tests.integration.web.conftest import serve
from tests.support.clock import FakeClock
from tests.support.ledger_entries import outcome

TOKEN, OLD_TOKEN = "t" * 40, "o" * 40
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def client(
    pool: asyncpg.Pool, connection: Connection, keys: Keys, clock: FakeClock
) -> AsyncIterator[ClientSession]:
    recipients = (Suppressions(pool, clock), MailHistory(pool))
    api = Api(BearerAuth([TOKEN, OLD_TOKEN], clock), Inspector(connection, keys), recipients)
    async with serve(api.routes()) as client:
        yield client


async def get(client: ClientSession, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    async with client.get(path, headers=BEARER if headers is None else headers) as response:
        return response.status, await response.json()


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": "Bearer ü"},
    ],
)
async def test_request_without_a_valid_token_is_unauthorized(client: ClientSession, header: dict[str, str]) -> None:
    """The response is 401 with a challenge, the log has a remedy, and neither contains the token that was sent."""
    with capture_logs() as events:
        async with client.get("/api/v1/queue", headers=header) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert await response.json() == {"error": "Unauthorized"}
    (event,) = events
    assert (event["event"], event["log_level"]) == ("api_unauthorized", "warning")
    assert "FLOWSTATE_HTTP_API_TOKEN" in event["remedy"]
    assert "ttt" not in str(event)


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer {OLD_TOKEN}"])
async def test_every_configured_token_is_accepted(client: ClientSession, header: str) -> None:
    """The case of the scheme does not matter, and during a rotation both tokens are valid."""
    assert (await get(client, "/api/v1/queue", {"Authorization": header}))[0] == 200


async def test_anonymous_requests_do_not_use_up_the_limit_of_a_token(client: ClientSession, clock: FakeClock) -> None:
    """After too many wrong tokens the response is 429; requests with a valid token have a limit of their own."""
    anonymous = [(await get(client, "/api/v1/queue", {"Authorization": "Bearer x"}))[0] for _ in range(25)]
    assert anonymous.count(401) == int(ANONYMOUS_BURST)
    assert anonymous[-1] == 429
    authenticated = [(await get(client, "/api/v1/queue"))[0] for _ in range(65)]
    assert authenticated.count(200) == int(AUTHENTICATED_BURST)
    assert authenticated[-1] == 429
    clock.advance(1.0)
    assert (await get(client, "/api/v1/queue"))[0] == 200


async def test_queue_returns_counts_without_job_data(
    client: ClientSession, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """The response has counts and timestamps, and never the code of a waiting job."""
    producer = MailProducer(BullQueue(connection, keys, clock, token="api"), attempts=4, backoff_ms=2000)
    await producer.enqueue(NewMail("otp", "ada@example.org", {"otpCode": "493027"}))
    status, document = await get(client, "/api/v1/queue")
    assert (status, document["wait"], document["oldest_waiting_ms"]) == (200, 1, clock.now_ms())
    assert "493027" not in str(document)


async def test_explain_returns_suppressions_and_emails(
    client: ClientSession, pool: asyncpg.Pool, clock: FakeClock
) -> None:
    """The document is that of the command `explain`: the suppressions of the address, and each email."""
    await Ledger(pool, clock).write([outcome(1)])
    await Suppressions(pool, clock).add("ada@example.org", "manual")
    status, document = await get(client, "/api/v1/explain?address=Ada@example.org")
    assert (status, document["suppressed"]) == (200, ["manual"])
    assert [mail["job_id"] for mail in document["mails"]] == ["1"]


@pytest.mark.parametrize("query", ["", "?address=ada", "?address=ada@example.org&limit=0", "?address=a@b.cc&limit=٣"])
async def test_invalid_parameter_is_named_in_the_reason(client: ClientSession, query: str) -> None:
    """The response is 400, and its reason names the parameter and what is expected."""
    status, document = await get(client, f"/api/v1/explain{query}")
    assert status == 400
    assert document["reason"].startswith(("address: expected", "limit: expected"))


async def test_missing_schema_is_service_unavailable(client: ClientSession, pool: asyncpg.Pool) -> None:
    """The response is 503 and its reason has the remedy, instead of 500."""
    await pool.execute("DROP SCHEMA flowstate_daemon CASCADE")
    status, document = await get(client, "/api/v1/explain?address=ada@example.org")
    assert status == 503
    assert "flowstate-daemon migrate" in document["reason"]


async def test_api_is_disabled_without_a_configured_token(clock: FakeClock) -> None:
    """Every path is 404, and the log names once the setting that enables the API."""
    with capture_logs() as events:
        async with serve(BearerAuth([], clock).disabled_routes()) as client:
            for path in ("/api/v1/queue", "/api/v1/schedules/x/run", "/api/v1/"):
                assert (await get(client, path))[0] == 404
    (event,) = [event for event in events if event["event"] == "api_disabled"]
    assert "FLOWSTATE_HTTP_API_TOKEN" in event["remedy"]
