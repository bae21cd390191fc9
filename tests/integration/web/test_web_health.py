"""Health over a real socket: red when stuck, red when nothing can be sent, quick in every case."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession

from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.web.health import Health, InstanceInfo
from flowstate_daemon.web.server import HttpServer
from tests.support.clock import FakeClock


@pytest.fixture
def health(clock: FakeClock) -> HealthRegistry:
    health = HealthRegistry(clock)
    health.register("fetcher")
    health.register("senders").idle()
    return health


@pytest.fixture
async def client(health: HealthRegistry) -> AsyncIterator[ClientSession]:
    """A client of a running health endpoint."""
    routes = Health(health, InstanceInfo("1.2.3", "vm-1"))
    endpoint = HttpServer(routes.routes(), host="127.0.0.1", port=0)
    await endpoint.open()
    async with ClientSession(f"http://127.0.0.1:{endpoint.bound_port}") as session:
        yield session
    await endpoint.close()


async def asked(client: ClientSession, question: str) -> tuple[int, dict[str, Any]]:
    async with client.get(f"/health/{question}") as response:
        return response.status, await response.json()


async def test_a_healthy_house_is_alive_and_ready(client: ClientSession, clock: FakeClock) -> None:
    """Both answers are green, and say who answers and how the loops are."""
    clock.advance(3.0)
    assert await asked(client, "live") == (
        200,
        {
            "status": "alive",
            "version": "1.2.3",
            "instance": "vm-1",
            "mode": "send",
            "uptime_s": 3.0,
            "reasons": [],
            "services": [
                {"name": "fetcher", "age_s": 3.0, "idle": False, "error": None},
                {"name": "senders", "age_s": 3.0, "idle": True, "error": None},
            ],
        },
    )
    status, body = await asked(client, "ready")
    assert (status, body["status"]) == (200, "ready")


async def test_a_stuck_loop_turns_both_red(client: ClientSession, health: HealthRegistry, clock: FakeClock) -> None:
    """A loop without progress is seen within 30 s, by name, and recovers with its next beat."""
    clock.advance(26.0)
    for question in ("live", "ready"):
        status, body = await asked(client, question)
        assert status == 503
        assert body["reasons"] == ["fetcher: no progress"]
    health.heartbeats[0].beat()
    assert (await asked(client, "live"))[0] == 200
    assert (await asked(client, "ready"))[0] == 200


async def test_an_outage_turns_ready_red_and_leaves_it_alive(client: ClientSession, health: HealthRegistry) -> None:
    """A restart would not bring Redis back."""
    health.heartbeats[0].report_error("Redis: redis://:hunter2@cache.example.org does not answer")
    status, body = await asked(client, "ready")
    assert status == 503
    assert body["status"] == "not_ready"
    assert "fetcher: Redis:" in body["reasons"][0]
    assert "hunter2" not in str(body)
    assert (await asked(client, "live"))[0] == 200
    health.heartbeats[0].beat()
    assert (await asked(client, "ready"))[0] == 200


async def test_a_closed_lane_turns_ready_red(client: ClientSession, health: HealthRegistry) -> None:
    """The provider refuses the account: all loops are fine and no mail goes out."""
    health.set_condition("lane", "the key is refused")
    status, body = await asked(client, "ready")
    assert (status, body["reasons"]) == (503, ["lane: the key is refused"])
    assert (await asked(client, "live"))[0] == 200


async def test_a_draining_house_is_not_ready(client: ClientSession, health: HealthRegistry) -> None:
    """It takes no new work; it still lives, so nobody kills it before it has finished."""
    health.start_draining()
    status, body = await asked(client, "ready")
    assert (status, body["reasons"]) == (503, ["draining: no new work is taken"])
    assert (await asked(client, "live"))[0] == 200
