"""Health over a real socket: red when stuck, red when nothing can be sent, quick in every case."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession

from flowstate_daemon.base.vitals import Vitals
from flowstate_daemon.web.app import Web
from flowstate_daemon.web.health import About, Health
from tests.support.clock import HandClock


@pytest.fixture
def vitals(clock: HandClock) -> Vitals:
    vitals = Vitals(clock)
    vitals.pulse("fetcher")
    vitals.pulse("senders").rest()
    return vitals


@pytest.fixture
async def client(vitals: Vitals) -> AsyncIterator[ClientSession]:
    """A client of a running health endpoint."""
    health = Health(vitals, About("1.2.3", "vm-1"))
    endpoint = Web(health.routes(), host="127.0.0.1", port=0)
    await endpoint.open()
    async with ClientSession(f"http://127.0.0.1:{endpoint.bound_port}") as session:
        yield session
    await endpoint.close()


async def asked(client: ClientSession, question: str) -> tuple[int, dict[str, Any]]:
    async with client.get(f"/health/{question}") as response:
        return response.status, await response.json()


async def test_a_healthy_house_is_alive_and_ready(client: ClientSession, clock: HandClock) -> None:
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
            "loops": [
                {"name": "fetcher", "age_s": 3.0, "resting": False, "trouble": None},
                {"name": "senders", "age_s": 3.0, "resting": True, "trouble": None},
            ],
        },
    )
    status, body = await asked(client, "ready")
    assert (status, body["status"]) == (200, "ready")


async def test_a_stuck_loop_turns_both_red(client: ClientSession, vitals: Vitals, clock: HandClock) -> None:
    """A loop without progress is seen within 30 s, by name, and recovers with its next beat."""
    clock.advance(26.0)
    for question in ("live", "ready"):
        status, body = await asked(client, question)
        assert status == 503
        assert body["reasons"] == ["fetcher: no progress"]
    vitals.pulses[0].beat()
    assert (await asked(client, "live"))[0] == 200
    assert (await asked(client, "ready"))[0] == 200


async def test_an_outage_turns_ready_red_and_leaves_it_alive(client: ClientSession, vitals: Vitals) -> None:
    """A restart would not bring Redis back."""
    vitals.pulses[0].suffer("Redis: redis://:hunter2@cache.example.org does not answer")
    status, body = await asked(client, "ready")
    assert status == 503
    assert body["status"] == "not_ready"
    assert "fetcher: Redis:" in body["reasons"][0]
    assert "hunter2" not in str(body)
    assert (await asked(client, "live"))[0] == 200
    vitals.pulses[0].beat()
    assert (await asked(client, "ready"))[0] == 200


async def test_a_closed_lane_turns_ready_red(client: ClientSession, vitals: Vitals) -> None:
    """The provider refuses the account: all loops are fine and no mail goes out."""
    vitals.raise_condition("lane", "the key is refused")
    status, body = await asked(client, "ready")
    assert (status, body["reasons"]) == (503, ["lane: the key is refused"])
    assert (await asked(client, "live"))[0] == 200


async def test_a_draining_house_is_not_ready(client: ClientSession, vitals: Vitals) -> None:
    """It takes no new work; it still lives, so nobody kills it before it has finished."""
    vitals.drain()
    status, body = await asked(client, "ready")
    assert (status, body["reasons"]) == (503, ["draining: no new work is taken"])
    assert (await asked(client, "live"))[0] == 200
