"""`provider status` and `provider retry` as an operator runs them."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.cli.main import main
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.provider_state import ProviderState
from flowstate_daemon.sending.rate_limiter import RateLimiter

pytestmark = pytest.mark.usefixtures("queue_environment")


async def test_status_shows_why_nothing_is_sent(
    connection: Connection, keys: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason of a refused account and the remaining pause of bulk emails, as text and as JSON."""
    rate_limiter = RateLimiter(connection, keys, Clock(), instance="vm-1")
    await rate_limiter.publish_state(ProviderState("refused", "the key is invalid", 15_000))
    await rate_limiter.pause_bulk(Clock().now_ms() + 3_600_000, "the daily quota is used up")
    assert await asyncio.to_thread(main, ["provider", "status"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"vm-1 +refuses all emails: the key is invalid; next try in 1\d\.\ds", output)
    assert "the daily quota is used up" in output
    assert await asyncio.to_thread(main, ["provider", "status", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["state"] == "refused"
    assert document["problems"][0]["reason"] == "the key is invalid"
    assert 3_500_000 < document["bulk_paused_ms"] <= 3_600_000


async def test_retry_is_requested_once(connection: Connection, keys: Keys) -> None:
    """`provider retry` requests one retry from the running daemons."""
    rate_limiter = RateLimiter(connection, keys, Clock())
    assert await asyncio.to_thread(main, ["provider", "retry"]) == 0
    assert await rate_limiter.retry_requested()
    assert not await rate_limiter.retry_requested()
