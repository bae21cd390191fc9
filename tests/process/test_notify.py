"""The notify protocol over a real socket: what a daemon reports to systemd."""

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
    """The environment of a systemd unit with a watchdog."""
    return {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)), **settings}


async def test_ready_is_sent_when_emails_can_be_sent(make_daemon: MakeDaemon, systemd: NotifyListener) -> None:
    """READY=1 is sent with a status, after Redis is reached and the lease is held."""
    async with make_daemon(**supervised(systemd)) as daemon:
        assignments = {message.name: message.value for message in await systemd.until("READY", "1")}
        assert assignments["STATUS"].startswith("rate 0.0/s")
        assert (await daemon.look("/health/ready"))[0] == 200


async def test_start_timeout_is_extended_while_waiting_for_redis(
    make_daemon: MakeDaemon, systemd: NotifyListener
) -> None:
    """The daemon extends the timeout of its start, and the status names what it waits for."""
    async with make_daemon(**supervised(systemd, REDIS_URL="redis://127.0.0.1:1")) as daemon:
        await systemd.until("EXTEND_TIMEOUT_USEC")
        await systemd.until("EXTEND_TIMEOUT_USEC")
        assert systemd.values("READY") == []
        await eventually(lambda: _status_contains(systemd, "127.0.0.1:1"), "the status says why")
        assert systemd.values("STATUS")[-1].startswith("starting")
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0


async def test_start_timeout_is_extended_while_waiting_for_the_lease(
    make_daemon: MakeDaemon, systemd: NotifyListener
) -> None:
    """However long a predecessor holds the lease, the start is neither a failure nor a timeout."""
    async with make_daemon("twin") as first:
        await first.ready()
        async with make_daemon("twin", **supervised(systemd)) as second:
            await eventually(lambda: _status_contains(systemd, "waiting for the lease"), "the status says why")
            await systemd.until("EXTEND_TIMEOUT_USEC")
            await systemd.until("EXTEND_TIMEOUT_USEC")
            assert systemd.values("READY") == []
            await first.kill()
            await systemd.until("READY", "1")
            assert second.events("lease_taken_over")


async def _status_contains(systemd: NotifyListener, text: str) -> bool:
    await systemd.receive(within_s=10)
    return text in systemd.values("STATUS")[-1]


async def test_watchdog_is_notified_within_its_timeout(make_daemon: MakeDaemon, systemd: NotifyListener) -> None:
    """The time between two notifications is always shorter than the timeout of the watchdog."""
    async with make_daemon(**supervised(systemd)):
        await systemd.until("READY", "1")
        await systemd.receive_for(3 * WATCHDOG_S)
        times = [message.at for message in systemd.messages if message.name == "WATCHDOG"]
        assert len(times) >= 5
        assert max(later - sooner for sooner, later in pairwise(times)) < WATCHDOG_S


async def test_watchdog_of_another_process_is_not_notified(make_daemon: MakeDaemon, systemd: NotifyListener) -> None:
    """With the WATCHDOG_PID of another process no notification is sent."""
    async with make_daemon(**supervised(systemd, WATCHDOG_PID="1")):
        await systemd.until("READY", "1")
        await systemd.receive_for(1.5 * WATCHDOG_S)
        assert systemd.values("WATCHDOG") == []


async def test_frozen_event_loop_stops_notifications_and_logs_a_traceback(
    make_daemon: MakeDaemon, systemd: NotifyListener
) -> None:
    """A blocked event loop sends nothing, and after SIGABRT the log has the traceback of the blocking call."""
    async with make_daemon(module="tests.support.frozen_daemon", **supervised(systemd)) as daemon:
        await systemd.until("READY", "1")
        daemon.send(signal.SIGUSR1)
        await systemd.receive_for(0.2)
        assert await systemd.receive_for(2 * WATCHDOG_S) == []
        daemon.send(signal.SIGABRT)
        assert await daemon.ended() == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in daemon.log_text()
        assert "in freeze_service" in daemon.log_text()


async def test_stuck_service_stops_watchdog_notifications(make_daemon: MakeDaemon, systemd: NotifyListener) -> None:
    """While one service is stuck the status is updated, and the watchdog is not notified."""
    async with make_daemon(module="tests.support.frozen_daemon", **supervised(systemd)) as daemon:
        await systemd.until("READY", "1")
        daemon.send(signal.SIGUSR2)
        await eventually(
            lambda: _status_contains(systemd, "fetcher is stuck"), "the status names the service", within_s=60
        )
        assert "WATCHDOG" not in {message.name for message in await systemd.receive_for(2 * WATCHDOG_S)}
        assert daemon.events("services_stuck")[0]["services"] == ["fetcher"]


async def test_stop_timeout_is_extended_during_a_drain(
    make_daemon: MakeDaemon, provider: FakeResend, systemd: NotifyListener, connection: Connection, keys: Keys
) -> None:
    """STOPPING=1 is sent at once, the timeout is extended while an email is in flight, and the exit code is 0."""
    provider.hold()
    async with make_daemon(**supervised(systemd)) as daemon:
        await systemd.until("READY", "1")
        await enqueue(connection, keys, 1)
        await eventually(lambda: _has_request(provider), "a request in progress")
        daemon.send(signal.SIGTERM)
        await systemd.until("STOPPING", "1")
        drained = [message.name for message in await systemd.receive_for(1.5 * WATCHDOG_S)]
        assert drained.count("EXTEND_TIMEOUT_USEC") >= 2
        assert "1 in flight" in systemd.values("STATUS")[-1]
        provider.release()
        assert await daemon.ended() == 0
    assert len(provider.accepted) == 1


async def _has_request(provider: FakeResend) -> bool:
    return sum(provider.requests.values()) > 0


async def test_status_shows_queue_depths_without_addresses(
    make_daemon: MakeDaemon, provider: FakeResend, systemd: NotifyListener, connection: Connection, keys: Keys
) -> None:
    """The status has the waiting jobs and the jobs in flight, and no address."""
    provider.hold()
    await enqueue(connection, keys, 3)
    async with make_daemon(**supervised(systemd, FLOWSTATE_QUEUE_CONCURRENCY="1")):
        await eventually(lambda: _status_contains(systemd, "2 waiting · oldest"), "what waits")
        assert "1 in flight" in systemd.values("STATUS")[-1]
        provider.release()
        await eventually(lambda: _status_contains(systemd, " 0 waiting"), "nothing waits", within_s=30)
    assert "person-" not in "".join(systemd.values("STATUS"))


async def test_status_shows_the_next_schedule(
    make_daemon: MakeDaemon, systemd: NotifyListener, database_url: str
) -> None:
    """With a database the status names the next schedule and the time until it runs."""
    async with make_daemon(**supervised(systemd, DATABASE_URL=database_url)):
        await systemd.until("READY", "1")
        await eventually(lambda: _status_contains(systemd, "· next "), "the next schedule")
        assert re.search(
            r"· next (task-reminder|overdue-summary|focus-report) in \d+ (s|min|h|d)$", systemd.values("STATUS")[-1]
        )


async def test_socket_of_a_socket_unit_is_used(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """A client that connected before the start is answered, and the configured port stays free."""
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


async def test_restart_refuses_no_request_with_a_socket_unit(make_daemon: MakeDaemon) -> None:
    """While the socket stays open, every request during a restart is answered."""
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


async def test_abstract_notify_socket_is_supported(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """A socket name that begins with @, as in containers and with older systemd versions, is an abstract socket."""
    with NotifyListener(tmp_path, address=f"@flowstate-{time.monotonic_ns()}") as systemd:
        async with make_daemon(**supervised(systemd)):
            await systemd.until("READY", "1")


async def test_port_in_use_is_reported_in_the_status(make_daemon: MakeDaemon, systemd: NotifyListener) -> None:
    """The status of the failed unit has the reason."""
    daemon: Daemon = make_daemon(**supervised(systemd))
    with socket.create_server(("127.0.0.1", daemon.port)):
        async with daemon:
            assert await daemon.ended() == 1
    await systemd.receive_for(0.2)
    assert "another program uses this port" in systemd.values("STATUS")[-1]
