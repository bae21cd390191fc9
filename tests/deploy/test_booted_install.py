"""The installation on a booted host: permissions, secrets, sandbox, upgrade, removal. Run by `make test-systemd`.

The order matters: the last test removes the installation that the others use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.deploy.service import APP, ENVIRONMENT, INSTALL_S, MAKE, SETTINGS, Host, Unit, wait_until_sent
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

MAX_EXPOSURE = 15  # in tenths, the unit of systemd-analyze
UNITS = (
    "flowstate-daemon.service",
    "flowstate-daemon.socket",
    "flowstate-daemon@8081.service",
    "flowstate-daemon@8081.socket",
    "flowstate-daemon-failed.target",
    "flowstate-daemon-failed@8081.target",
)


@pytest.mark.parametrize("name", UNITS)
async def test_systemd_analyze_verify_reports_nothing(host: Host, name: str) -> None:
    """The output is empty; unknown keys do not change the exit code of `systemd-analyze verify`."""
    assert await host.guest.check_call("systemd-analyze", "verify", name) == ""


@pytest.mark.parametrize("name", ["flowstate-daemon.service", "flowstate-daemon@.service"])
async def test_systemd_exposure_score_is_low(host: Host, name: str) -> None:
    """The score of `systemd-analyze security` is at most 1.5."""
    place = f"/usr/local/lib/systemd/system/{name}"
    await host.guest.check_call(
        "systemd-analyze", "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", "--no-pager", place
    )


async def test_configuration_is_readable_by_root_and_the_daemon_only(host: Host) -> None:
    """Settings may contain passwords, so other users cannot read them; the account of the daemon has no login."""
    output = await host.guest.check_call("stat", "-c", "%a %U %G", "/etc/flowstate-daemon", SETTINGS, ENVIRONMENT)
    assert output.splitlines() == ["750 root flowstate-daemon", "640 root flowstate-daemon", "600 root root"]
    assert "nologin" in await host.guest.check_call("getent", "passwd", "flowstate-daemon")


async def test_service_runs_sandboxed(unit: Unit) -> None:
    """The process has no capabilities, a seccomp filter, the limits of the unit, and a read-only file system."""
    await unit.check_call("start")
    pid = await unit.show("MainPID")
    facts = dict(
        line.split(":", 1)
        for line in (await unit.guest.check_call("cat", f"/proc/{pid}/status")).splitlines()
        if ":" in line
    )
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert (facts["NoNewPrivs"].strip(), facts["Seccomp"].strip()) == ("1", "2")
    limits = await unit.guest.check_call("cat", f"/proc/{pid}/limits")
    found = {line[:25].strip(): line[26:].split()[0] for line in limits.splitlines()[1:]}
    assert (found["Max open files"], found["Max core file size"]) == ("8192", "0")
    inside = ("nsenter", "-t", pid, "-m", "-r", "sh", "-c", "touch /etc/x /usr/x /home/x /opt/x")
    output = (await unit.guest.run(*inside)).output
    assert output.count("Read-only file system") + output.count("Permission denied") == 4


async def test_outbox_is_written_to_the_folder_of_the_service(
    host: Host, unit: Unit, settings: dict[str, str], connection: Connection, keys: Keys
) -> None:
    """The outbox is in the state folder of the service and readable by its account only."""
    await host.prepare(**{**settings, "RESEND_API_KEY": "", "FLOWSTATE_DELIVERY": "outbox"})
    await unit.check_call("start")
    await enqueue(connection, keys, 1)
    outbox = "/var/lib/flowstate-daemon/outbox"

    async def written() -> bool:
        return (await unit.guest.run("sh", "-c", f"ls {outbox}/*.eml")).code == 0

    await eventually(written, "an email in the outbox", within_s=30)
    owners = await unit.guest.check_call("stat", "-c", "%a %U", "/var/lib/flowstate-daemon", outbox)
    assert owners.splitlines() == ["750 flowstate-daemon", "700 flowstate-daemon"]


async def test_secret_is_read_from_a_credential(
    host: Host, unit: Unit, settings: dict[str, str], provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """A file of root reaches the daemon as a credential, and is in neither its environment nor `systemctl show`."""
    await host.prepare(**{name: value for name, value in settings.items() if name != "RESEND_API_KEY"})
    await unit.guest.write("/etc/credstore/flowstate-daemon.resend_api_key", f"{provider.api_key}\n")
    await unit.check_call("start")
    await enqueue(connection, keys, 1)
    await wait_until_sent(provider, 1)
    pid = await unit.show("MainPID")
    output = await unit.guest.check_call("cat", f"/proc/{pid}/environ") + (await unit.systemctl("show")).output
    assert provider.api_key not in output + await unit.journal()


@pytest.mark.parametrize("name", ["http_api_token", "http_read_token"])
async def test_token_is_read_from_a_credential(host: Host, unit: Unit, settings: dict[str, str], name: str) -> None:
    """The API is closed without the file, and open with it."""
    await host.prepare(**settings)
    await unit.check_call("start")
    assert await unit.look("/api/v1/queue") == 404
    await unit.guest.write(f"/etc/credstore/flowstate-daemon.{name}", "7f3a91c05be24d68a1f0c3927d5e8b64\n")
    await unit.check_call("restart")
    assert await unit.look("/api/v1/queue") == 401


async def test_secret_is_read_from_an_encrypted_credential(
    host: Host, unit: Unit, settings: dict[str, str], provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """As in docs/systemd.md: encrypted with the key of the host, named in a drop-in, preferred to a plain file."""
    await host.prepare(**{name: value for name, value in settings.items() if name != "RESEND_API_KEY"})
    stored = "/etc/credstore.encrypted/flowstate-daemon.resend_api_key"
    await host.guest.check_call("install", "-d", "-m", "700", "/etc/credstore.encrypted")
    store = ("systemd-creds", "encrypt", "--with-key=host", "--name=resend_api_key", "-", stored)
    await host.guest.check_call(*store, stdin=provider.api_key)
    await unit.guest.write("/etc/credstore/flowstate-daemon.resend_api_key", "re_of_last_year\n")
    await unit.drop_in("service", f"[Service]\nLoadCredentialEncrypted=resend_api_key:{stored}\n")
    await unit.check_call("start")
    await enqueue(connection, keys, 1)
    await wait_until_sent(provider, 1)
    await unit.check_call("reload")


@pytest.fixture
async def postgres_url(database_url: str) -> AsyncIterator[str]:
    """The URL of the test's database over TCP, since its Unix socket is not visible in the guest."""
    parts = urlsplit(database_url)
    async with FaultProxy(parse_qs(parts.query)["host"][0], 5432) as proxy:
        yield f"postgresql://postgres@{proxy.host}:{proxy.port}{parts.path}?schema=public"


async def test_scheduler_and_ledger_work_in_the_sandbox(
    host: Host, unit: Unit, settings: dict[str, str], postgres_url: str, connection: Connection, keys: Keys
) -> None:
    """Postgres is migrated, the status shows the next schedule, and a sent email can be explained."""
    await host.prepare(**settings, DATABASE_URL=postgres_url)
    await unit.check_call("start")
    await unit.until("StatusText", lambda text: "· next " in text)
    await enqueue(connection, keys, 1)
    command = f"{APP}/bin/flowstate-daemon"
    explain = ("env", f"DATABASE_URL={postgres_url}", command, "explain", "person-0@example.org")

    async def is_in_ledger() -> bool:
        return "welcome" in (await host.guest.run(*explain)).output

    await eventually(is_in_ledger, "the email in the ledger", within_s=60)


async def test_install_to_other_folders(host: Host) -> None:
    """With `APPDIR` and `PREFIX` the package runs from these folders, and no file names the default ones."""
    text = ("install", "DESTDIR=/tmp/package", "APPDIR=/srv/mail", "PREFIX=/usr")
    await host.guest.check_call(*MAKE, *text, within_s=INSTALL_S)
    await host.guest.check_call("cp", "-a", "/tmp/package/srv/.", "/srv/")
    assert "version" in await host.guest.check_call("/srv/mail/bin/flowstate-daemon", "--version")
    named = await host.guest.run("grep", "-rlE", "/opt/flowstate-daemon|/usr/local", "/tmp/package/usr/lib")
    assert named.output == ""
    await host.guest.check_call("rm", "-rf", "/tmp/package", "/srv/mail")


async def version_of(unit: Unit) -> str:
    """The folder that the running daemon has loaded its libraries from, and that it looks into for more."""
    pid = await unit.show("MainPID")
    script = f"grep -o '/opt/flowstate-daemon.versions/[^/]*' /proc/{pid}/maps | sort -u"
    (folder,) = (await unit.guest.check_call("sh", "-c", script)).split()
    await unit.guest.check_call("test", "-d", f"{folder}/lib")
    return folder


async def test_upgrade_keeps_edited_files(host: Host, unit: Unit) -> None:
    """A second installation replaces the program, keeps the configuration, and prints the restart command.

    The running daemon keeps its own version, also for a reload, until the restart.
    """
    await unit.check_call("start")
    text = await host.guest.check_call("cat", ENVIRONMENT)
    old = await version_of(unit)
    output = await host.guest.check_call(*MAKE, "install", within_s=INSTALL_S)
    await unit.check_call("reload")
    await eventually(lambda: unit.events("reloaded"), "reloaded", within_s=60)
    assert await version_of(unit) == old
    new = await host.guest.check_call("readlink", "-f", APP)
    assert new.strip() != old
    assert "kept       /etc/flowstate-daemon/environment" in output
    assert "next       systemctl restart flowstate-daemon" in output
    assert await host.guest.check_call("cat", ENVIRONMENT) == text
    await unit.check_call("restart")
    assert await version_of(unit) == new.strip()
    assert await unit.look("/health/ready") == 200


async def test_uninstall_keeps_configuration_and_secrets(host: Host, unit: Unit) -> None:
    """Uninstalling, once or twice, stops and removes the units, and keeps configuration, secrets and emails."""
    await unit.guest.write("/etc/credstore/flowstate-daemon.resend_api_key", "re_kept\n")
    twin = host.numbered()
    await host.guest.check_call("systemctl", "enable", "--now", f"{twin.name}.socket", f"{twin.name}.service")
    await unit.check_call("start")
    for _ in range(2):
        output = await host.guest.check_call(*MAKE, "uninstall")
        assert "kept       /etc/flowstate-daemon" in output
    assert [await one.look("/health/live") for one in (unit, twin)] == [0, 0]
    await host.guest.check_call("test", "-f", ENVIRONMENT, "-a", "-f", "/etc/credstore/flowstate-daemon.resend_api_key")
    found = "find / -xdev -name '*flowstate-daemon*' -not -path '/proc/*' -not -path '/src*'"
    left = set((await host.guest.check_call("sh", "-c", found)).split())
    assert {
        place for place in left if place.startswith(("/opt", "/usr", "/etc/systemd", "/run/systemd/units"))
    } == set()
