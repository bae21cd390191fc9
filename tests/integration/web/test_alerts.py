"""The heartbeat URL and the alert webhook, with a real receiver on loopback and a fake clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon import alerts
from flowstate_daemon.daemon.alerts import Alerter
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.web.health import InstanceInfo
from tests.support.clock import FakeClock
from tests.support.waiting import eventually


class Receiver:
    """Counts pings and keeps alerts; `status` is its answer, `hang` lets it never answer."""

    def __init__(self) -> None:
        self.pings = 0
        self.alerts: list[dict[str, Any]] = []
        self.attempts = 0
        self.status = 200
        self.hang = False
        self.url = ""

    async def ping(self, _request: web.Request) -> web.Response:
        self.pings += 1
        return await self._answer()

    async def alert(self, request: web.Request) -> web.Response:
        self.attempts += 1
        if self.status == 200:
            self.alerts.append(await request.json())
        return await self._answer()

    async def _answer(self) -> web.Response:
        if self.hang:
            await asyncio.Event().wait()
        return web.Response(status=self.status)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.add_routes([web.get("/ping", receiver.ping), web.post("/alert", receiver.alert)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield receiver
    await runner.cleanup()


@pytest.fixture
def health(clock: FakeClock) -> HealthRegistry:
    return HealthRegistry(clock)


@pytest.fixture
def alerter(receiver: Receiver, health: HealthRegistry, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Alerter:
    """Polls within milliseconds; alerts after 180 s of the fake clock, pings every 60 s."""
    monkeypatch.setattr(alerts, "POLL_INTERVAL_S", 0.01)
    monkeypatch.setattr(alerts, "RETRY_S", (0.01, 0.02))
    urls = {
        "FLOWSTATE_HEALTH_HEARTBEAT_URL": f"{receiver.url}/ping",
        "FLOWSTATE_HEALTH_ALERT_URL": f"{receiver.url}/alert",
    }
    context = ServiceContext(health, Metrics(KINDS), clock)
    return Alerter(load(urls).health, InstanceInfo("1.2.3", "vm-1"), "bull:email", context)


@pytest.fixture
async def running(alerter: Alerter) -> AsyncIterator[Alerter]:
    task = asyncio.create_task(alerter.run())
    yield alerter
    alerter.stop()
    await task


async def passes(alerter: Alerter, count: int = 5) -> None:
    """Wait until the alerter has looked a few times more."""
    seen: list[float] = []
    original = alerter.observe

    def observe() -> None:
        original()
        seen.append(0)

    alerter.observe = observe  # type: ignore[method-assign]
    await eventually(lambda: len(seen) >= count, "the alerter looks")
    alerter.observe = original  # type: ignore[method-assign]


async def test_one_alert_per_red_period_and_one_when_it_ends(
    running: Alerter, receiver: Receiver, health: HealthRegistry, clock: FakeClock
) -> None:
    """Not before the time is over, once however long it lasts, with the reasons; then the recovery."""
    health.set_condition("provider", "it fails for ada@mail.dev")
    await passes(running)
    clock.advance(179)
    await passes(running)
    assert receiver.alerts == []
    clock.advance(1)
    await eventually(lambda: receiver.alerts, "an alert")
    clock.advance(10_000)
    await passes(running)
    [alert] = receiver.alerts
    assert (alert["status"], alert["instance"], alert["queue"], alert["not_ready_s"]) == (
        "not_ready",
        "vm-1",
        "bull:email",
        180,
    )
    assert "provider: it fails" in alert["reasons"][0]
    assert "ada@" not in str(alert)
    assert alert["text"].startswith("vm-1 (flowstate-daemon) has not been ready for 180 s: provider: it fails")
    health.clear_condition("provider")
    await eventually(lambda: len(receiver.alerts) == 2, "the recovery")
    assert (receiver.alerts[1]["status"], receiver.alerts[1]["not_ready_s"]) == ("ready", 10_180)
    health.set_condition("quota", "again")
    await passes(running)
    clock.advance(180)
    await eventually(lambda: len(receiver.alerts) == 3, "an alert for the next period")


async def test_short_red_periods_and_drains_are_no_alert(
    running: Alerter, receiver: Receiver, health: HealthRegistry, clock: FakeClock
) -> None:
    """Nor do several short ones add up."""
    for _ in range(4):
        health.set_condition("provider", "it fails")
        await passes(running)
        clock.advance(100)
        await passes(running)
        health.clear_condition("provider")
        await passes(running)
    health.start_draining()
    await passes(running)
    clock.advance(1_000)
    await passes(running)
    assert receiver.attempts == 0


async def test_heartbeat_is_pinged_while_ready_only(
    running: Alerter, receiver: Receiver, health: HealthRegistry, clock: FakeClock
) -> None:
    """Once per interval; not while the daemon is red or drains."""
    await eventually(lambda: receiver.pings == 1, "the first ping")
    await passes(running)
    clock.advance(59)
    await passes(running)
    assert receiver.pings == 1
    clock.advance(1)
    await eventually(lambda: receiver.pings == 2, "the next ping")
    health.set_condition("provider", "it fails")
    clock.advance(120)
    await passes(running)
    assert receiver.pings == 2
    health.clear_condition("provider")
    await eventually(lambda: receiver.pings == 3, "ready again")


async def test_receiver_that_hangs_blocks_nothing(
    running: Alerter, receiver: Receiver, health: HealthRegistry, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alerter goes on looking, starts no second request, and stops at once."""
    monkeypatch.setattr(alerts, "TIMEOUT_S", 30.0)
    receiver.hang = True
    await eventually(lambda: receiver.pings == 1, "a ping")
    clock.advance(600)
    await passes(running)
    assert receiver.pings == 1
    health.set_condition("provider", "it fails")
    await passes(running)
    clock.advance(180)
    await eventually(lambda: receiver.attempts == 1, "an alert")
    await passes(running)
    running.stop()
    async with asyncio.timeout(5):
        await eventually(lambda: running.heartbeat.is_idle, "stopped")


@pytest.mark.parametrize("status", [500, 404])
async def test_alert_is_tried_again_until_it_is_accepted(
    running: Alerter, receiver: Receiver, health: HealthRegistry, clock: FakeClock, status: int
) -> None:
    """A chat server that is down for a moment does not lose the alert."""
    receiver.status = status
    health.set_condition("provider", "it fails")
    await passes(running)
    clock.advance(180)
    await eventually(lambda: receiver.attempts >= 2, "two tries")
    receiver.status = 200
    await eventually(lambda: receiver.alerts, "accepted")
    await passes(running)
    assert len(receiver.alerts) == 1
