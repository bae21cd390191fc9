"""Fixtures of the queue's own tests."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from flowstate_daemon.queue.keys import Keys
from tests.integration.queue.stage import Stage


@pytest.fixture(params=["plain", "hash tag"])
def keys(request: pytest.FixtureRequest, keys: Keys) -> Keys:
    """A queue that no other test uses, once under a plain prefix and once under one for Redis Cluster."""
    return keys if request.param == "plain" else Keys(f"{{{keys.prefix}}}", keys.name)


@pytest.fixture
def stage(redis: Redis, keys: Keys) -> Stage:
    return Stage(redis, keys)
