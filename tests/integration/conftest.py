"""A Redis behind a proxy that breaks its connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.redis_topologies import ProxiedRedis, proxied_redis


@pytest.fixture(params=["plain", "tls"])
async def target(request: pytest.FixtureRequest, valkey_url: str, tmp_path: Path) -> AsyncIterator[ProxiedRedis]:
    async with proxied_redis(valkey_url, tmp_path, tls=request.param == "tls") as target:
        yield target
