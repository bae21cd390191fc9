"""The image, built and run: read-only, without privileges, shell or tools; SIGTERM drains. Run by `make test-image`."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate_daemon import __version__
from flowstate_daemon.dev.embedded import free_port
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.deploy.containers import LOCKED_DOWN, PODMAN, Container, podman, run_command
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

# /usr/bin contains the shells and tools of the base image, but not Python. It is replaced by an empty folder.
NO_SHELL = ("--tmpfs=/usr/bin:notmpcopyup",)
WRITABLE = """
import os
places = (os.path.join(top, name) for top, _, names in os.walk('/') for name in (*names, '.'))
found = [place for place in places if os.access(place, os.W_OK) and not os.path.islink(place)]
print(*[place for place in found if not place.startswith(('/proc/', '/sys/', '/dev/', '/tmp/', '/var/tmp/', '/run/'))])
"""
CREATE_ORPHAN = """
import os, time
reader, writer = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.close(reader)
        while os.getppid() != 1:
            time.sleep(0.01)
        os.write(writer, str(os.getpid()).encode())
        os._exit(0)
    os._exit(0)
os.wait()
os.close(writer)
print(os.read(reader, 20).decode())
"""
PROCESS_EXISTS = "import os; print(os.path.exists('/proc/{}'))"
LIST_OUTBOX = "import os; print(*os.listdir('/var/lib/flowstate-daemon/outbox'))"


@pytest.fixture
async def provider() -> AsyncIterator[FakeResend]:
    async with FakeResend() as fake:
        yield fake


@pytest.fixture
def environment(image: str, valkey_url: str, keys: Keys, provider: FakeResend) -> dict[str, str]:
    """The environment of a daemon on the test's own queue and provider."""
    return {
        "REDIS_URL": valkey_url,
        "RESEND_API_URL": provider.url,
        "RESEND_API_KEY": provider.api_key,
        "RESEND_FROM_EMAIL": "FlowState <hello@flowstate.example>",
        "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
        "FLOWSTATE_QUEUE_INSTANCE_ID": "image",
        "FLOWSTATE_HTTP_HOST": "127.0.0.1",  # loopback of the host, whose network is shared
        "FLOWSTATE_HTTP_PORT": str(free_port()),
    }


@pytest.fixture
async def facts(image: str) -> dict[str, Any]:
    """The configuration of the image."""
    (found,) = json.loads(await podman("image", "inspect", image))
    return {**found["Config"], "Healthcheck": found["Healthcheck"]}


def test_image_configuration_is_complete(facts: dict[str, Any]) -> None:
    """User, entrypoint, command, stop signal, health check and version are set, and no variable is a secret."""
    assert facts["User"] == "10001:10001"
    assert facts["Entrypoint"] == ["flowstate-daemon"]
    assert facts["Cmd"] == ["run"]
    assert facts["StopSignal"] == "SIGTERM"
    assert facts["Healthcheck"]["Test"] == ["CMD", "flowstate-daemon", "health"]
    assert facts["Labels"]["org.opencontainers.image.version"] == __version__
    assert not [line for line in facts["Env"] if "KEY" in line or "SECRET" in line or "PASSWORD" in line]


async def test_only_the_outbox_is_writable(image: str) -> None:
    """Even without a read-only root all files belong to root, except for the outbox."""
    found = await podman("run", "--rm", "--entrypoint=python", image, "-c", WRITABLE)
    assert set(found.split()) == {"/var/lib/flowstate-daemon/outbox/."}


async def test_image_contains_no_installer_and_no_sources(image: str) -> None:
    """There is no pip in the base and in the environment, no source tree and no cache."""
    script = "import importlib.util as i, os; print(i.find_spec('pip'), *map(os.path.exists, ('/src', '/root/.cache')))"
    for python in ("python", "/usr/local/bin/python3"):
        assert await podman("run", "--rm", f"--entrypoint={python}", image, "-c", script) == "None False False"


async def test_image_renders_every_email_like_its_source(image: str, tmp_path: Path) -> None:
    """With the reduced locale data every email is rendered identically in each language."""
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    there.chmod(0o777)
    text = ("mail", "preview", "--output")
    program = Path(sys.executable).with_name("flowstate-daemon")
    code, _, stderr = await run_command(program, *text, here)
    assert code == 0, stderr
    await podman("run", "--rm", *LOCKED_DOWN, f"--volume={there}:/preview", image, *text, "/preview")
    rendered = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in (here, there)]
    assert rendered[0]
    assert rendered[0] == rendered[1]


async def test_image_works_locked_down_and_without_a_shell(
    environment: dict[str, str], provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """Read-only, without capabilities, privileges and tools, it is healthy and ready, and sends an email."""
    async with Container() as container:
        await container.start(environment=environment, options=(*LOCKED_DOWN, *NO_SHELL))
        await container.ready()
        assert await container.healthy()
        assert (await container.run("sh", "-c", "true"))[0] == 127
        status = await container.python("print(open('/proc/1/cmdline').read(), open('/proc/1/status').read())")
        assert "flowstate-daemon\0run" in status
        assert {"CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Uid:\t10001\t10001\t10001\t10001"} <= set(
            status.split("\n")
        )
        await enqueue(connection, keys, 1)
        await eventually(lambda: _accepted(provider, 1), "one email accepted")


async def test_health_check_fails_when_the_daemon_is_frozen(environment: dict[str, str]) -> None:
    """The health check of a frozen daemon fails after its timeout, although the port accepts connections."""
    async with Container() as container:
        await container.start(environment=environment)
        await container.ready()
        await podman("kill", "--signal=STOP", container.name)
        assert not await container.healthy()
        await podman("kill", "--signal=CONT", container.name)
        await eventually(container.healthy, "healthy again")


async def test_sigterm_drains(
    environment: dict[str, str], provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """SIGTERM to PID 1 drains: emails in flight are sent, other jobs stay in the queue, and the exit code is 0."""
    provider.hold()
    async with Container() as container:
        await container.start(environment={**environment, "FLOWSTATE_QUEUE_CONCURRENCY": "3"})
        await container.ready()
        await enqueue(connection, keys, 5)
        await eventually(lambda: _in_flight(redis, keys, 3), "three emails in flight")
        await podman("kill", "--signal=TERM", container.name)
        await eventually(lambda: _is_draining(container), "draining")
        provider.release()
        assert await container.exit_code() == 0
        assert '"stopped"' in await container.log()
    assert len(provider.accepted) == 3
    assert await redis.llen(keys("active")) == 0
    assert await redis.llen(keys("wait")) == 2


async def test_stop_releases_jobs_after_the_drain_timeout(
    environment: dict[str, str], provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """Before the grace period ends, jobs in flight are released without a lock, and the exit code is 0."""
    provider.hold()
    async with Container() as container:
        await container.start(environment={**environment, "FLOWSTATE_QUEUE_SHUTDOWN_TIMEOUT_S": "1"})
        await container.ready()
        await enqueue(connection, keys, 2)
        await eventually(lambda: _in_flight(redis, keys, 2), "two emails in flight")
        assert await container.stop(grace_s=30) == 0
    assert await redis.llen(keys("active")) == 0
    assert await redis.llen(keys("wait")) == 2


async def test_stop_during_the_start_ends_at_once(environment: dict[str, str]) -> None:
    """PID 1 has no default action for SIGTERM, so the daemon handles it from the beginning."""
    async with Container() as container:
        await container.start(environment=environment)
        assert await container.stop(grace_s=30) in {0, 143}


async def test_orphans_are_reaped(environment: dict[str, str]) -> None:
    """An orphan of an exec session becomes a child of PID 1 and does not stay as a zombie."""
    async with Container() as container:
        await container.start(environment=environment)
        await container.ready()
        orphan = await container.python(CREATE_ORPHAN)

        async def gone() -> bool:
            return await container.python(PROCESS_EXISTS.format(orphan)) == "False"

        await eventually(gone, f"process {orphan} gone")


async def test_outbox_is_written_to_the_volume(environment: dict[str, str], connection: Connection, keys: Keys) -> None:
    """Emails of the outbox are written to the volume, the only writable folder."""
    async with Container() as container:
        await container.start(environment={**environment, "RESEND_API_KEY": "", "FLOWSTATE_DELIVERY": "outbox"})
        await container.ready()
        await enqueue(connection, keys, 1)

        async def written() -> bool:
            return (await container.python(LIST_OUTBOX)).endswith(".eml")

        await eventually(written, "one email written")


async def test_wrong_configuration_exits_78(image: str) -> None:
    """The log names the error, and the exit code keeps a supervisor from restarting it."""
    code, output, stderr = await run_command(PODMAN, "run", "--rm", *LOCKED_DOWN, image)
    assert code == 78
    assert "RESEND_FROM_EMAIL: missing" in output + stderr


async def test_unreadable_secret_file_is_named(image: str, tmp_path: Path) -> None:
    """When only root may read a secret file, the exit code is 78 and the message names the file."""
    secret = tmp_path / "key"
    secret.write_text("re_secret")
    secret.chmod(0o600)
    options = (f"--volume={secret}:/run/secrets/key:ro", "--env=RESEND_API_KEY_FILE=/run/secrets/key")
    code, output, stderr = await run_command(PODMAN, "run", "--rm", *LOCKED_DOWN, *options, image)
    assert code == 78
    assert "/run/secrets/key" in output + stderr


async def _accepted(provider: FakeResend, count: int) -> bool:
    return len(provider.accepted) == count


async def _in_flight(redis: Redis, keys: Keys, count: int) -> bool:
    return int(await redis.llen(keys("active"))) == count


async def _is_draining(container: Container) -> bool:
    return '"draining"' in await container.log()
