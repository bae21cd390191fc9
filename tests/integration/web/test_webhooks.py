"""The provider's webhooks over a real socket and a real Postgres: stored once, or rejected without an effect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from aiohttp import ClientSession, web
from structlog.testing import capture_logs

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.logs import LogThrottle
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.pool import acquire, open_pool
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.delivery.webhooks import WebhookVerifier
from flowstate_daemon.mail.policy import decide
from flowstate_daemon.web.bodies import read_body
from flowstate_daemon.web.webhooks import MAX_BODY_BYTES, Webhooks
from tests.integration.web.conftest import serve
from tests.support.clock import FakeClock
from tests.support.ledger_entries import outcome
from tests.support.proxy import FaultProxy
from tests.support.svix import SECRET, report, signed
from tests.unit.mail.rendered_mails import sample

CLOCK = Clock()
PERMANENT = report("email.bounced", bounce={"type": "Permanent", "message": "no such user"})


def webhook_routes(pool: asyncpg.Pool) -> list[web.RouteDef]:
    return list(Webhooks(WebhookVerifier([SECRET], CLOCK), Ledger(pool, CLOCK), CLOCK, "flowstate.example").routes())


@pytest.fixture
async def client(pool: asyncpg.Pool) -> AsyncIterator[ClientSession]:
    async with serve(webhook_routes(pool)) as client:
        yield client


@pytest.fixture
async def hanging_pool(pool: asyncpg.Pool, database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool on a Postgres that accepts connections and never answers."""
    url = urlsplit(database_url)
    async with FaultProxy(parse_qs(url.query)["host"][0], 5432) as proxy:
        proxy.freeze()
        async with open_pool(clean_dsn(f"postgresql://postgres@{proxy.host}:{proxy.port}{url.path}")) as hanging_pool:
            yield hanging_pool
            proxy.unfreeze()


async def post(client: ClientSession, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, object]:
    """Post a webhook, with valid signature headers unless others are given."""
    request_headers = signed(body) if headers is None else headers
    async with client.post("/webhooks/resend", data=body, headers=request_headers) as response:
        return response.status, await response.json()


async def stored_events(pool: asyncpg.Pool) -> list[asyncpg.Record]:
    async with acquire(pool) as connection:
        return list(await connection.fetch("SELECT * FROM flowstate_daemon.provider_events ORDER BY svix_id"))


async def test_hard_bounce_is_stored_and_suppresses_the_address(client: ClientSession, pool: asyncpg.Pool) -> None:
    """Before the response is 200, the event and the suppression are stored, once for repeated webhooks too."""
    await Ledger(pool, CLOCK).write([outcome()])
    with capture_logs() as events:
        assert await post(client, PERMANENT) == (200, {"recorded": 1})
        assert await post(client, PERMANENT) == (200, {"recorded": 0})
    (row,) = await stored_events(pool)
    assert (row["svix_id"], row["provider_id"], row["type"], row["address"]) == (
        "msg_1", "re-1", "bounced", "ada@example.org",
    )  # fmt: skip
    assert [held.reason for held in await Suppressions(pool, CLOCK).find("Ada@example.org")] == ["bounced"]
    assert [event["recipient"] for event in events] == ["a***@example.org"]


@pytest.mark.parametrize(
    ("sender", "obeyed"),
    [
        ("FlowState <hello@flowstate.example>", True),
        ("Été, Inc. <hello@FLOWSTATE.example>", True),
        ("hello@flowstate.example", True),
        ("News <hello@news.example>", False),
        ("hello@mail.flowstate.example", False),
        ("flowstate.example <x@news.example>", False),
        (None, False),
        (7, False),
    ],
)
async def test_complaint_about_another_sender_is_only_noted(
    client: ClientSession, pool: asyncpg.Pool, sender: object, obeyed: bool
) -> None:
    """Several brands may use one account: only complaints about our own sender's domain suppress the person here."""
    body = report("email.complained", **{"from": sender})
    with capture_logs() as events:
        assert await post(client, body) == (200, {"recorded": 1})
    assert [event["event"] for event in events] == ["address_suppressed" if obeyed else "report_noted"]
    found = await Suppressions(pool, CLOCK).find("ada@example.org")
    assert [one.reason for one in found] == (["complained"] if obeyed else [])
    assert "ada@" not in str(events)


async def test_bounce_of_an_unknown_email_is_only_noted(client: ClientSession, pool: asyncpg.Pool) -> None:
    """Neither its id nor its address is in the ledger: it was not ours, or its outcome is still on the way."""
    assert await post(client, PERMANENT) == (200, {"recorded": 1})
    assert await Suppressions(pool, CLOCK).find("ada@example.org") == []
    await Ledger(pool, CLOCK).write([outcome()])
    assert [one.reason for one in await Suppressions(pool, CLOCK).find("ada@example.org")] == ["bounced"]


async def test_suppressed_email_suppresses_until_the_provider_lifts_it(
    client: ClientSession, pool: asyncpg.Pool
) -> None:
    """The provider delivers nothing to such an address, so nothing is sent to it, until it says that it does again."""
    await Ledger(pool, CLOCK).write([outcome()])
    suppressions = Suppressions(pool, CLOCK)
    body = report(
        "email.suppressed", suppressed={"message": "on the account's list", "type": "OnAccountSuppressionList"}
    )
    assert await post(client, body) == (200, {"recorded": 1})
    (found,) = await suppressions.find("ada@example.org")
    assert (found.reason, found.note) == ("suppressed", "OnAccountSuppressionList: on the account's list")
    status = (await suppressions.status_for(["Ada@example.org"]))["Ada@example.org"]
    for kind in ("otp", "welcome", "task-reminder"):
        assert decide(sample(kind), status, now_ms=CLOCK.now_ms(), created_ms=CLOCK.now_ms()).outcome == "skipped"
    lifted = report("suppression.removed", id="s-1", email="Ada@Example.org", created_at="2026-03-02T09:00:00Z")
    for _ in range(2):
        assert (await post(client, lifted, signed(lifted, svix_id="msg_2")))[0] == 200
    assert await suppressions.find("ada@example.org") == []


async def test_concurrent_copies_are_stored_once(client: ClientSession, pool: asyncpg.Pool) -> None:
    """The same event on twenty connections at the same time is stored once, and every response is 200."""
    responses = await asyncio.gather(*(post(client, PERMANENT) for _ in range(20)))
    assert {status for status, _ in responses} == {200}
    assert len(await stored_events(pool)) == 1


async def test_events_are_stored_in_any_order(client: ClientSession, pool: asyncpg.Pool) -> None:
    """`delivered` before `sent`, an unknown email and an unknown type are stored like any other event."""
    for number, event_type in enumerate(("email.opened", "email.delivered", "email.sent", "email.levitated")):
        body = report(event_type)
        assert await post(client, body, signed(body, svix_id=f"msg_{number}")) == (200, {"recorded": 1})
    assert [row["type"] for row in await stored_events(pool)] == ["opened", "delivered", "sent", "levitated"]


async def test_event_that_is_not_about_an_email_is_acknowledged(client: ClientSession, pool: asyncpg.Pool) -> None:
    """The response is 200 so that the provider does not repeat it, and nothing is stored."""
    assert await post(client, report("domain.updated")) == (200, {"recorded": 0})
    assert await stored_events(pool) == []


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (PERMANENT, {}, 401),
        (PERMANENT, signed(PERMANENT + b" "), 401),
        (PERMANENT, signed(PERMANENT, secret="whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"), 401),
        (PERMANENT, signed(PERMANENT, sent_s=1_000), 401),
        (b"", signed(b""), 401),
        (b"[]", None, 400),
        (b"nonsense", None, 400),
        (b" " * (MAX_BODY_BYTES + 1), None, 413),
    ],
)
async def test_rejected_webhook_changes_nothing(
    client: ClientSession, pool: asyncpg.Pool, body: bytes, headers: dict[str, str] | None, status: int
) -> None:
    """A forged, stale, malformed or oversized webhook gets its status, is not stored, and is logged once."""
    with capture_logs() as events:
        for _ in range(3):
            assert (await post(client, body, headers))[0] == status
    assert [event["event"] for event in events] == ["webhook_rejected"]
    assert await stored_events(pool) == []


async def test_body_is_read_up_to_the_size_limit(client: ClientSession) -> None:
    """A body of exactly the limit is accepted; a longer one is rejected even without a `Content-Length`."""
    padding = MAX_BODY_BYTES - len(report("email.sent", padding=""))
    body = report("email.sent", padding="x" * padding)
    assert len(body) == MAX_BODY_BYTES
    assert await post(client, body) == (200, {"recorded": 1})

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 65_536

    async with client.post("/webhooks/resend", data=chunks(), headers=signed(b"")) as response:
        assert response.status == 413


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_only_post_is_accepted(client: ClientSession, pool: asyncpg.Pool, method: str) -> None:
    """Other methods get status 405 and store nothing, even with a valid signature."""
    async with client.request(method, "/webhooks/resend", data=PERMANENT, headers=signed(PERMANENT)) as response:
        assert response.status == 405
    assert await stored_events(pool) == []


async def test_webhook_is_unavailable_without_postgres(unreachable_pool: asyncpg.Pool) -> None:
    """An event that could not be stored gets status 503 with `Retry-After`, so that the provider repeats it."""
    async with serve(webhook_routes(unreachable_pool)) as client:
        with capture_logs() as events:
            headers = signed(PERMANENT)
            async with client.post("/webhooks/resend", data=PERMANENT, headers=headers) as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) > 0
        assert [event["event"] for event in events] == ["webhook_rejected"]


async def test_webhook_is_unavailable_while_postgres_hangs(
    hanging_pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Postgres never answers, the provider gets status 503 after the timeout."""
    monkeypatch.setattr("flowstate_daemon.web.webhooks.STORE_TIMEOUT_S", 0.05)
    async with serve(webhook_routes(hanging_pool)) as client:
        assert (await post(client, PERMANENT))[0] == 503


async def test_body_that_never_arrives_times_out(client: ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that announces a body and never sends it gets status 408."""
    monkeypatch.setitem(read_body.__kwdefaults__, "within_s", 0.05)
    assert client._base_url is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", client._base_url.port)
    lines = "".join(f"{name}: {value}\r\n" for name, value in signed(b"").items())
    writer.write(f"POST /webhooks/resend HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: 100\r\n\r\n{{".encode())
    async with asyncio.timeout(10):
        assert b" 408 " in await reader.readline()
    writer.close()


def test_log_throttle_allows_one_event_per_minute(clock: FakeClock) -> None:
    """One event per minute is allowed, with the number of suppressed ones, so that the log cannot be flooded."""
    throttle = LogThrottle(clock)
    assert [throttle.acquire() for _ in range(4)] == [0, None, None, None]
    clock.advance(59.0)
    assert throttle.acquire() is None
    clock.advance(1.0)
    assert throttle.acquire() == 4
    assert throttle.acquire() is None


async def test_each_new_event_is_counted_once(pool: asyncpg.Pool) -> None:
    """By its type; not when it arrives again, is forged or cannot be stored."""
    metrics = Metrics()
    verifier, ledger = WebhookVerifier([SECRET], CLOCK), Ledger(pool, CLOCK)
    webhooks = Webhooks(verifier, ledger, CLOCK, "flowstate.example", on_event=metrics.provider_event)
    async with serve(webhooks.routes()) as client:
        await post(client, PERMANENT)
        await post(client, PERMANENT)
        await post(client, report("email.future_type"), signed(report("email.future_type"), svix_id="msg_2"))
        await post(client, PERMANENT, {})

    def value(event: str) -> float | None:
        return metrics.registry.get_sample_value("flowstate_provider_events_total", {"event": event})

    assert [value(event) for event in ("bounced", "other", "delivered")] == [1, 1, 0]
