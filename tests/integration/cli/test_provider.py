"""`provider status` and `provider retry`, as a person calls them."""

from __future__ import annotations

import asyncio
import json

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.cli.main import main
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.rate_limiter import RateLimiter


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, valkey_url: str, keys: Keys) -> None:
    monkeypatch.setenv("REDIS_URL", valkey_url)
    monkeypatch.setenv("FLOWSTATE_QUEUE_PREFIX", keys.prefix)


async def test_a_person_sees_why_nothing_leaves(
    connection: Connection, keys: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason, and for how long bulk waits; as a document for programs."""
    rate_limiter = RateLimiter(connection, keys, Clock())
    await rate_limiter.publish_refusal("the key is invalid")
    await rate_limiter.pause_bulk(Clock().now_ms() + 3_600_000, "the daily quota is used up")
    assert await asyncio.to_thread(main, ["provider", "status"]) == 0
    shown = capsys.readouterr().out
    assert "refused: the key is invalid" in shown
    assert "the daily quota is used up" in shown
    assert await asyncio.to_thread(main, ["provider", "status", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["refusal"] == "the key is invalid"
    assert 3_500_000 < document["bulk_paused_ms"] <= 3_600_000


async def test_a_person_lets_the_daemons_try(connection: Connection, keys: Keys) -> None:
    """Whoever waits hears of it, once."""
    rate_limiter = RateLimiter(connection, keys, Clock())
    assert await asyncio.to_thread(main, ["provider", "retry"]) == 0
    assert await rate_limiter.retry_requested()
    assert not await rate_limiter.retry_requested()
