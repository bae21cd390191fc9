"""What an installation makes of a really booted host: rights, secrets, sandbox, upgrade, removal. `make test-systemd`.

The last test removes what the first ones look at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.deploy.service import APP, ENVIRONMENT, INSTALL_S, MAKE, SETTINGS, Host, Unit, sent
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.proxy import FaultProxy
from tests.support.waiting import eventually

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

MOST_EXPOSED = 15  # tenths, as systemd-analyze counts
UNITS = (
    "flowstate-daemon.service",
    "flowstate-daemon.socket",
    "flowstate-daemon@8081.service",
    "flowstate-daemon@8081.socket",
    "flowstate-daemon-failed.target",
    "flowstate-daemon-failed@8081.target",
)


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
    output = await unit.guest.sure("cat", f"/proc/{pid}/environ") + (await unit.ctl("show")).output
    assert provider.api_key not in output + await unit.journal()


async def test_encrypted_secrets_come_as_credentials(
    host: Host, unit: Unit, settings: dict[str, str], provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """As docs/systemd.md tells: sealed with the host's key, named in a drop-in; it wins over a plain file."""
    await host.prepare(**{name: value for name, value in settings.items() if name != "RESEND_API_KEY"})
    stored = "/etc/credstore.encrypted/flowstate-daemon.resend_api_key"
    await host.guest.sure("install", "-d", "-m", "700", "/etc/credstore.encrypted")
    store = ("systemd-creds", "encrypt", "--with-key=host", "--name=resend_api_key", "-", stored)
    await host.guest.sure(*store, stdin=provider.api_key)
    await unit.guest.write("/etc/credstore/flowstate-daemon.resend_api_key", "re_of_last_year\n")
    await unit.drop_in("service", f"[Service]\nLoadCredentialEncrypted=resend_api_key:{stored}\n")
    await unit.sure("start")
    await enqueue(connection, keys, 1)
    await sent(provider, 1)
    await unit.sure("reload")


@pytest.fixture
async def postgres_url(database_url: str) -> AsyncIterator[str]:
    """The URL of the test's database by way of TCP: Postgres itself listens where the guest does not see it."""
    parts = urlsplit(database_url)
    async with FaultProxy(parse_qs(parts.query)["host"][0], 5432) as proxy:
        yield f"postgresql://postgres@{proxy.host}:{proxy.port}{parts.path}?schema=public"


async def test_the_calendar_and_the_ledger_work_in_the_sandbox(
    host: Host, unit: Unit, settings: dict[str, str], postgres_url: str, connection: Connection, keys: Keys
) -> None:
    """Postgres is reached, its schema is made, the next slot is in the status, and a mail is explained."""
    await host.prepare(**settings, DATABASE_URL=postgres_url)
    await unit.sure("start")
    await unit.until("StatusText", lambda text: "· next " in text)
    await enqueue(connection, keys, 1)
    command = f"{APP}/bin/flowstate-daemon"
    explain = ("env", f"DATABASE_URL={postgres_url}", command, "explain", "person-0@example.org")

    async def output() -> bool:
        return "welcome" in (await host.guest.run(*explain)).output

    await eventually(output, "the mail in the ledger", within_s=60)


async def test_other_places_are_written_into_units_and_program(host: Host) -> None:
    """`APPDIR` and `PREFIX`: what a package holds runs where it is unpacked, and nothing names the usual places."""
    text = ("install", "DESTDIR=/tmp/package", "APPDIR=/srv/mail", "PREFIX=/usr")
    await host.guest.sure(*MAKE, *text, within_s=INSTALL_S)
    await host.guest.sure("mv", "/tmp/package/srv/mail", "/srv/mail")
    assert "version" in await host.guest.sure("/srv/mail/bin/flowstate-daemon", "--version")
    named = await host.guest.run("grep", "-rlE", "/opt/flowstate-daemon|/usr/local", "/tmp/package/usr/lib")
    assert named.output == ""
    await host.guest.sure("rm", "-rf", "/tmp/package", "/srv/mail")


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
    twin = host.numbered()
    await host.guest.sure("systemctl", "enable", "--now", f"{twin.name}.socket", f"{twin.name}.service")
    await unit.sure("start")
    for _ in range(2):
        said = await host.guest.sure(*MAKE, "uninstall")
        assert "kept       /etc/flowstate-daemon" in said
    assert [await one.look("/health/live") for one in (unit, twin)] == [0, 0]
    await host.guest.sure("test", "-f", ENVIRONMENT, "-a", "-f", "/etc/credstore/flowstate-daemon.resend_api_key")
    found = "find / -xdev -name '*flowstate-daemon*' -not -path '/proc/*' -not -path '/src*'"
    left = set((await host.guest.sure("sh", "-c", found)).split())
    assert {
        place for place in left if place.startswith(("/opt", "/usr", "/etc/systemd", "/run/systemd/units"))
    } == set()
