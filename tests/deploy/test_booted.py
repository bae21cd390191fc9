"""The units under a really booted systemd: installed, reloaded, frozen, killed, drained. `make test-systemd`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.keys import Keys
from tests.deploy.guest import Guest, provide_base
from tests.deploy.service import APP, ENVIRONMENT, SETTINGS, Host, Unit
from tests.process.test_life import enqueue
from tests.support.daemon import eventually
from tests.support.fake_resend import FakeResend

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
SOURCE = "/src"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
MAKE = ("env", f"PIP_CERT={CERTIFICATES}", "make", "-C", SOURCE)
INSTALL_S = 900.0
MOST_EXPOSED = 15  # tenths, as systemd-analyze counts
UNITS = (
    "flowstate-daemon.service",
    "flowstate-daemon.socket",
    "flowstate-daemon@8081.service",
    "flowstate-daemon@8081.socket",
)
FREEZING = f"""
[Service]
Environment=PYTHONPATH={SOURCE}
ExecStart=
ExecStart={APP}/bin/python -m tests.support.freezing run
WatchdogSec=5s
"""


@pytest.fixture(scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    """A booted guest in which `make install` has been run."""
    binds = {ROOT: SOURCE, CERTIFICATES: str(CERTIFICATES)}
    guest = Guest(await provide_base(), tmp_path_factory.mktemp("guest"), binds)
    await guest.boot()
    try:
        said = await guest.sure(*MAKE, "install", within_s=INSTALL_S)
        assert "systemctl enable --now flowstate-daemon.socket flowstate-daemon.service" in said
        yield Host(guest)
    finally:
        await guest.power_off()


@pytest.fixture
async def provider() -> AsyncIterator[FakeResend]:
    async with FakeResend() as fake:
        yield fake


@pytest.fixture
def settings(valkey_url: str, keys: Keys, provider: FakeResend) -> dict[str, str]:
    """An environment file for a daemon between the test's own queue and provider."""
    return {
        "REDIS_URL": valkey_url,
        "RESEND_API_URL": provider.url,
        "RESEND_API_KEY": provider.api_key,
        "RESEND_FROM_EMAIL": '"FlowState <hello@flowstate.example>"',
        "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
    }


@pytest.fixture
async def unit(host: Host, settings: dict[str, str]) -> AsyncIterator[Unit]:
    """The service, not started."""
    yield await host.prepare(**settings)
    await host.forget()


async def asked(provider: FakeResend) -> bool:
    return sum(provider.requests.values()) > 0


async def sent(provider: FakeResend, count: int) -> None:
    async def so() -> bool:
        return len(provider.accepted) >= count

    await eventually(so, f"{count} mails sent", within_s=60)


@pytest.mark.parametrize("name", UNITS)
async def test_systemd_finds_nothing_wrong_with_the_units(host: Host, name: str) -> None:
    """It complains about unknown keys in words only: not one word may come."""
    assert await host.guest.sure("systemd-analyze", "verify", name) == ""


@pytest.mark.parametrize("name", ["flowstate-daemon.service", "flowstate-daemon@.service"])
async def test_little_is_exposed(host: Host, name: str) -> None:
    """`systemd-analyze security` counts 1.5 at most."""
    place = f"/usr/local/lib/systemd/system/{name}"
    await host.guest.sure(
        "systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", place
    )


async def test_configuration_is_for_root_and_the_daemon(host: Host) -> None:
    """Settings may hold passwords; the account can log in nowhere."""
    said = await host.guest.sure("stat", "-c", "%a %U %G", "/etc/flowstate-daemon", SETTINGS, ENVIRONMENT)
    assert said.splitlines() == ["750 root flowstate-daemon", "640 root flowstate-daemon", "600 root root"]
    assert "nologin" in await host.guest.sure("getent", "passwd", "flowstate-daemon")


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


async def test_it_runs_with_no_rights_and_little_room(unit: Unit) -> None:
    """What the unit forbids the kernel forbids."""
    await unit.sure("start")
    pid = await unit.show("MainPID")
    facts = dict(
        line.split(":", 1) for line in (await unit.guest.sure("cat", f"/proc/{pid}/status")).splitlines() if ":" in line
    )
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert (facts["NoNewPrivs"].strip(), facts["Seccomp"].strip()) == ("1", "2")
    limits = await unit.guest.sure("cat", f"/proc/{pid}/limits")
    found = {line[:25].strip(): line[26:].split()[0] for line in limits.splitlines()[1:]}
    assert (found["Max open files"], found["Max core file size"]) == ("8192", "0")
    inside = ("nsenter", "-t", pid, "-m", "-r", "sh", "-c", "touch /etc/x /usr/x /home/x /opt/x")
    said = (await unit.guest.run(*inside)).output
    assert said.count("Read-only file system") + said.count("Permission denied") == 4


async def test_without_a_key_mails_are_files_in_its_own_folder(
    host: Host, unit: Unit, settings: dict[str, str], connection: Connection, keys: Keys
) -> None:
    """The outbox is the one place it can write to, and is nobody else's to read."""
    await host.prepare(**{**settings, "RESEND_API_KEY": ""})
    await unit.sure("start")
    await enqueue(connection, keys, 1)
    outbox = "/var/lib/flowstate-daemon/outbox"

    async def written() -> bool:
        return (await unit.guest.run("sh", "-c", f"ls {outbox}/*.eml")).code == 0

    await eventually(written, "a mail in the outbox", within_s=30)
    owners = await unit.guest.sure("stat", "-c", "%a %U", "/var/lib/flowstate-daemon", outbox)
    assert owners.splitlines() == ["750 flowstate-daemon", "700 flowstate-daemon"]


async def test_secrets_come_as_credentials(
    host: Host, unit: Unit, settings: dict[str, str], provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """Root's file reaches the daemon alone: not its environment, nor what systemctl tells everybody."""
    await host.prepare(**{name: value for name, value in settings.items() if name != "RESEND_API_KEY"})
    await unit.guest.write("/etc/credstore/flowstate-daemon.resend_api_key", f"{provider.api_key}\n")
    await unit.sure("start")
    await enqueue(connection, keys, 1)
    await sent(provider, 1)
    pid = await unit.show("MainPID")
    told = await unit.guest.sure("cat", f"/proc/{pid}/environ") + (await unit.ctl("show")).output
    assert provider.api_key not in told + await unit.journal()


async def test_a_reload_changes_what_it_can_and_names_the_rest(unit: Unit) -> None:
    """The process stays the same, and the journal says what has changed from what to what."""
    await unit.sure("start")
    pid = await unit.show("MainPID")
    await unit.guest.write(SETTINGS, '[log]\nlevel = "debug"\n[queue]\nlock_ms = 40000\n', "0644")
    await unit.sure("reload")
    await reloaded(unit, "reloaded")
    (told,), (rest,) = await unit.events("reloaded"), await unit.events("restart_needed")
    assert told["changed"] == ["log.level: info → debug"]
    assert rest["changed"] == ["queue.lock_ms: 30000 → 40000"]
    assert (await unit.show("MainPID"), await unit.show("ActiveState")) == (pid, "active")


async def reloaded(unit: Unit, event: str) -> None:
    async def told() -> bool:
        return bool(await unit.events(event))

    await eventually(told, event, within_s=30)


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
    await unit.until("StatusText", lambda text: text.startswith("stopping") and "1 in hand" in text)
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
    await unit.drop_in("service", "[Service]\nTimeoutStartSec=5s\n")
    starting = asyncio.create_task(unit.ctl("start"))
    await unit.until("StatusText", lambda text: text.startswith("starting") and "127.0.0.1:1" in text)
    await asyncio.sleep(8)  # longer than systemd would wait by itself
    assert (await unit.show("ActiveState"), await unit.show("NRestarts")) == ("activating", "0")
    await unit.sure("stop")
    await starting


async def test_no_caller_is_turned_away_by_a_restart(unit: Unit) -> None:
    """The socket unit holds the port: every request that is made meanwhile is answered, by the old or the new one."""
    await unit.drop_in("socket", f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{unit.port}\n")
    await unit.guest.sure("systemctl", "enable", "--now", "flowstate-daemon.socket", "flowstate-daemon.service")
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
    await unit.drop_in("socket", f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{unit.port}\n")
    await unit.guest.sure("systemctl", "start", "flowstate-daemon.socket")
    assert await unit.show("ActiveState") == "inactive"
    assert await unit.look("/health/live", within_s=60) == 200
    await unit.until("ActiveState", "active".__eq__)


async def test_two_instances_share_the_work(
    host: Host, unit: Unit, settings: dict[str, str], provider: FakeResend, connection: Connection, redis: Redis
) -> None:
    """Each on its port and under its own name, each with a mail in hand, and each mail goes out once."""
    await host.prepare(**settings, FLOWSTATE_QUEUE_CONCURRENCY="1", FLOWSTATE_QUEUE_URGENT_RESERVE="0")
    both = [host.numbered() for _ in range(2)]
    for one in both:
        words = ("enable", "--now", f"{one.name}.socket", f"{one.name}.service")
        await host.guest.sure("systemctl", *words)
        await one.ready()
    provider.hold()
    await enqueue(connection, Keys(settings["FLOWSTATE_QUEUE_PREFIX"], "email"), 2)
    for one in both:
        await one.until("StatusText", lambda text: "1 in hand" in text)
    provider.release()
    await sent(provider, 2)
    assert len(provider.accepted) == 2
    await both[0].sure("stop")
    assert await both[1].look("/health/ready") == 200


async def test_an_upgrade_keeps_what_was_edited(host: Host, unit: Unit) -> None:
    """A second installation replaces the program beside the running one, and says to restart it."""
    await unit.sure("start")
    text = await host.guest.sure("cat", ENVIRONMENT)
    said = await host.guest.sure(*MAKE, "install", within_s=INSTALL_S)
    assert "kept       /etc/flowstate-daemon/environment" in said
    assert "next       systemctl restart flowstate-daemon" in said
    assert await host.guest.sure("cat", ENVIRONMENT) == text
    await unit.sure("restart")
    assert await unit.look("/health/ready") == 200


async def test_uninstalling_stops_and_removes_it_and_keeps_what_is_the_operators(host: Host, unit: Unit) -> None:
    """Done twice it is done once; configuration, secrets and mails stay."""
    await unit.guest.write("/etc/credstore/flowstate-daemon.resend_api_key", "re_kept\n")
    await unit.sure("start")
    for _ in range(2):
        said = await host.guest.sure(*MAKE, "uninstall")
        assert "left       /etc/flowstate-daemon" in said
    assert await unit.look("/health/live") == 0
    await host.guest.sure("test", "-f", ENVIRONMENT, "-a", "-f", "/etc/credstore/flowstate-daemon.resend_api_key")
    found = "find / -xdev -name '*flowstate-daemon*' -not -path '/proc/*' -not -path '/src*'"
    left = set((await host.guest.sure("sh", "-c", found)).split())
    assert {
        place for place in left if place.startswith(("/opt", "/usr", "/etc/systemd", "/run/systemd/units"))
    } == set()
