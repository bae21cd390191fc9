"""The socket unit and the template unit under a booted systemd. Run by `make test-systemd`."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.deploy.service import Host, Unit, wait_until_sent
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]


async def test_restart_refuses_no_request_with_the_socket_unit(unit: Unit) -> None:
    """While the socket unit holds the port, every request during a restart is answered."""
    await unit.listen()
    await unit.check_call("start")
    before = await unit.show("MainPID")
    answers: list[int] = []
    done = asyncio.Event()

    async def call() -> None:
        while not done.is_set():
            answers.append(await unit.look("/health/live", within_s=60))

    callers = [asyncio.create_task(call()) for _ in range(4)]
    await unit.check_call("restart")
    await unit.ready()
    done.set()
    await asyncio.gather(*callers)
    assert await unit.show("MainPID") != before
    assert set(answers) == {200}
    assert len(answers) > 8


async def test_request_starts_a_stopped_daemon(unit: Unit) -> None:
    """With only the socket unit running, a request starts the daemon and is answered."""
    await unit.listen()
    assert await unit.show("ActiveState") == "inactive"
    assert await unit.look("/health/live", within_s=60) == 200
    await unit.until("ActiveState", "active".__eq__)


async def test_request_does_not_restart_a_wrongly_configured_daemon(
    host: Host, unit: Unit, settings: dict[str, str]
) -> None:
    """Exit code 78 closes the socket; after the correction and a start both units are active again."""
    await host.prepare(**settings, FLOWSTATE_QUEUE_CONCURRENCY="many")
    await unit.listen()
    assert await unit.look("/health/live", within_s=60) == 0
    await unit.until("ActiveState", "failed".__eq__)
    assert not await unit.listening()
    assert (await unit.journal()).count("Starting flowstate-daemon.service") == 1
    await host.prepare(**settings)
    await unit.check_call("start")
    assert await unit.listening()
    assert await unit.look("/health/ready") == 200


async def test_port_stays_open_after_a_crash(unit: Unit) -> None:
    """A request after kill -9 is answered by the restarted daemon."""
    await unit.listen()
    await unit.check_call("start")
    await unit.guest.check_call("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "flowstate-daemon")
    await unit.until("ActiveState", "active".__ne__)
    assert await unit.look("/health/live", within_s=60) == 200
    assert await unit.listening()


async def test_two_instances_share_the_queue(
    host: Host, unit: Unit, settings: dict[str, str], provider: FakeResend, connection: Connection, redis: Redis
) -> None:
    """Two instances with their own ports and names each have an email in flight, and each email is sent once."""
    await host.prepare(**settings, FLOWSTATE_QUEUE_CONCURRENCY="1", FLOWSTATE_QUEUE_URGENT_CONCURRENCY="0")
    both = [host.numbered() for _ in range(2)]
    for one in both:
        arguments = ("enable", "--now", f"{one.name}.socket", f"{one.name}.service")
        await host.guest.check_call("systemctl", *arguments)
        await one.ready()
    provider.hold()
    await enqueue(connection, Keys(settings["FLOWSTATE_QUEUE_PREFIX"], "email"), 2)
    for one in both:
        await one.until("StatusText", lambda text: "1 in flight" in text)
    provider.release()
    await wait_until_sent(provider, 2)
    assert len(provider.accepted) == 2
    await both[0].check_call("stop")
    assert await both[1].look("/health/ready") == 200
