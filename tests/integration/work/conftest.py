"""A provider, what it has seen, and a bus to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.keys import Keys
from tests.support.depot import Depot, watched
from tests.support.fake_resend import FakeResend, Incoming


@pytest.fixture
async def fake() -> AsyncIterator[FakeResend]:
    async with FakeResend() as fake:
        yield fake


@pytest.fixture
async def seen(fake: FakeResend) -> AsyncIterator[list[Incoming]]:
    """The provider's requests, in the order of their arrival."""
    async with watched(fake) as seen:
        yield seen


@pytest.fixture
async def depot(connection: Connection, keys: Keys, fake: FakeResend, seen: list[Incoming]) -> AsyncIterator[Depot]:
    async with Depot(connection, keys, fake) as depot:
        yield depot
