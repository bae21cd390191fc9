"""The health endpoints over a real socket: what makes the daemon not live, and what makes it not ready."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession

from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.web.health import Health, InstanceInfo
from tests.integration.web.conftest import serve
from tests.support.clock import FakeClock


@pytest.fixture
def health(clock: FakeClock) -> HealthRegistry:
    health = HealthRegistry(clock)
    health.register("fetcher")
    health.register("senders").idle()
    return health


@pytest.fixture
async def client(health: HealthRegistry) -> AsyncIterator[ClientSession]:
    """A client of a server with the health endpoints."""
    async with serve(Health(health, InstanceInfo("1.2.3", "vm-1")).routes()) as client:
        yield client


async def get(client: ClientSession, endpoint: str) -> tuple[int, dict[str, Any]]:
    async with client.get(f"/health/{endpoint}") as response:
        return response.status, await response.json()


async def test_healthy_daemon_is_live_and_ready(client: ClientSession, clock: FakeClock) -> None:
    """Both endpoints return 200, with version, instance and the state of each service."""
    clock.advance(3.0)
    assert await get(client, "live") == (
        200,
        {
            "status": "alive",
            "version": "1.2.3",
            "instance": "vm-1",
            "mode": "send",
            "delivery": "resend",
            "is_dev": False,
            "uptime_s": 3.0,
            "reasons": [],
            "warnings": [],
            "services": [
                {"name": "fetcher", "age_s": 3.0, "idle": False, "error": None},
                {"name": "senders", "age_s": 3.0, "idle": True, "error": None},
            ],
        },
    )
    status, body = await get(client, "ready")
    assert (status, body["status"]) == (200, "ready")


async def test_stuck_service_is_not_live_and_not_ready(
    client: ClientSession, health: HealthRegistry, clock: FakeClock
) -> None:
    """A service without progress is reported by name within 30 s, and recovers with its next heartbeat."""
    clock.advance(26.0)
    for endpoint in ("live", "ready"):
        status, body = await get(client, endpoint)
        assert status == 503
        assert body["reasons"] == ["fetcher: no progress"]
    health.heartbeats[0].beat()
    assert (await get(client, "live"))[0] == 200
    assert (await get(client, "ready"))[0] == 200


async def test_outage_is_not_ready_but_live(client: ClientSession, health: HealthRegistry) -> None:
    """During an outage of Redis readiness fails and liveness does not, because a restart would not help."""
    health.heartbeats[0].report_error("Redis: redis://:hunter2@cache.example.org does not answer")
    status, body = await get(client, "ready")
    assert status == 503
    assert body["status"] == "not_ready"
    assert "fetcher: Redis:" in body["reasons"][0]
    assert "hunter2" not in str(body)
    assert (await get(client, "live"))[0] == 200
    health.heartbeats[0].beat()
    assert (await get(client, "ready"))[0] == 200


async def test_refused_account_is_not_ready_but_live(client: ClientSession, health: HealthRegistry) -> None:
    """When the provider refuses the account, all services make progress and no email can be sent."""
    health.set_condition("account", "the key is refused")
    status, body = await get(client, "ready")
    assert (status, body["reasons"]) == (503, ["account: the key is refused"])
    assert (await get(client, "live"))[0] == 200


async def test_draining_daemon_is_not_ready_but_live(client: ClientSession, health: HealthRegistry) -> None:
    """It takes no new work, and stays live so that it is not killed before it has finished."""
    health.start_draining()
    status, body = await get(client, "ready")
    assert (status, body["reasons"]) == (503, ["draining: no new work is taken"])
    assert (await get(client, "live"))[0] == 200
