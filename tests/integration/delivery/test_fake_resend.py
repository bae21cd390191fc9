"""The fake provider itself: it must be as strict as the documentation, or tests with it prove nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.clock import FakeClock
from tests.support.fake_resend import API_KEY, Answer, FakeResend
from tests.support.waiting import eventually

GOOD = {"from": "F <f@flowstate.dev>", "to": "ada@mail.dev", "subject": "Hi", "html": "<p>Hi</p>"}
AUTH = {"Authorization": f"Bearer {API_KEY}"}


class Client:
    """Sends plain requests, without the transport of the daemon."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self.headers: dict[str, str] = {}

    async def post(self, body: Any, path: str = "/emails", **headers: str) -> tuple[int, Any]:
        request_headers = AUTH | {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.post(self._url + path, json=body, headers=request_headers) as response:
            self.headers = {name.lower(): value for name, value in response.headers.items()}
            content = await response.text()
            return response.status, json.loads(content) if content.startswith("{") else content


@pytest.fixture
async def client(fake: FakeResend) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(session, fake.url)


async def assert_rejected(client: Client, status: int, name: str, body: Any = GOOD, **headers: str) -> str:
    """Post the body, check status and error name, and return the error message."""
    actual_status, answer = await client.post(body, **headers)
    assert (actual_status, answer["statusCode"], answer["name"]) == (status, status, name)
    return str(answer["message"])


async def test_user_agent_and_key_are_required(client: Client, fake: FakeResend) -> None:
    """Without a User-Agent the edge rejects the request; then the key must be present and valid."""
    assert await client.post(GOOD, User_Agent="") == (403, "error code: 1010")
    await assert_rejected(client, 401, "missing_api_key", Authorization="Bearer None")
    await assert_rejected(client, 403, "invalid_api_key", Authorization="Bearer re_Wrong")
    assert fake.accepted == []


@pytest.mark.parametrize(
    ("changes", "status", "name"),
    [
        ({"from": None}, 422, "missing_required_field"),
        ({"to": []}, 422, "missing_required_field"),
        ({"subject": ""}, 422, "missing_required_field"),
        ({"html": None}, 422, "validation_error"),
        ({"from": "nobody"}, 422, "validation_error"),
        ({"to": ["ada@mail.dev", "Ada"]}, 422, "validation_error"),
        ({"to": ["ada@mail.dev"] * 51}, 422, "validation_error"),
        ({"to": "ada@test.com"}, 422, "validation_error"),
        ({"subject": "a\nb"}, 422, "validation_error"),
        ({"headers": {"X": 1}}, 422, "validation_error"),
        ({"tags": [{"name": "a b", "value": "c"}]}, 422, "validation_error"),
    ],
)
async def test_invalid_mail_is_rejected_with_its_type(
    client: Client, fake: FakeResend, changes: dict[str, Any], status: int, name: str
) -> None:
    """Each documented error of an email has its type."""
    await assert_rejected(client, status, name, GOOD | changes)
    assert fake.accepted == []


async def test_key_is_remembered_for_a_day(client: Client, fake: FakeResend) -> None:
    """A key belongs to its request for 24 h; the same request in progress is a conflict; keys have a length."""
    fake.clock = fake.memory.clock = clock = FakeClock()
    first = await client.post(GOOD, Idempotency_Key="k")
    assert await client.post(GOOD, Idempotency_Key="k") == first
    await assert_rejected(client, 409, "invalid_idempotent_request", GOOD | {"subject": "b"}, Idempotency_Key="k")
    await assert_rejected(client, 400, "invalid_idempotency_key", Idempotency_Key="k" * 257)
    clock.advance(24 * 3600)
    assert await client.post(GOOD, Idempotency_Key="k") != first
    assert (len(fake.accepted), len(fake.duplicates())) == (2, 1)
    fake.hold()
    in_progress = asyncio.create_task(client.post(GOOD, Idempotency_Key="slow"))
    await eventually(lambda: fake.memory.in_progress, "the request is in progress")
    await assert_rejected(client, 409, "concurrent_idempotent_requests", Idempotency_Key="slow")
    fake.release()
    assert (await in_progress)[0] == 200


async def test_rejected_request_does_not_use_its_key(client: Client) -> None:
    """Only accepted requests are remembered: a corrected email may use the key again."""
    await assert_rejected(client, 422, "missing_required_field", GOOD | {"to": ""}, Idempotency_Key="k")
    assert (await client.post(GOOD, Idempotency_Key="k"))[0] == 200


async def test_rate_limit_counts_per_second(client: Client, fake: FakeResend) -> None:
    """Two per second means two in each whole second, with headers on every response and no burst."""
    fake.rate.clock = clock = FakeClock()
    fake.rate.limit = 2
    for remaining in ("1", "0"):
        assert (await client.post(GOOD))[0] == 200
        assert client.headers["ratelimit-remaining"] == remaining
    await assert_rejected(client, 429, "rate_limit_exceeded")
    assert (client.headers["retry-after"], client.headers["ratelimit-limit"]) == ("1", "2")
    clock.advance(1)
    assert (await client.post(GOOD))[0] == 200


async def test_quotas_count_recipients(client: Client, fake: FakeResend) -> None:
    """Recipients are counted by day and month, the amount used is reported, and the rest is rejected."""
    fake.quotas.clock = clock = FakeClock()
    fake.quotas.daily, fake.quotas.monthly = 2, 3
    assert (await client.post(GOOD | {"to": ["a@mail.dev", "b@mail.dev"]}))[0] == 200
    assert (client.headers["x-resend-daily-quota"], client.headers["x-resend-monthly-quota"]) == ("2", "2")
    await assert_rejected(client, 429, "daily_quota_exceeded")
    clock.advance(24 * 3600)
    assert (await client.post(GOOD))[0] == 200
    await assert_rejected(client, 429, "monthly_quota_exceeded")


async def test_batch_is_strict_unless_permissive(client: Client, fake: FakeResend) -> None:
    """A strict batch is all or nothing, a permissive one names the invalid emails; 100 at most, no attachments."""
    invalid = GOOD | {"to": "nobody"}
    status, answer = await client.post([GOOD, GOOD | {"to": "bob@mail.dev"}], "/emails/batch", Idempotency_Key="b")
    assert (status, [row["id"] for row in answer["data"]]) == (200, [mail.id for mail in fake.accepted])
    assert (await client.post([GOOD, invalid], "/emails/batch"))[0] == 422
    assert (await client.post([GOOD] * 101, "/emails/batch"))[0] == 422
    assert (await client.post([GOOD | {"attachments": []}], "/emails/batch"))[0] == 422
    assert len(fake.accepted) == 2
    status, answer = await client.post([invalid, GOOD], "/emails/batch", x_batch_validation="permissive")
    assert (status, len(answer["data"]), [row["index"] for row in answer["errors"]]) == (200, 1, [0])


async def test_scripted_answers_are_used_in_order(client: Client, fake: FakeResend) -> None:
    """By matching requests, as often as scripted; `accept` also processes the request."""
    fake.script(Answer(500), when=lambda incoming: incoming.key == "failing", times=2)
    fake.script(Answer(503, "", accept=True))
    assert [(await client.post(GOOD, Idempotency_Key="failing"))[0] for _ in range(2)] == [500, 500]
    assert fake.accepted == []
    assert (await client.post(GOOD, Idempotency_Key="failing"))[0] == 503
    assert (await client.post(GOOD, Idempotency_Key="failing"))[0] == 200
    assert len(fake.accepted) == 1


async def test_separate_process_keeps_a_journal(tmp_path: Path) -> None:
    """It prints its address, records an email before it responds, and ends on SIGTERM."""
    journal = tmp_path / "journal"
    arguments = ("-m", "tests.support.fake_resend", "--journal", str(journal))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    url = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
    async with aiohttp.ClientSession() as session:
        status, answer = await Client(session, url).post(GOOD, Idempotency_Key="k")
    row = json.loads(journal.read_text())
    assert (status, row["id"], row["key"], row["to"]) == (200, answer["id"], "k", ["ada@mail.dev"])
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0
