"""The API for preferences, over a real socket and a real Postgres: closed, complete, and the same as the page."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs

from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.database.preferences import PreferenceStore, RecipientSettings
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.catalog import built_in_catalog
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.web.api import Api
from flowstate_daemon.web.auth import BearerAuth
from flowstate_daemon.web.recipients_api import RecipientsApi
from tests.integration.web.conftest import serve
from tests.support.clock import FakeClock

TOKEN = "t" * 40
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PATH = "/api/v1/recipients/ada@example.org/preferences"
EMPTY = {
    "language": None, "time_zone": None, "morning_hour": None, "overdue_summary": None, "paused_until": None,
    "all_off": False,
    "kinds": dict.fromkeys(
        ("task-reminder", "overdue-summary", "goal-milestone", "streak-milestone", "focus-report")
    ),
}  # fmt: skip
FULL = {
    "language": "fr", "time_zone": "Asia/Tokyo", "morning_hour": 6, "overdue_summary": "weekly",
    "paused_until": "2026-03-09T00:00:00Z", "all_off": True,
    "kinds": {**EMPTY["kinds"], "task-reminder": True, "goal-milestone": False},  # type: ignore[dict-item]
}  # fmt: skip


@pytest.fixture
async def client(
    pool: asyncpg.Pool, connection: Connection, keys: Keys, clock: FakeClock
) -> AsyncIterator[ClientSession]:
    auth = BearerAuth([TOKEN], clock)
    api = Api(auth, Inspector(connection, keys), (Suppressions(pool, clock), MailHistory(pool)))
    recipients = RecipientsApi(auth, PreferenceStore(pool, clock), built_in_catalog().unsubscribable)
    async with serve([*api.routes(), *recipients.routes()]) as client:
        yield client


async def call(client: ClientSession, method: str, path: str = PATH, body: Any = None) -> tuple[int, Any]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    async with client.request(method, path, data=data, headers=BEARER) as response:
        return response.status, await response.json()


async def test_routes_require_a_token(client: ClientSession) -> None:
    """Without the token both methods are refused, and nothing about the address is said."""
    for method in ("GET", "PUT"):
        async with client.request(method, PATH, data=json.dumps(FULL)) as response:
            assert response.status == 401


async def test_everything_can_be_read_and_written(client: ClientSession, pool: asyncpg.Pool, clock: FakeClock) -> None:
    """What PUT stores is what GET returns, what `explain` shows, and what emails are decided with."""
    assert await call(client, "GET") == (200, {"address": "ada@example.org", "suppressed": [], "preferences": EMPTY})
    with capture_logs() as events:
        status, document = await call(client, "PUT", body=FULL)
    assert (status, document["preferences"]) == (200, FULL)
    assert "ada@example.org" not in str(events)
    assert await call(client, "PUT", body=document["preferences"]) == (200, document)
    assert (await call(client, "GET", "/api/v1/recipients/Ada%40Example.org/preferences"))[1]["preferences"] == FULL
    _, explained = await call(client, "GET", "/api/v1/explain?address=ada@example.org")
    assert explained["unsubscribed"] == ["*", "goal-milestone"]
    assert explained["preferences"] == {
        "language": "fr", "time_zone": "Asia/Tokyo", "morning_hour": 6, "overdue_summary": "weekly",
        "paused_until": "2026-03-09T00:00:00Z", "enabled_kinds": ["task-reminder"],
    }  # fmt: skip
    assert (await call(client, "PUT", body={}))[1]["preferences"] == EMPTY
    assert await PreferenceStore(pool, clock).load("ada@example.org") == RecipientSettings()


async def test_suppression_is_shown_and_not_changed(
    client: ClientSession, pool: asyncpg.Pool, clock: FakeClock
) -> None:
    """An address that bounced gets no email whatever is chosen, and the document says so."""
    await Suppressions(pool, clock).add("ada@example.org", "bounced")
    assert (await call(client, "PUT", body=FULL))[1]["suppressed"] == ["bounced"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b'"\xff"', "body"),
        ({"surprise": 1}, "surprise"),
        ({"language": "tlh"}, "language"),
        ({"language": 7}, "language"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"time_zone": "paris"}, "time_zone"),
        ({"time_zone": "../../etc/passwd"}, "time_zone"),
        ({"morning_hour": 4}, "morning_hour"),
        ({"morning_hour": "6"}, "morning_hour"),
        ({"morning_hour": 6.5}, "morning_hour"),
        ({"morning_hour": True}, "morning_hour"),
        ({"overdue_summary": "hourly"}, "overdue_summary"),
        ({"paused_until": "2026-03-09T00:00:00"}, "paused_until"),
        ({"paused_until": "9999-12-31T23:59:59-12:00"}, "paused_until"),
        ({"paused_until": 1e300}, "paused_until"),
        ({"all_off": "yes"}, "all_off"),
        ({"all_off": None}, "all_off"),
        ({"kinds": {"otp": False}}, "kinds"),
        ({"kinds": {"*": False}}, "kinds"),
        ({"kinds": {"task-reminder": "off"}}, "kinds"),
        ({"kinds": ["task-reminder"]}, "kinds"),
        ({"language": "tlh", "morning_hour": 99}, "morning_hour"),
    ],
)
async def test_invalid_body_names_every_mistake_and_changes_nothing(
    client: ClientSession, body: Any, named: str
) -> None:
    """422 with the path of each mistake, without its value."""
    await call(client, "PUT", body=FULL)
    status, document = await call(client, "PUT", body=body)
    assert status == 422
    assert named in document["reason"]
    assert "tlh" not in document["reason"]
    assert (await call(client, "GET"))[1]["preferences"] == FULL


@pytest.mark.parametrize("address", ["x", "a b@example.org", "%00", "ada@localhost", "a" * 400 + "@example.org"])
async def test_invalid_address_is_refused(client: ClientSession, address: str) -> None:
    """What is no address gets 400 with what is expected."""
    for method in ("GET", "PUT"):
        status, document = await call(client, method, f"/api/v1/recipients/{address}/preferences", {})
        assert (status, document["reason"]) == (400, "address: expected an email address in the path")


async def test_large_body_is_refused(client: ClientSession) -> None:
    """A body above eight kilobytes gets 413."""
    assert (await call(client, "PUT", body=b" " * 10_000))[0] == 413
