"""The notify protocol on a real socket: what systemd hears of a daemon that is its child."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_lifecycle import enqueue
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.systemd import NotifyListener
from tests.support.waiting import eventually

WATCHDOG_S = 2.0


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[NotifyListener]:
    with NotifyListener(tmp_path) as listener:
        yield listener


def supervised(systemd: NotifyListener, **settings: str) -> dict[str, str]:
    """The environment of a unit with a watchdog."""
    return {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)), **settings}


async def test_ready_is_told_when_mails_can_go_out(make_daemon: MakeDaemon, systemd: NotifyListener) -> None:
    """READY=1 comes with a status, and not before Redis is reached and the lease held."""
    async with make_daemon(**supervised(systemd)) as daemon:
        message = {scheduled_mail.name: scheduled_mail.value for scheduled_mail in await systemd.until("READY", "1")}
        assert message["STATUS"].startswith("rate 0.0/s")
        assert (await daemon.look("/health/ready"))[0] == 200


async def test_a_daemon_that_waits_for_redis_asks_for_more_time(
    make_daemon: MakeDaemon, systemd: NotifyListener
) -> None:
    """Its start is extended as long as it makes sense to wait, and the status says what for."""
    async with make_daemon(**supervised(systemd, REDIS_URL="redis://127.0.0.1:1")) as daemon:
        await systemd.until("EXTEND_TIMEOUT_USEC")
        await systemd.until("EXTEND_TIMEOUT_USEC")
        assert systemd.said("READY") == []
        await eventually(lambda: _output(systemd, "127.0.0.1:1"), "the status says why")
        assert systemd.said("STATUS")[-1].startswith("starting")
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0


async def _output(systemd: NotifyListener, text: str) -> bool:
    await systemd.receive(within_s=10)
    return text in systemd.said("STATUS")[-1]


async def test_the_watchdog_is_fed_twice_in_its_time(make_daemon: MakeDaemon, systemd: NotifyListener) -> None:
    """No gap between two signs of life is as long as the watchdog's patience."""
    async with make_daemon(**supervised(systemd)):
        await systemd.until("READY", "1")
        await systemd.for_s(3 * WATCHDOG_S)
        times = [scheduled_mail.at for scheduled_mail in systemd.scheduled_mails if scheduled_mail.name == "WATCHDOG"]
        assert len(times) >= 5
        assert max(later - sooner for sooner, later in pairwise(times)) < WATCHDOG_S


async def test_without_a_watchdog_nothing_is_fed(make_daemon: MakeDaemon, systemd: NotifyListener) -> None:
    """And a watchdog that is meant for another process counts as none."""
    async with make_daemon(**supervised(systemd, WATCHDOG_PID="1")):
        await systemd.until("READY", "1")
        await systemd.for_s(1.5 * WATCHDOG_S)
        assert systemd.said("WATCHDOG") == []


async def test_a_frozen_event_loop_is_silent_and_tells_where_it_stood(
    make_daemon: MakeDaemon, systemd: NotifyListener
) -> None:
    """The watchdog's SIGABRT finds it, and the log has the traceback of the call that froze it."""
    async with make_daemon(module="tests.support.frozen_daemon", **supervised(systemd)) as daemon:
        await systemd.until("READY", "1")
        daemon.send(signal.SIGUSR1)
        await systemd.for_s(0.2)
        assert await systemd.for_s(2 * WATCHDOG_S) == []
        daemon.send(signal.SIGABRT)
        assert await daemon.ended() == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in daemon.log_text()
        assert "in freeze_service" in daemon.log_text()


async def test_one_stuck_loop_starves_the_watchdog(make_daemon: MakeDaemon, systemd: NotifyListener) -> None:
    """The event loop turns and the status is told, but no sign of life leaves: presence is not progress."""
    async with make_daemon(module="tests.support.frozen_daemon", **supervised(systemd)) as daemon:
        await systemd.until("READY", "1")
        daemon.send(signal.SIGUSR2)
        await eventually(lambda: _output(systemd, "fetcher is stuck"), "the status names the loop", within_s=60)
        assert "WATCHDOG" not in {scheduled_mail.name for scheduled_mail in await systemd.for_s(2 * WATCHDOG_S)}
        assert daemon.events("services_stuck")[0]["services"] == ["fetcher"]


async def test_a_drain_asks_for_the_time_it_needs(
    make_daemon: MakeDaemon, provider: FakeResend, systemd: NotifyListener, connection: Connection, keys: Keys
) -> None:
    """STOPPING=1 at once; while a mail is under way the stop is extended again and again; then exit 0."""
    provider.hold()
    async with make_daemon(**supervised(systemd)) as daemon:
        await systemd.until("READY", "1")
        await enqueue(connection, keys, 1)
        await eventually(lambda: _asked(provider), "a request under way")
        daemon.send(signal.SIGTERM)
        await systemd.until("STOPPING", "1")
        drained = [scheduled_mail.name for scheduled_mail in await systemd.for_s(1.5 * WATCHDOG_S)]
        assert drained.count("EXTEND_TIMEOUT_USEC") >= 2
        assert "1 in flight" in systemd.said("STATUS")[-1]
        provider.release()
        assert await daemon.ended() == 0
    assert len(provider.accepted) == 1


async def _asked(provider: FakeResend) -> bool:
    return sum(provider.requests.values()) > 0


async def test_the_status_is_a_dashboard(
    make_daemon: MakeDaemon, provider: FakeResend, systemd: NotifyListener, connection: Connection, keys: Keys
) -> None:
    """It counts what waits and tells what failed last, without the address."""
    provider.hold()
    await enqueue(connection, keys, 3)
    async with make_daemon(**supervised(systemd, FLOWSTATE_QUEUE_CONCURRENCY="1")):
        await eventually(lambda: _output(systemd, "2 waiting · oldest"), "what waits")
        assert "1 in flight" in systemd.said("STATUS")[-1]
        provider.release()
        await eventually(lambda: _output(systemd, " 0 waiting"), "nothing waits", within_s=30)
    assert "person-" not in "".join(systemd.said("STATUS"))


async def test_the_status_tells_the_next_slot(
    make_daemon: MakeDaemon, systemd: NotifyListener, database_url: str
) -> None:
    """With schedules, whoever looks sees which mails are next, and when."""
    async with make_daemon(**supervised(systemd, DATABASE_URL=database_url)):
        await systemd.until("READY", "1")
        await eventually(lambda: _output(systemd, "· next "), "the next slot")
        assert re.search(
            r"· next (task-reminder|overdue-summary|focus-report) in \d+ (s|min|h|d)$", systemd.said("STATUS")[-1]
        )


async def test_sockets_of_a_socket_unit_are_used(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """A caller who came before the daemon is answered by it, and the configured port stays free."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(True)
        daemon = make_daemon(inherited_socket=listener)
        configured, daemon.port = daemon.port, listener.getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: daemon\r\nConnection: close\r\n\r\n")
        async with daemon:
            assert b"200 OK" in await asyncio.wait_for(reader.read(), 20)
            writer.close()
            await daemon.ready()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", configured)


async def test_no_caller_is_turned_away_by_a_restart(make_daemon: MakeDaemon) -> None:
    """With the port held open, every request that is made while the daemon restarts is answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        answers: list[int] = []
        done = asyncio.Event()
        first, second = (make_daemon(inherited_socket=listener) for _ in range(2))
        first.port = second.port = listener.getsockname()[1]

        async def call() -> None:
            while not done.is_set():
                answers.append((await first.look("/health/live", within_s=30))[0])

        async with first:
            await first.ready()
            callers = [asyncio.create_task(call()) for _ in range(4)]
            first.send(signal.SIGTERM)
            assert await first.ended() == 0
            async with second:
                await second.ready()
                done.set()
                await asyncio.gather(*callers)
    assert set(answers) == {200}
    assert len(answers) > 8


async def test_an_abstract_notify_socket_is_reached(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """Containers and older systemds give a name that begins with an @."""
    with NotifyListener(tmp_path, address=f"@flowstate-{time.monotonic_ns()}") as systemd:
        async with make_daemon(**supervised(systemd)):
            await systemd.until("READY", "1")


async def test_a_daemon_whose_port_is_taken_says_so_to_systemd(
    make_daemon: MakeDaemon, systemd: NotifyListener
) -> None:
    """The reason stands in the status of the failed unit."""
    daemon: Daemon = make_daemon(**supervised(systemd))
    with socket.create_server(("127.0.0.1", daemon.port)):
        async with daemon:
            assert await daemon.ended() == 78
    await systemd.for_s(0.2)
    assert "another program uses this port" in systemd.said("STATUS")[-1]
