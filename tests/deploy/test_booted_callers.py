"""Callers and twins under a really booted systemd: the socket unit and the template unit. `make test-systemd`."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.deploy.service import Host, Unit, sent
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]


async def test_no_caller_is_turned_away_by_a_restart(unit: Unit) -> None:
    """The socket unit holds the port: every request that is made meanwhile is answered, by the old or the new one."""
    await unit.listen()
    await unit.sure("start")
    before = await unit.show("MainPID")
    answers: list[int] = []
    done = asyncio.Event()

    async def call() -> None:
        while not done.is_set():
            answers.append(await unit.look("/health/live", within_s=60))

    callers = [asyncio.create_task(call()) for _ in range(4)]
    await unit.sure("restart")
    await unit.ready()
    done.set()
    await asyncio.gather(*callers)
    assert await unit.show("MainPID") != before
    assert set(answers) == {200}
    assert len(answers) > 8


async def test_a_call_starts_a_daemon_that_is_down(unit: Unit) -> None:
    """With the socket unit alone, whoever clicks a link waits for the start and is answered."""
    await unit.listen()
    assert await unit.show("ActiveState") == "inactive"
    assert await unit.look("/health/live", within_s=60) == 200
    await unit.until("ActiveState", "active".__eq__)


async def test_a_caller_does_not_start_again_what_is_wrongly_configured(
    host: Host, unit: Unit, settings: dict[str, str]
) -> None:
    """Exit 78 closes the port, and whoever waits there is sent away; mended and started, both are back."""
    await host.prepare(**settings, FLOWSTATE_QUEUE_CONCURRENCY="many")
    await unit.listen()
    assert await unit.look("/health/live", within_s=60) == 0
    await unit.until("ActiveState", "failed".__eq__)
    assert not await unit.listening()
    assert (await unit.journal()).count("Starting flowstate-daemon.service") == 1
    await host.prepare(**settings)
    await unit.sure("start")
    assert await unit.listening()
    assert await unit.look("/health/ready") == 200


async def test_a_crash_leaves_the_port_open(unit: Unit) -> None:
    """A caller who comes after kill -9 waits for the next daemon."""
    await unit.listen()
    await unit.sure("start")
    await unit.guest.sure("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "flowstate-daemon")
    await unit.until("ActiveState", "active".__ne__)
    assert await unit.look("/health/live", within_s=60) == 200
    assert await unit.listening()


async def test_two_instances_share_the_work(
    host: Host, unit: Unit, settings: dict[str, str], provider: FakeResend, connection: Connection, redis: Redis
) -> None:
    """Each on its port and under its own name, each with a mail in hand, and each mail goes out once."""
    await host.prepare(**settings, FLOWSTATE_QUEUE_CONCURRENCY="1", FLOWSTATE_QUEUE_URGENT_CONCURRENCY="0")
    both = [host.numbered() for _ in range(2)]
    for one in both:
        words = ("enable", "--now", f"{one.name}.socket", f"{one.name}.service")
        await host.guest.sure("systemctl", *words)
        await one.ready()
    provider.hold()
    await enqueue(connection, Keys(settings["FLOWSTATE_QUEUE_PREFIX"], "email"), 2)
    for one in both:
        await one.until("StatusText", lambda text: "1 in flight" in text)
    provider.release()
    await sent(provider, 2)
    assert len(provider.accepted) == 2
    await both[0].sure("stop")
    assert await both[1].look("/health/ready") == 200
