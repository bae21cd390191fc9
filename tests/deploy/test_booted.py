"""The service under a really booted systemd: started, reloaded, frozen, killed, drained. `make test-systemd`."""

from __future__ import annotations

import asyncio

import pytest

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.deploy.service import APP, SETTINGS, SOURCE, Host, Unit, asked, sent
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

FREEZING = f"""
[Service]
Environment=PYTHONPATH={SOURCE}
ExecStart=
ExecStart={APP}/bin/python -m tests.support.freezing run
WatchdogSec=5s
"""


async def test_it_starts_works_and_says_how_it_is(
    unit: Unit, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """`systemctl start` returns when mails go out, and the status is a dashboard."""
    await unit.sure("start")
    assert await unit.look("/health/ready") == 200
    await enqueue(connection, keys, 3)
    await sent(provider, 3)
    assert (await unit.show("StatusText")).startswith("rate ")
    assert await unit.show("Result") == "success"


async def test_a_reload_changes_what_it_can_and_names_the_rest(unit: Unit) -> None:
    """The process stays the same, and the journal says what has changed from what to what."""
    await unit.sure("start")
    pid = await unit.show("MainPID")
    await unit.guest.write(SETTINGS, '[log]\nlevel = "debug"\n[queue]\nlock_ms = 40000\n', "0644")
    await unit.sure("reload")
    await reloaded(unit, "reloaded")
    (output,), (rest,) = await unit.events("reloaded"), await unit.events("restart_required")
    assert output["changed"] == ["log.level: info → debug"]
    assert rest["changed"] == ["queue.lock_duration_ms: 30000 → 40000"]
    assert (await unit.show("MainPID"), await unit.show("ActiveState")) == (pid, "active")


async def reloaded(unit: Unit, event: str) -> None:
    async def output() -> bool:
        return bool(await unit.events(event))

    await eventually(output, event, within_s=30)


async def test_a_reload_with_a_mistake_fails_and_changes_nothing(unit: Unit) -> None:
    """All mistakes are named, right settings beside them are not taken, and mails go on."""
    await unit.sure("start")
    await unit.guest.write(SETTINGS, '[log]\nlevel = "debug"\n[queue]\nlock_ms = "long"\nno_such = 1\n', "0644")
    assert (await unit.ctl("reload")).code != 0
    journal = await unit.journal()
    assert f"[queue] lock_ms in {SETTINGS}: should be" in journal
    assert f"{SETTINGS}: [queue] has no key no_such" in journal
    assert await unit.events("reloaded") == []
    assert await unit.show("ActiveState") == "active"
    assert await unit.look("/health/ready") == 200


async def test_a_frozen_daemon_is_killed_and_replaced(unit: Unit) -> None:
    """The watchdog starves, SIGABRT leaves a traceback of where it stood, and a new process takes over."""
    await unit.drop_in("service", FREEZING)
    await unit.sure("start")
    await unit.guest.sure("systemctl", "kill", "--kill-whom=main", "--signal=USR1", "flowstate-daemon")
    await unit.until("NRestarts", "1".__eq__)
    await unit.ready()
    journal = await unit.journal()
    assert "Watchdog timeout" in journal
    assert "in freeze" in journal


async def test_a_killed_daemon_is_back_and_its_mail_goes_out_once(
    unit: Unit, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """kill -9 with a request under way: systemd starts another, which asks again with the same key."""
    await unit.sure("start")
    provider.hold()
    await enqueue(connection, keys, 1)
    await eventually(lambda: asked(provider), "a request under way")
    await unit.guest.sure("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "flowstate-daemon")
    await unit.until("NRestarts", "1".__eq__)
    provider.release()
    await unit.ready()
    await enqueue(connection, keys, 1, first=1)
    await sent(provider, 2)
    assert len(provider.accepted) == 2


async def test_a_stop_waits_for_the_mail_under_way(
    unit: Unit, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """The drain is longer than the unit's patience, and systemd extends it."""
    await unit.drop_in("service", "[Service]\nTimeoutStopSec=3s\n")
    await unit.sure("start")
    provider.hold()
    await enqueue(connection, keys, 1)
    await eventually(lambda: asked(provider), "a request under way")
    stopping = asyncio.create_task(unit.ctl("stop"))
    await unit.until("StatusText", lambda text: text.startswith("stopping") and "1 in flight" in text)
    await asyncio.sleep(6)  # twice as long as systemd would wait by itself
    assert not stopping.done()
    provider.release()
    assert (await stopping).code == 0
    assert await unit.show("Result") == "success"
    assert len(provider.accepted) == 1


async def test_wrong_configuration_is_not_tried_again(host: Host, unit: Unit, settings: dict[str, str]) -> None:
    """Exit 78 stays down, and the journal names the mistake."""
    await host.prepare(**settings, FLOWSTATE_QUEUE_CONCURRENCY="many")
    assert (await unit.ctl("start")).code != 0
    await unit.until("ActiveState", "failed".__eq__)
    assert (await unit.show("ExecMainStatus"), await unit.show("NRestarts")) == ("78", "0")
    assert "FLOWSTATE_QUEUE_CONCURRENCY" in await unit.journal()


async def test_the_start_waits_for_redis_and_says_so(host: Host, unit: Unit, settings: dict[str, str]) -> None:
    """Longer than systemd's own patience, because the daemon asks for more."""
    await host.prepare(**{**settings, "REDIS_URL": "redis://127.0.0.1:1"})
    await unit.drop_in("service", "[Service]\nTimeoutStartSec=15s\n")
    starting = asyncio.create_task(unit.ctl("start"))
    await unit.until("StatusText", lambda text: text.startswith("starting") and "127.0.0.1:1" in text)
    await asyncio.sleep(18)  # longer than systemd would wait by itself
    assert (await unit.show("ActiveState"), await unit.show("NRestarts")) == ("activating", "0")
    await unit.sure("stop")
    await starting
