"""docker-compose.yml, started as it is, with replacements for the third-party images and a fake provider.

podman-compose starts services in order, but waits for `service_healthy` only from podman 4.6 on: with Debian 12 the
daemon starts before its stores are up, and has to wait for them.
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
from urllib.parse import quote

import aiohttp
import pytest
import yaml

from flowstate_daemon import __version__
from flowstate_daemon.dev.embedded import free_port
from tests.deploy.compose_secrets import redis_users
from tests.deploy.containers import HERE, PODMAN, podman, run_command
from tests.support.fake_resend import API_KEY
from tests.support.waiting import eventually

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

ROOT = HERE.parents[1]
COMPOSE = Path(sys.executable).with_name("podman-compose")
FILE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
STORES = ("redis", "postgres")
NAME = FILE["name"]
PROJECT = f"label=com.docker.compose.project={NAME}"
MONITORING = ("--profile", "observability")
LIST_SECRETS = """
import os
os.chdir('/run/secrets')
print(*(f'{name}:{os.access(name, os.W_OK)}' for name in os.listdir() if open(name).read()))
"""
COMPOSE_TIMEOUT_S = 300.0
READY_S = 90.0
REDIS_PASSWORD = "0c1f6b9e2d7a4853"
MAILER_PASSWORD = "a pass"
SECRETS = {
    "resend_api_key": API_KEY,
    "redis_url": f"redis://mailer:{REDIS_PASSWORD}@redis:6379",
    "redis_users": redis_users("51e0a7c3f8b2946d", REDIS_PASSWORD),
    "database_url": "postgresql://mailer:a%20pass@postgres:5432/flowstate?schema=public",
    "link_secret": "7f3a91c05be24d68a1f0c3927d5e8b64",
    "api_token": "d4086e31c7ab5f92034be6d18fa97c25",
    "read_token": "5b92c7e0d1f34a86907be2cd1843f6a0",
    "webhook_secret": "",
    "otlp_headers": "",
    "postgres_password": "the pass of an administrator",
    "mailer_password": MAILER_PASSWORD,
    "grafana_password": "another",
}
# Digests name the published images only; these are the replacements that image.sh makes.
IMAGES = {
    "IMAGE_REDIS": "redis:7-alpine",
    "IMAGE_POSTGRES": "postgres:16-alpine",
    "IMAGE_PROMETHEUS": "prom/prometheus:v3.7.3",
}


def image_of(service: str) -> str:
    """The image that a service of the file runs here."""
    return IMAGES[FILE["services"][service]["image"].removeprefix("${").partition(":")[0]]


class Stack:
    """The services of the compose file, in their own folder with its secrets."""

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
            **IMAGES,
        }

    def prepare(self) -> None:
        """Create the folder as in docs/container.md; another user writes the journal and reads the secrets."""
        for name in ("docker-compose.yml", "tests/deploy/compose.test.yml"):
            shutil.copy(ROOT / name, self.folder)
        shutil.copytree(ROOT / "config", self.folder / "config")
        self.journal.mkdir(mode=0o777)
        self.journal.chmod(0o777)
        (self.folder / "secrets").mkdir(mode=0o700)
        for name, secret in SECRETS.items():
            (self.folder / "secrets" / name).write_text(secret)

    async def try_compose(self, *text: str) -> tuple[int, str, str]:
        """Exit code and output of podman-compose, run in the folder with only the given variables."""
        files = ("-f", "docker-compose.yml", "-f", "compose.test.yml")
        options = ("--podman-path", PODMAN, "--in-pod", "false", "--no-ansi")
        return await run_command(
            COMPOSE,
            *options,
            *files,
            *text,
            within_s=COMPOSE_TIMEOUT_S,
            folder=self.folder,
            environment=self.environment,
        )

    async def compose(self, *text: str) -> str:
        """The output of a command that must succeed. podman-compose may exit with 0 when a container failed."""
        code, output, stderr = await self.try_compose(*text)
        assert code == 0, f"compose {' '.join(text)}:\n{stderr}\n{output}"
        return output + stderr

    async def is_ready(self) -> bool:
        """Whether the daemon is ready, asked through the published port."""
        try:
            async with aiohttp.request("GET", f"http://127.0.0.1:{self.port}/health/ready") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def ready(self) -> None:
        await eventually(self.is_ready, "ready", within_s=READY_S)

    async def run_json(self, *text: str) -> Any:
        """Run a command in the daemon's container with --json; the document that it prints."""
        return json.loads(await podman("exec", await self.container("daemon"), "flowstate-daemon", *text, "--json"))

    async def container(self, service: str) -> str:
        label = "label=com.docker.compose.service=" + service
        return await podman("ps", "--all", "--quiet", "--filter", label, "--filter", PROJECT)

    async def facts(self, service: str) -> dict[str, Any]:
        (found,) = json.loads(await podman("inspect", await self.container(service)))
        return dict(found)

    async def is_healthy(self, service: str) -> bool:
        """The result of its health check, run once as a container engine would."""
        return (await run_command(PODMAN, "healthcheck", "run", await self.container(service)))[0] == 0

    async def metric(self, name: str) -> float | None:
        """The current value in Prometheus; None if there is none."""
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/query?query={name}"
        try:
            async with aiohttp.request("GET", url) as response:
                found = (await response.json())["data"]["result"]
                return float(found[0]["value"][1]) if found else None
        except aiohttp.ClientError:
            return None

    def accepted(self) -> list[dict[str, Any]]:
        """The emails that the provider has accepted."""
        return [json.loads(line) for line in (self.journal / "mails").read_text().splitlines()]


@pytest.fixture(scope="module")
async def stack(image: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """All services except monitoring, running; removed afterwards with their volumes."""
    stack = Stack(tmp_path_factory.mktemp("compose"))
    stack.prepare()
    await podman("tag", image, f"flowstate-daemon:{__version__}")
    try:
        await stack.compose("up", "--detach", "--no-build")
        await stack.ready()
        yield stack
    finally:
        output = await stack.compose(*MONITORING, "down", "--volumes", "--timeout", "5")
        assert await podman("ps", "--all", "--quiet", "--filter", PROJECT) == "", output
        await podman("untag", image, f"flowstate-daemon:{__version__}")


async def test_email_is_sent(stack: Stack) -> None:
    """An email is sent from the queue in one container to the provider in another."""
    await stack.run_json(
        "enqueue", "welcome", "--to", "ada@example.org", "--context", '{"name": "Ada"}', "--wait", "30"
    )
    assert [mail["to"] for mail in stack.accepted()].count(["ada@example.org"]) == 1


async def test_ledger_is_written_to_postgres(stack: Stack) -> None:
    """The role of the daemon exists; its URL has a password with an encoded space, and Prisma's `?schema=public`."""
    await stack.run_json(
        "enqueue", "welcome", "--to", "bob@example.org", "--context", '{"name": "Bob"}', "--wait", "30"
    )

    async def is_known() -> bool:
        mails = (await stack.run_json("explain", "bob@example.org"))["mails"]
        return [one["outcome"] for mail in mails for one in mail["attempts"]] == ["sent"]

    await eventually(is_known, "the email in the ledger", within_s=READY_S)


async def test_daemon_is_no_superuser_of_postgres(stack: Stack) -> None:
    """The role of the daemon owns its schema and is no administrator."""
    query = ("psql", "--username=flowstate", "--dbname=flowstate", "--no-align", "--tuples-only", "--command")
    rights = "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = 'mailer'"
    owner = "SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'flowstate_daemon'"
    postgres = await stack.container("postgres")
    login = ("exec", "--env=PGHOST=/run/postgresql", f"--env=PGPASSWORD={SECRETS['postgres_password']}", postgres)
    assert await podman(*login, *query, rights) == "f"
    assert await podman(*login, *query, owner) == "mailer"


async def test_redis_and_postgres_need_a_password(stack: Stack) -> None:
    """Redis answers nothing without a password, and the user of the health check may only ping."""
    redis = await stack.container("redis")
    assert "NOAUTH" in await podman("exec", redis, "redis-cli", "keys", "*")
    assert "NOPERM" in await podman("exec", redis, "redis-cli", "--user", "health", "--pass", "none", "keys", "*")


async def test_monitoring_cannot_reach_the_stores(stack: Stack) -> None:
    """Only the daemon is on the network of the stores."""
    networks = {name: set((await stack.facts(name))["NetworkSettings"]["Networks"]) for name in ("daemon", *STORES)}
    assert networks == {
        "daemon": {f"{NAME}_stores", f"{NAME}_metrics"},
        "redis": {f"{NAME}_stores"},
        "postgres": {f"{NAME}_stores"},
    }


async def test_tokens_are_used(stack: Stack) -> None:
    """The API answers with the tokens of the files, and not without one; one of them may only read."""
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{stack.port}/api/v1/queue"
        async with session.get(url) as refused:
            assert refused.status == 401
        for name, expected in (("api_token", 200), ("read_token", 403)):
            headers = {"Authorization": f"Bearer {SECRETS[name]}"}
            async with session.get(url, headers=headers) as response:
                assert response.status == 200
            async with session.post(f"{url}/resume", headers=headers) as response:
                assert response.status == expected


async def test_stores_are_started_first(stack: Stack) -> None:
    """The daemon starts after its stores, in the order of `depends_on`."""
    started = {
        name: datetime.fromisoformat((await stack.facts(name))["State"]["StartedAt"]) for name in ("daemon", *STORES)
    }
    assert started["daemon"] > max(started[name] for name in STORES)


@pytest.mark.parametrize("service", ["daemon", *STORES])
async def test_health_check_passes(stack: Stack, service: str) -> None:
    """The health check of the file or of the image passes, so no program that it runs is missing."""
    await eventually(lambda: stack.is_healthy(service), f"{service} healthy", within_s=READY_S)


@pytest.mark.parametrize("service", STORES)
async def test_health_check_fails_without_a_server(stack: Stack, service: str) -> None:
    """In a container of the same image without a server the check exits with its own failure code."""
    _, program, *text = FILE["services"][service]["healthcheck"]["test"]
    image = image_of(service)
    code, _, stderr = await run_command(
        PODMAN, "run", "--rm", "--network=none", f"--entrypoint={program}", image, *text
    )
    assert code in {1, 2}, stderr


async def test_daemon_is_locked_down(stack: Stack) -> None:
    """The process runs read-only, without capabilities and as the user of the file."""
    facts = await stack.facts("daemon")
    assert facts["HostConfig"]["ReadonlyRootfs"] is True
    status = await podman("exec", facts["Id"], "python", "-c", "print(open('/proc/1/status').read())")
    assert {"CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Uid:\t10001\t10001\t10001\t10001"} <= set(
        status.split("\n")
    )


async def test_daemon_sees_only_its_own_secrets(stack: Stack) -> None:
    """Each of its secrets is a file that it can read and cannot write."""
    secrets = await podman("exec", await stack.container("daemon"), "python", "-c", LIST_SECRETS)
    there = [name for name in FILE["services"]["daemon"]["secrets"] if SECRETS[name]]
    assert set(secrets.split()) == {f"{name}:False" for name in there}


async def test_variables_and_logs_contain_no_secret(stack: Stack) -> None:
    """Neither the configuration of a container nor its log contains a secret."""
    for service in ("daemon", "redis", "postgres"):
        shown = json.dumps((await stack.facts(service))["Config"])
        _, output, stderr = await run_command(PODMAN, "logs", await stack.container(service))
        known = [*SECRETS.values(), REDIS_PASSWORD, quote(MAILER_PASSWORD)]
        assert not [secret for secret in known if secret and secret in shown + output + stderr]


async def test_ports_are_published_to_loopback_only(stack: Stack) -> None:
    """The port of the daemon is published to loopback; Redis and Postgres publish none."""
    bound = {name: (await stack.facts(name))["HostConfig"]["PortBindings"] for name in ("daemon", "redis", "postgres")}
    assert bound == {
        "daemon": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]},
        "redis": {"6379/tcp": None},
        "postgres": {"5432/tcp": None},
    }


async def test_queue_survives_a_stop(stack: Stack) -> None:
    """All services exit with 0, so the daemon has drained; after a restart it sends the waiting email."""
    await stack.run_json("queue", "pause")
    await stack.run_json("enqueue", "welcome", "--to", "eve@example.org", "--context", '{"name": "Eve"}')
    output = await stack.compose("stop")
    states = [(await stack.facts(name))["State"] for name in ("daemon", *STORES)]
    assert [(state["Status"], state["ExitCode"]) for state in states] == [("exited", 0)] * 3, output
    await stack.compose("start")
    await stack.ready()
    await stack.run_json("queue", "resume")

    async def is_sent() -> bool:
        return ["eve@example.org"] in [mail["to"] for mail in stack.accepted()]

    await eventually(is_sent, "the email that waited", within_s=READY_S)


async def test_prometheus_scrapes_the_daemon(stack: Stack) -> None:
    """With the profile and the sample configuration Prometheus has the metrics of a sent email."""
    await stack.compose(*MONITORING, "up", "--detach", "--no-build", "prometheus")
    await eventually(lambda: stack.is_healthy("prometheus"), "prometheus healthy", within_s=READY_S)

    async def has_metric() -> bool:
        return bool(await stack.metric("sum(flowstate_mails_total)"))

    await eventually(has_metric, "an email in Prometheus", within_s=READY_S)
    assert await stack.metric('flowstate_ready{job="flowstate-daemon"}') == 1


async def test_monitoring_profile_is_complete(stack: Stack) -> None:
    """Prometheus and Grafana are configured with all variables; Grafana is not started, for lack of its image."""
    services = yaml.safe_load((await stack.try_compose(*MONITORING, "config"))[1])["services"]
    assert services["prometheus"]["ports"] == [f"127.0.0.1:{stack.prometheus_port}:9090"]
    assert services["grafana"]["ports"] == ["127.0.0.1:3000:3000"]
    assert "${" not in json.dumps(services)


@pytest.mark.parametrize("name", ["RESEND_FROM_EMAIL", "FRONTEND_URL"])
async def test_missing_variable_is_an_error(stack: Stack, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without a variable that has no default nothing is started, and the message names what to set."""
    monkeypatch.delitem(stack.environment, name)
    code, _, stderr = await stack.try_compose("config")
    assert code != 0
    assert "set it to" in stderr
