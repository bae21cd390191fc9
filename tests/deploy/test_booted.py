"""The service under a booted systemd: started, reloaded, frozen, killed, drained. Run by `make test-systemd`."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.deploy.service import APP, SETTINGS, SOURCE, Host, Unit, has_request, wait_until_sent
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

FROZEN_DAEMON = f"""
[Service]
Environment=PYTHONPATH={SOURCE}
ExecStart=
ExecStart={APP}/bin/python -m tests.support.frozen_daemon run
WatchdogSec=5s
"""


async def test_start_returns_when_emails_can_be_sent(
    unit: Unit, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """`systemctl start` returns when the daemon is ready, and the status text shows its rate."""
    await unit.check_call("start")
    assert await unit.look("/health/ready") == 200
    await enqueue(connection, keys, 3)
    await wait_until_sent(provider, 3)
    assert (await unit.show("StatusText")).startswith("rate ")
    assert await unit.show("Result") == "success"


async def test_reload_applies_what_it_can_and_names_the_rest(unit: Unit) -> None:
    """The process stays the same, and the log has old and new value of each changed setting."""
    await unit.check_call("start")
    pid = await unit.show("MainPID")
    await unit.guest.write(SETTINGS, '[log]\nlevel = "debug"\n[queue]\nlock_duration_ms = 40000\n', "0644")
    await unit.check_call("reload")
    await has_event(unit, "reloaded")
    (applied,), (pending,) = await unit.events("reloaded"), await unit.events("restart_required")
    assert applied["changed"] == ["log.level: info → debug"]
    assert pending["changed"] == ["queue.lock_duration_ms: 30000 → 40000"]
    assert (await unit.show("MainPID"), await unit.show("ActiveState")) == (pid, "active")


async def has_event(unit: Unit, event: str) -> None:
    async def is_logged() -> bool:
        return bool(await unit.events(event))

    await eventually(is_logged, event, within_s=30)


async def test_reload_with_an_error_changes_nothing(unit: Unit) -> None:
    """All errors are named, valid changes in the same file are not applied, and the daemon stays ready."""
    await unit.check_call("start")
    await unit.guest.write(
        SETTINGS, '[log]\nlevel = "debug"\n[queue]\nlock_duration_ms = "long"\nno_such = 1\n', "0644"
    )
    assert (await unit.systemctl("reload")).code != 0
    journal = await unit.journal()
    assert f"[queue] lock_duration_ms in {SETTINGS}: should be" in journal
    assert f"{SETTINGS}: [queue] has no key no_such" in journal
    assert await unit.events("reloaded") == []
    assert await unit.show("ActiveState") == "active"
    assert await unit.look("/health/ready") == 200


async def test_frozen_daemon_is_killed_and_restarted(unit: Unit) -> None:
    """After the watchdog timeout SIGABRT logs a traceback of the blocking call, and systemd starts a new process."""
    await unit.drop_in("service", FROZEN_DAEMON)
    await unit.check_call("start")
    await unit.guest.check_call("systemctl", "kill", "--kill-whom=main", "--signal=USR1", "flowstate-daemon")
    await unit.until("NRestarts", "1".__eq__)
    await unit.ready()
    journal = await unit.journal()
    assert "Watchdog timeout" in journal
    assert "in freeze_service" in journal


async def test_killed_daemon_is_restarted_and_its_email_sent_once(
    unit: Unit, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """After kill -9 during a request the restarted daemon repeats the request with the same key."""
    await unit.check_call("start")
    provider.hold()
    await enqueue(connection, keys, 1)
    await eventually(lambda: has_request(provider), "a request in progress")
    await unit.guest.check_call("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "flowstate-daemon")
    await unit.until("NRestarts", "1".__eq__)
    provider.release()
    await unit.ready()
    await enqueue(connection, keys, 1, first=1)
    await wait_until_sent(provider, 2)
    assert len(provider.accepted) == 2


async def test_stop_waits_for_the_email_in_flight(
    unit: Unit, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """The drain takes longer than the stop timeout of the unit, which the daemon extends."""
    await unit.drop_in("service", "[Service]\nTimeoutStopSec=1s\n")
    await unit.check_call("start")
    provider.hold()
    await enqueue(connection, keys, 1)
    await eventually(lambda: has_request(provider), "a request in progress")
    stopping = asyncio.create_task(unit.systemctl("stop"))
    await unit.until("StatusText", lambda text: text.startswith("stopping") and "1 in flight" in text)
    await asyncio.sleep(3)  # a fixed time: longer than the stop timeout of the unit, shorter than the drain
    assert not stopping.done()
    provider.release()
    assert (await stopping).code == 0
    assert await unit.show("Result") == "success"
    assert len(provider.accepted) == 1


async def test_wrong_configuration_is_not_restarted(host: Host, unit: Unit, settings: dict[str, str]) -> None:
    """After exit code 78 systemd does not restart the unit, and the journal names the error."""
    await host.prepare(**settings, FLOWSTATE_QUEUE_CONCURRENCY="many")
    assert (await unit.systemctl("start")).code != 0
    await unit.until("ActiveState", "failed".__eq__)
    assert (await unit.show("ExecMainStatus"), await unit.show("NRestarts")) == ("78", "0")
    assert "FLOWSTATE_QUEUE_CONCURRENCY" in await unit.journal()


async def test_start_waits_for_redis(host: Host, unit: Unit, settings: dict[str, str]) -> None:
    """The start takes longer than the start timeout of the unit, which the daemon extends."""
    await host.prepare(**{**settings, "REDIS_URL": "redis://127.0.0.1:1"})
    await unit.drop_in("service", "[Service]\nTimeoutStartSec=15s\n")
    starting = asyncio.create_task(unit.systemctl("start"))
    await unit.until("StatusText", lambda text: text.startswith("starting") and "127.0.0.1:1" in text)
    await asyncio.sleep(18)  # a fixed time, longer than the start timeout of the unit
    assert (await unit.show("ActiveState"), await unit.show("NRestarts")) == ("activating", "0")
    await unit.check_call("stop")
    await starting
