"""The API over a real socket and real stores: closed without a token, plain refusals, answers without codes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs

from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.web.api import Api
from flowstate_daemon.web.auth import ANONYMOUS_BURST, AUTHENTICATED_BURST, BearerAuth
from flowstate_daemon.web.server import HttpServer
from tests.support.clock import FakeClock
from tests.support.ledger_entries import outcome

TOKEN, OLD = "t" * 40, "o" * 40
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool).apply()
        yield pool


@pytest.fixture
async def client(
    pool: asyncpg.Pool, connection: Connection, keys: Keys, clock: FakeClock
) -> AsyncIterator[ClientSession]:
    recipients = (Suppressions(pool, clock), MailHistory(pool))
    routes = Api(BearerAuth([TOKEN, OLD], clock), Inspector(connection, keys), recipients).routes()
    endpoint = HttpServer(routes, host="127.0.0.1", port=0)
    await endpoint.open()
    async with ClientSession(f"http://127.0.0.1:{endpoint.bound_port}") as session:
        yield session
    await endpoint.close()


async def got(client: ClientSession, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
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
async def test_nobody_comes_in_without_a_token(client: ClientSession, header: dict[str, str]) -> None:
    """401 with the challenge, a remedy in the log, and what was tried in neither."""
    with capture_logs() as events:
        async with client.get("/api/v1/queue", headers=header) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert await response.json() == {"error": "Unauthorized"}
    (event,) = events
    assert (event["event"], event["log_level"]) == ("api_unauthorized", "warning")
    assert "FLOWSTATE_HTTP_API_TOKEN" in event["remedy"]
    assert "ttt" not in str(event)


@pytest.mark.parametrize("word", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer {OLD}"])
async def test_each_token_opens(client: ClientSession, word: str) -> None:
    """The scheme's case does not matter, and while tokens are changed both are good."""
    assert (await got(client, "/api/v1/queue", {"Authorization": word}))[0] == 200


async def test_strangers_do_not_lock_out_who_has_a_token(client: ClientSession, clock: FakeClock) -> None:
    """After some wrong tokens a stranger reads 429; the owner goes on, within bounds of their own."""
    tried = [(await got(client, "/api/v1/queue", {"Authorization": "Bearer x"}))[0] for _ in range(25)]
    assert tried.count(401) == int(ANONYMOUS_BURST)
    assert tried[-1] == 429
    mine = [(await got(client, "/api/v1/queue"))[0] for _ in range(65)]
    assert mine.count(200) == int(AUTHENTICATED_BURST)
    assert mine[-1] == 429
    clock.advance(1.0)
    assert (await got(client, "/api/v1/queue"))[0] == 200


async def test_the_queue_is_counted(
    client: ClientSession, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """Numbers and instants, no job's data: a waiting code is in no answer."""
    producer = MailProducer(BullQueue(connection, keys, clock, token="api"), attempts=4, backoff_ms=2000)
    await producer.enqueue(NewMail("otp", "ada@example.org", {"otpCode": "493027"}))
    status, document = await got(client, "/api/v1/queue")
    assert (status, document["wait"], document["oldest_waiting_ms"]) == (200, 1, clock.now_ms())
    assert "493027" not in str(document)


async def test_a_person_is_explained(client: ClientSession, pool: asyncpg.Pool, clock: FakeClock) -> None:
    """The same document as the command's: what stands against the address, and each mail."""
    await Ledger(pool, clock).write([outcome(1)])
    await Suppressions(pool, clock).add("ada@example.org", "manual")
    status, document = await got(client, "/api/v1/explain?address=Ada@example.org")
    assert (status, document["suppressed"]) == (200, ["manual"])
    assert [mail["job_id"] for mail in document["mails"]] == ["1"]


@pytest.mark.parametrize("query", ["", "?address=ada", "?address=ada@example.org&limit=0", "?address=a@b.cc&limit=٣"])
async def test_wrong_questions_are_told_what_was_expected(client: ClientSession, query: str) -> None:
    """400 names the parameter."""
    status, document = await got(client, f"/api/v1/explain{query}")
    assert status == 400
    assert document["reason"].startswith(("address: expected", "limit: expected"))


async def test_an_outage_is_told_as_one(client: ClientSession, pool: asyncpg.Pool) -> None:
    """503 with the reason, not a bug."""
    await pool.execute("DROP SCHEMA flowstate_daemon CASCADE")
    status, document = await got(client, "/api/v1/explain?address=ada@example.org")
    assert status == 503
    assert "flowstate-daemon migrate" in document["reason"]


async def test_without_a_token_there_is_no_api(clock: FakeClock) -> None:
    """Every path is unknown to everybody, and the log says once what would open it."""
    endpoint = HttpServer(BearerAuth([], clock).disabled_routes(), host="127.0.0.1", port=0)
    await endpoint.open()
    with capture_logs() as events:
        async with ClientSession(f"http://127.0.0.1:{endpoint.bound_port}") as client:
            for path in ("/api/v1/queue", "/api/v1/schedules/x/run", "/api/v1/"):
                assert (await got(client, path))[0] == 404
    await endpoint.close()
    (event,) = [event for event in events if event["event"] == "api_disabled"]
    assert "FLOWSTATE_HTTP_API_TOKEN" in event["remedy"]
