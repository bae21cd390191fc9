"""A fake provider, the requests that it received, and a dispatcher that sends to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.request_records import RequestRecords
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.dispatcher_harness import DispatcherHarness, record_requests
from tests.support.fake_resend import FakeResend, ReceivedRequest


@pytest.fixture
async def fake() -> AsyncIterator[FakeResend]:
    async with FakeResend() as fake:
        yield fake


@pytest.fixture
async def seen(fake: FakeResend) -> AsyncIterator[list[ReceivedRequest]]:
    """The requests that reached the provider, in order of arrival."""
    async with record_requests(fake) as seen:
        yield seen


@pytest.fixture
async def harness(
    connection: Connection, keys: Keys, fake: FakeResend, seen: list[ReceivedRequest]
) -> AsyncIterator[DispatcherHarness]:
    async with DispatcherHarness(connection, keys, fake) as harness:
        yield harness


@pytest.fixture
async def recording_harness(
    connection: Connection, keys: Keys, fake: FakeResend, pool: asyncpg.Pool
) -> AsyncIterator[DispatcherHarness]:
    """A dispatcher that records its requests in Postgres, with the clock of this machine."""
    records = RequestRecords(pool, keys.base)
    async with DispatcherHarness(connection, keys, fake, records=records, clock=Clock()) as harness:
        yield harness
