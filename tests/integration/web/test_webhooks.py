"""The provider's webhook over a real socket and a real Postgres: believed once, or refused without a trace."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import acquire, open_pool
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.delivery.webhooks import WebhookVerifier
from flowstate_daemon.mail.message import ProviderEvent
from flowstate_daemon.web.server import HttpServer, read_body
from flowstate_daemon.web.webhooks import MAX_BODY_BYTES, LogThrottle, Webhooks
from tests.support.clock import FakeClock
from tests.support.svix import SECRET, report, signed

CLOCK = Clock()
PERMANENT = report("email.bounced", bounce={"type": "Permanent", "message": "no such user"})


class HangingLedger(Ledger):
    """A ledger that never responds."""

    def __init__(self) -> None:
        """Needs no pool: every call hangs before it would use one."""

    async def record_events(self, events: Sequence[ProviderEvent]) -> int:
        await asyncio.Event().wait()
        return 0


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool).apply()
        yield pool


@pytest.fixture
async def client(pool: asyncpg.Pool) -> AsyncIterator[ClientSession]:
    async for session in serving(Ledger(pool, CLOCK)):
        yield session


async def serving(ledger: Ledger) -> AsyncIterator[ClientSession]:
    webhooks = Webhooks(WebhookVerifier([SECRET], CLOCK), ledger, CLOCK)
    endpoint = HttpServer(webhooks.routes(), host="127.0.0.1", port=0)
    await endpoint.open()
    async with ClientSession(f"http://127.0.0.1:{endpoint.bound_port}") as session:
        yield session
    await endpoint.close()


async def posted(client: ClientSession, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, object]:
    found = signed(body) if headers is None else headers
    async with client.post("/webhooks/resend", data=body, headers=found) as response:
        return response.status, await response.json()


async def stored(pool: asyncpg.Pool) -> list[asyncpg.Record]:
    async with acquire(pool) as connection:
        return list(await connection.fetch("SELECT * FROM flowstate_daemon.provider_events ORDER BY svix_id"))


async def test_a_hard_bounce_is_stored_and_suppresses(client: ClientSession, pool: asyncpg.Pool) -> None:
    """The event is in the ledger and the address on the list when the provider reads 200; once, however often told."""
    with capture_logs() as events:
        assert await posted(client, PERMANENT) == (200, {"recorded": 1})
        assert await posted(client, PERMANENT) == (200, {"recorded": 0})
    (row,) = await stored(pool)
    assert (row["svix_id"], row["provider_id"], row["type"], row["address"]) == (
        "msg_1", "re-1", "bounced", "ada@example.org",
    )  # fmt: skip
    assert [held.reason for held in await Suppressions(pool, CLOCK).find("Ada@example.org")] == ["bounced"]
    assert [event["recipient"] for event in events] == ["a***@example.org"]


async def test_twenty_at_once_are_one(client: ClientSession, pool: asyncpg.Pool) -> None:
    """The same event on twenty connections at the same moment is stored once, and nobody reads an error."""
    answers = await asyncio.gather(*(posted(client, PERMANENT) for _ in range(20)))
    assert {status for status, _ in answers} == {200}
    assert len(await stored(pool)) == 1


async def test_events_come_in_any_order(client: ClientSession, pool: asyncpg.Pool) -> None:
    """What is delivered before it was sent, and for a mail that nobody knows, is stored like anything else."""
    for number, word in enumerate(("email.opened", "email.delivered", "email.sent", "email.levitated")):
        body = report(word)
        assert await posted(client, body, signed(body, svix_id=f"msg_{number}")) == (200, {"recorded": 1})
    assert [row["type"] for row in await stored(pool)] == ["opened", "delivered", "sent", "levitated"]


async def test_what_is_not_about_mails_is_acknowledged(client: ClientSession, pool: asyncpg.Pool) -> None:
    """Nothing to keep, and nothing for the provider to repeat."""
    assert await posted(client, report("domain.updated")) == (200, {"recorded": 0})
    assert await stored(pool) == []


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
async def test_refused_reports_change_nothing(
    client: ClientSession, pool: asyncpg.Pool, body: bytes, headers: dict[str, str] | None, status: int
) -> None:
    """Forged, stale, malformed, oversized: the status says which, nothing is stored, the log is told once."""
    with capture_logs() as events:
        for _ in range(3):
            assert (await posted(client, body, headers))[0] == status
    assert [event["event"] for event in events] == ["webhook_rejected"]
    assert await stored(pool) == []


async def test_the_largest_report_is_read(client: ClientSession) -> None:
    """The limit is one of size, not of what stands inside; above the limit, length need not be announced."""
    padding = MAX_BODY_BYTES - len(report("email.sent", padding=""))
    whole = report("email.sent", padding="x" * padding)
    assert len(whole) == MAX_BODY_BYTES
    assert await posted(client, whole) == (200, {"recorded": 1})

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 65_536

    async with client.post("/webhooks/resend", data=drip(), headers=signed(b"")) as response:
        assert response.status == 413


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_only_post_is_a_report(client: ClientSession, pool: asyncpg.Pool, method: str) -> None:
    """Other methods do nothing, signed or not."""
    async with client.request(method, "/webhooks/resend", data=PERMANENT, headers=signed(PERMANENT)) as response:
        assert response.status == 405
    assert await stored(pool) == []


async def test_without_postgres_the_provider_is_asked_to_repeat(clock: FakeClock) -> None:
    """No acknowledgement of what is not stored: 503, and when to come again."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://nobody@127.0.0.1:{closed.getsockname()[1]}/x"
    async with open_pool(clean_dsn(url)) as pool:
        async for client in serving(Ledger(pool, clock)):
            with capture_logs() as events:
                headers = signed(PERMANENT)
                async with client.post("/webhooks/resend", data=PERMANENT, headers=headers) as response:
                    assert response.status == 503
                    assert int(response.headers["Retry-After"]) > 0
            assert [event["event"] for event in events] == ["webhook_rejected"]


async def test_a_hanging_store_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider gets its 503 although Postgres never answers."""
    monkeypatch.setattr("flowstate_daemon.web.webhooks.STORE_TIMEOUT_S", 0.05)
    async for client in serving(HangingLedger()):
        assert (await posted(client, PERMANENT))[0] == 503


async def test_a_hanging_sender_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever announces a body and never sends it is sent away."""
    monkeypatch.setitem(read_body.__kwdefaults__, "within_s", 0.05)
    async for client in serving(HangingLedger()):
        assert client._base_url is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", client._base_url.port)
        writer.write(b"POST /webhooks/resend HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        async with asyncio.timeout(10):
            assert b" 408 " in await reader.readline()
        writer.close()


def test_strangers_cannot_fill_the_log(clock: FakeClock) -> None:
    """One line a minute, with the number of those that were held back."""
    seldom = LogThrottle(clock)
    assert [seldom.acquire() for _ in range(4)] == [0, None, None, None]
    clock.advance(59.0)
    assert seldom.acquire() is None
    clock.advance(1.0)
    assert seldom.acquire() == 4
    assert seldom.acquire() is None
