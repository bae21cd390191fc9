"""The API for preferences, over a real socket and a real Postgres: closed, complete, and the same as the page."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from flowstate_daemon.database.preferences import PreferenceStore, RecipientSettings
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.clock import FakeClock
from tests.support.operator_api import OPERATE, READ, ApiClient, build_operator, build_recipients, serve_api

PATH = "/recipients/ada@example.org/preferences"
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


NO_JSON = (b"", b" ", b"{", b'"\xff"')


@pytest.fixture
async def api(pool: asyncpg.Pool, connection: Connection, keys: Keys, clock: FakeClock) -> AsyncIterator[ApiClient]:
    async with serve_api(build_operator(connection, keys, clock, build_recipients(pool, clock))) as api:
        yield api


async def call(
    api: ApiClient, method: str, path: str = PATH, body: Any = None, token: str = OPERATE
) -> tuple[int, Any]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    return await api.call(method, path, token=token, data=data)


async def test_routes_require_a_token(api: ApiClient) -> None:
    """Without a token both methods are refused, with one that may only read PUT is, and nothing is said or changed."""
    for method in ("GET", "PUT"):
        assert (await call(api, method, body=FULL, token="x" * 40))[0] == 401
    assert (await call(api, "PUT", body=FULL, token=READ))[0] == 403
    assert (await call(api, "GET", token=READ))[1]["preferences"] == EMPTY


async def test_everything_can_be_read_and_written(api: ApiClient, pool: asyncpg.Pool, clock: FakeClock) -> None:
    """What PUT stores is what GET returns, what `explain` shows, and what emails are decided with."""
    assert await call(api, "GET") == (200, {"address": "ada@example.org", "suppressed": [], "preferences": EMPTY})
    with capture_logs() as events:
        status, document = await call(api, "PUT", body=FULL)
    assert (status, document["preferences"]) == (200, FULL)
    assert "ada@example.org" not in str(events)
    audit = (await api.get("/audit"))[1]["entries"]
    assert [(entry["action"], entry["target"], entry["count"]) for entry in audit] == [
        ("preferences set", "ada@example.org", 1)
    ]
    assert await call(api, "PUT", body=document["preferences"]) == (200, document)
    assert (await call(api, "GET", "/recipients/Ada%40Example.org/preferences"))[1]["preferences"] == FULL
    _, explained = await call(api, "GET", "/recipients/ada@example.org")
    assert explained["unsubscribed"] == ["*", "goal-milestone"]
    assert explained["preferences"] == {
        "language": "fr", "time_zone": "Asia/Tokyo", "morning_hour": 6, "overdue_summary": "weekly",
        "paused_until": "2026-03-09T00:00:00Z", "enabled_kinds": ["task-reminder"],
    }  # fmt: skip
    assert (await call(api, "PUT", body={}))[1]["preferences"] == EMPTY
    assert await PreferenceStore(pool, clock).load("ada@example.org") == RecipientSettings()


async def test_suppression_is_shown_and_not_changed(api: ApiClient, pool: asyncpg.Pool, clock: FakeClock) -> None:
    """An address that bounced gets no email whatever is chosen, and the document says so."""
    await Suppressions(pool, clock).add("ada@example.org", "bounced")
    assert (await call(api, "PUT", body=FULL))[1]["suppressed"] == ["bounced"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "body"),
        (b" ", "body"),
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
async def test_invalid_body_names_every_mistake_and_changes_nothing(api: ApiClient, body: Any, named: str) -> None:
    """422 with the path of each mistake, without its value; 400 for what is no JSON, an empty body included."""
    await call(api, "PUT", body=FULL)
    status, document = await call(api, "PUT", body=body)
    assert status == (400 if body in NO_JSON else 422)
    assert named in document["detail"]
    assert "tlh" not in document["detail"]
    assert (await call(api, "GET"))[1]["preferences"] == FULL


@pytest.mark.parametrize("address", ["x", "a b@example.org", "%00", "ada@localhost", "a" * 300 + "@example.org"])
async def test_invalid_address_is_refused(api: ApiClient, address: str) -> None:
    """What is no address gets 400 with what is expected."""
    for method in ("GET", "PUT"):
        status, document = await call(api, method, f"/recipients/{address}/preferences", {})
        assert (status, document["detail"]) == (400, "address: expected an email address in the path")


async def test_large_body_is_refused(api: ApiClient) -> None:
    """A body above eight kilobytes gets 413."""
    assert (await call(api, "PUT", body=b" " * 10_000))[0] == 413
