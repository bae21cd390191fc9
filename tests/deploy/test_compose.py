"""docker-compose.yml, brought up as it is: stand-ins for the images of others, and one for the provider.

podman-compose starts services in order, but waits for `service_healthy` only from podman 4.6 on: with that of Debian 12
the daemon meets stores that are not up yet, and has to wait for them by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from flowstate_daemon import __version__
from flowstate_daemon.dev.embedded import free_port
from tests.deploy.containers import HERE, PODMAN, called, podman
from tests.support.fake_resend import API_KEY
from tests.support.waiting import eventually

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

ROOT = HERE.parents[1]
COMPOSE = Path(sys.executable).with_name("podman-compose")
FILE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
STORES = ("redis", "postgres")
PROJECT = "label=com.docker.compose.project=flowstate"
WATCHED = ("--profile", "observability")
SECRETS_SEEN = """
import os
os.chdir('/run/secrets')
print(*(f'{name}:{os.access(name, os.W_OK)}' for name in os.listdir() if open(name).read()))
"""
BRINGING_UP_S = 300.0
READY_S = 90.0
SECRETS = {
    "resend_api_key": API_KEY,
    "database_url": "postgresql://flowstate:a%20word@postgres:5432/flowstate?schema=public",
    "link_secret": "0123456789abcdef0123456789abcdef",
    "postgres_password": "a word",
    "grafana_password": "another",
}


class Stack:
    """The services of the compose file, in a folder of their own with its secrets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.prometheus_port = free_port()
        self.journal = folder / "journal"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            "IMAGE": f"flowstate-daemon:{__version__}",
            "SOURCE": str(ROOT / "tests"),
            "JOURNAL": str(self.journal),
            "DAEMON_PORT": str(self.port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "RESEND_API_URL": "http://provider:9000",
            "RESEND_FROM_EMAIL": "FlowState <hello@flowstate.example>",
            "FRONTEND_URL": "https://app.flowstate.example",
        }

    def prepare(self) -> None:
        """The folder as docs/container.md has it made; another user writes the journal and reads the secrets."""
        for name in ("docker-compose.yml", "tests/deploy/compose.test.yml"):
            shutil.copy(ROOT / name, self.folder)
        shutil.copytree(ROOT / "config", self.folder / "config")
        self.journal.mkdir(mode=0o777)
        self.journal.chmod(0o777)
        (self.folder / "secrets").mkdir(mode=0o700)
        for name, secret in SECRETS.items():
            (self.folder / "secrets" / name).write_text(secret)

    async def try_compose(self, *text: str) -> tuple[int, str, str]:
        """What podman-compose says, in its folder and with its variables only."""
        files = ("-f", "docker-compose.yml", "-f", "compose.test.yml")
        options = ("--podman-path", PODMAN, "--in-pod", "false", "--no-ansi")
        return await called(
            COMPOSE, *options, *files, *text, within_s=BRINGING_UP_S, folder=self.folder, environment=self.environment
        )

    async def compose(self, *text: str) -> str:
        """The same, and it worked; it does not always say so when a container did not obey."""
        code, said, complained = await self.try_compose(*text)
        assert code == 0, f"compose {' '.join(text)}:\n{complained}\n{said}"
        return said + complained

    async def is_ready(self) -> bool:
        """What the published port tells."""
        try:
            async with aiohttp.request("GET", f"http://127.0.0.1:{self.port}/health/ready") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def ready(self) -> None:
        await eventually(self.is_ready, "ready", within_s=READY_S)

    async def ask(self, *text: str) -> Any:
        """What a command of ours answers inside the daemon's container, as a document."""
        return json.loads(await podman("exec", await self.container("daemon"), "flowstate-daemon", *text, "--json"))

    async def container(self, service: str) -> str:
        label = "label=com.docker.compose.service=" + service
        return await podman("ps", "--all", "--quiet", "--filter", label, "--filter", PROJECT)

    async def facts(self, service: str) -> dict[str, Any]:
        (found,) = json.loads(await podman("inspect", await self.container(service)))
        return dict(found)

    async def is_healthy(self, service: str) -> bool:
        """What its health check says, run once as an engine's timer would."""
        return (await called(PODMAN, "healthcheck", "run", await self.container(service)))[0] == 0

    async def metric(self, name: str) -> float | None:
        """What Prometheus knows of it now; None while it knows nothing."""
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/query?query={name}"
        try:
            async with aiohttp.request("GET", url) as response:
                found = (await response.json())["data"]["result"]
                return float(found[0]["value"][1]) if found else None
        except aiohttp.ClientError:
            return None

    def accepted(self) -> list[dict[str, Any]]:
        """The mails that the provider has accepted."""
        return [json.loads(line) for line in (self.journal / "mails").read_text().splitlines()]


@pytest.fixture(scope="module")
async def stack(image: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Everything but the watchers, up; gone afterwards, with its volumes."""
    stack = Stack(tmp_path_factory.mktemp("compose"))
    stack.prepare()
    await podman("tag", image, f"flowstate-daemon:{__version__}")
    try:
        await stack.compose("up", "--detach", "--no-build")
        await stack.ready()
        yield stack
    finally:
        output = await stack.compose(*WATCHED, "down", "--volumes", "--timeout", "5")
        assert await podman("ps", "--all", "--quiet", "--filter", PROJECT) == "", output
        await podman("untag", image, f"flowstate-daemon:{__version__}")


async def test_a_mail_is_sent(stack: Stack) -> None:
    """From the queue in one container to the provider in another, and the ledger in a third knows it."""
    await stack.ask("enqueue", "welcome", "--to", "ada@example.org", "--context", '{"name": "Ada"}', "--wait", "30")
    assert [mail["to"] for mail in stack.accepted()].count(["ada@example.org"]) == 1


async def test_the_ledger_is_in_postgres(stack: Stack) -> None:
    """With a password out of a file, which the URL has to write as %20, and Prisma's `?schema=public`."""
    await stack.ask("enqueue", "welcome", "--to", "bob@example.org", "--context", '{"name": "Bob"}', "--wait", "30")

    async def is_known() -> bool:
        mails = (await stack.ask("explain", "bob@example.org"))["mails"]
        return [one["outcome"] for mail in mails for one in mail["tries"]] == ["sent"]

    await eventually(is_known, "the mail in the ledger", within_s=READY_S)


async def test_the_stores_are_started_first(stack: Stack) -> None:
    """In the order of `depends_on`."""
    started = {
        name: datetime.fromisoformat((await stack.facts(name))["State"]["StartedAt"]) for name in ("daemon", *STORES)
    }
    assert started["daemon"] > max(started[name] for name in STORES)


@pytest.mark.parametrize("service", ["daemon", *STORES])
async def test_its_health_check_passes(stack: Stack, service: str) -> None:
    """As the file, or the image, writes it; nothing that it calls is missing."""
    await eventually(lambda: stack.is_healthy(service), f"{service} healthy", within_s=READY_S)


@pytest.mark.parametrize("service", STORES)
async def test_its_health_check_fails_where_nothing_serves(stack: Stack, service: str) -> None:
    """In a container of the same image in which only the check runs: a no of its own, not a program that is missing."""
    _, program, *text = FILE["services"][service]["healthcheck"]["test"]
    image = FILE["services"][service]["image"]
    code, _, complained = await called(PODMAN, "run", "--rm", "--network=none", f"--entrypoint={program}", image, *text)
    assert code in {1, 2}, complained


async def test_the_daemon_is_locked_down(stack: Stack) -> None:
    """What the file asks for is what it runs with."""
    facts = await stack.facts("daemon")
    assert facts["HostConfig"]["ReadonlyRootfs"] is True
    status = await podman("exec", facts["Id"], "python", "-c", "print(open('/proc/1/status').read())")
    assert {"CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Uid:\t10001\t10001\t10001\t10001"} <= set(
        status.split("\n")
    )


async def test_the_daemon_sees_its_own_secrets_only(stack: Stack) -> None:
    """Each is a file that it can read, and cannot change."""
    seen = await podman("exec", await stack.container("daemon"), "python", "-c", SECRETS_SEEN)
    assert set(seen.split()) == {f"{name}:False" for name in FILE["services"]["daemon"]["secrets"]}


async def test_no_secret_is_in_a_variable(stack: Stack) -> None:
    """Whoever may inspect containers, or reads a child's environment, sees none; nor does the log tell any."""
    for service in ("daemon", "redis", "postgres"):
        shown = json.dumps((await stack.facts(service))["Config"])
        _, said, complained = await called(PODMAN, "logs", await stack.container(service))
        assert not [secret for secret in SECRETS.values() if secret in shown + said + complained]


async def test_what_is_published_is_published_to_this_machine(stack: Stack) -> None:
    """Redis and Postgres to nobody."""
    bound = {name: (await stack.facts(name))["HostConfig"]["PortBindings"] for name in ("daemon", "redis", "postgres")}
    assert bound == {
        "daemon": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]},
        "redis": {"6379/tcp": None},
        "postgres": {"5432/tcp": None},
    }


async def test_all_survives_a_stop(stack: Stack) -> None:
    """All exit 0, so the daemon has drained; started again it has its queue, and sends on."""
    await stack.ask("queue", "pause")
    await stack.ask("enqueue", "welcome", "--to", "eve@example.org", "--context", '{"name": "Eve"}')
    output = await stack.compose("stop")
    states = [(await stack.facts(name))["State"] for name in ("daemon", *STORES)]
    assert [(state["Status"], state["ExitCode"]) for state in states] == [("exited", 0)] * 3, output
    await stack.compose("start")
    await stack.ready()
    await stack.ask("queue", "resume")

    async def is_sent() -> bool:
        return ["eve@example.org"] in [mail["to"] for mail in stack.accepted()]

    await eventually(is_sent, "the mail that waited", within_s=READY_S)


async def test_prometheus_watches_the_daemon(stack: Stack) -> None:
    """With the profile and the configuration beside the file, read-only and without rights: it knows of a mail."""
    await stack.compose(*WATCHED, "up", "--detach", "--no-build", "prometheus")
    await eventually(lambda: stack.is_healthy("prometheus"), "prometheus healthy", within_s=READY_S)

    async def knows_mails() -> bool:
        return bool(await stack.metric("sum(flowstate_mails_total)"))

    await eventually(knows_mails, "a mail in Prometheus", within_s=READY_S)
    assert await stack.metric('flowstate_ready{job="flowstate-daemon"}') == 1


async def test_the_profile_is_complete(stack: Stack) -> None:
    """Both watchers with all variables filled in; no image of Grafana is here to start it with."""
    services = yaml.safe_load((await stack.try_compose(*WATCHED, "config"))[1])["services"]
    assert services["prometheus"]["ports"] == [f"127.0.0.1:{stack.prometheus_port}:9090"]
    assert services["grafana"]["ports"] == ["127.0.0.1:3000:3000"]
    assert "${" not in json.dumps(services)


@pytest.mark.parametrize("name", ["RESEND_FROM_EMAIL", "FRONTEND_URL"])
async def test_it_refuses_without(stack: Stack, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What has no default: nothing is started, and the word says what to set."""
    monkeypatch.delitem(stack.environment, name)
    code, _, complained = await stack.try_compose("config")
    assert code != 0
    assert "set it to" in complained
