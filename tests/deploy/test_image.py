"""The image, built and run: read-only, without rights, shell or tools; SIGTERM to PID 1 drains. `make test-image`."""

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
from tests.deploy.containers import LOCKED, PODMAN, Container, called, podman
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

# Under /usr/bin stand the shells and every tool of the base; Python is not there. An empty folder takes their place.
NO_SHELL = ("--tmpfs=/usr/bin:notmpcopyup",)
WRITABLE = """
import os
places = (os.path.join(top, name) for top, _, names in os.walk('/') for name in (*names, '.'))
found = [place for place in places if os.access(place, os.W_OK) and not os.path.islink(place)]
print(*[place for place in found if not place.startswith(('/proc/', '/sys/', '/dev/', '/tmp/', '/var/tmp/', '/run/'))])
"""
LEAVE_AN_ORPHAN = """
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
IS_THERE = "import os; print(os.path.exists('/proc/{}'))"
MAILS = "import os; print(*os.listdir('/var/lib/flowstate-daemon/outbox'))"


@pytest.fixture
async def provider() -> AsyncIterator[FakeResend]:
    async with FakeResend() as fake:
        yield fake


@pytest.fixture
def environment(image: str, valkey_url: str, keys: Keys, provider: FakeResend) -> dict[str, str]:
    """A daemon between the test's own queue and provider."""
    return {
        "REDIS_URL": valkey_url,
        "RESEND_API_URL": provider.url,
        "RESEND_API_KEY": provider.api_key,
        "RESEND_FROM_EMAIL": "FlowState <hello@flowstate.example>",
        "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
        "FLOWSTATE_QUEUE_INSTANCE_ID": "image",
        "FLOWSTATE_HTTP_HOST": "127.0.0.1",  # on the host's network, the host's loopback
        "FLOWSTATE_HTTP_PORT": str(free_port()),
    }


@pytest.fixture
async def facts(image: str) -> dict[str, Any]:
    """What the image says of itself."""
    (found,) = json.loads(await podman("image", "inspect", image))
    return {**found["Config"], "Healthcheck": found["Healthcheck"]}


def test_it_tells_an_engine_all_it_has_to_know(facts: dict[str, Any]) -> None:
    """Not root, PID 1 without a shell, how to stop it, how to ask it, which version it is."""
    assert facts["User"] == "10001:10001"
    assert facts["Entrypoint"] == ["flowstate-daemon"]
    assert facts["Cmd"] == ["run"]
    assert facts["StopSignal"] == "SIGTERM"
    assert facts["Healthcheck"]["Test"] == ["CMD", "flowstate-daemon", "health"]
    assert facts["Labels"]["org.opencontainers.image.version"] == __version__
    assert not [line for line in facts["Env"] if "KEY" in line or "SECRET" in line or "PASSWORD" in line]


async def test_the_daemon_can_change_nothing_in_it(image: str) -> None:
    """Even where the root is not read-only: all files are root's, but for the outbox."""
    found = await podman("run", "--rm", "--entrypoint=python", image, "-c", WRITABLE)
    assert set(found.split()) == {"/var/lib/flowstate-daemon/outbox/."}


async def test_nothing_can_be_installed_in_it(image: str) -> None:
    """No pip in the base, none in the environment; and no source tree, no cache."""
    script = "import importlib.util as i, os; print(i.find_spec('pip'), *map(os.path.exists, ('/src', '/root/.cache')))"
    for python in ("python", "/usr/local/bin/python3"):
        assert await podman("run", "--rm", f"--entrypoint={python}", image, "-c", script) == "None False False"


async def test_it_writes_every_mail_as_its_source_does(image: str, tmp_path: Path) -> None:
    """Although it has no more of the world's languages than ours: letter for letter, in each of them."""
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    there.chmod(0o777)
    text = ("mail", "preview", "--output")
    program = Path(sys.executable).with_name("flowstate-daemon")
    code, _, complained = await called(program, *text, here)
    assert code == 0, complained
    await podman("run", "--rm", *LOCKED, f"--volume={there}:/mails", image, *text, "/mails")
    made = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in (here, there)]
    assert made[0]
    assert made[0] == made[1]


async def test_it_works_locked_down_and_without_a_shell(
    environment: dict[str, str], provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """Read-only, no capabilities, no new privileges, not one tool of the base: healthy, ready, and a mail is sent."""
    async with Container() as container:
        await container.start(environment=environment, options=(*LOCKED, *NO_SHELL))
        await container.ready()
        assert await container.healthy()
        assert (await container.run("sh", "-c", "true"))[0] == 127
        status = await container.python("print(open('/proc/1/cmdline').read(), open('/proc/1/status').read())")
        assert "flowstate-daemon\0run" in status
        assert {"CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Uid:\t10001\t10001\t10001\t10001"} <= set(
            status.split("\n")
        )
        await enqueue(connection, keys, 1)
        await eventually(lambda: _accepted(provider, 1), "one mail accepted")


async def test_the_health_check_fails_when_the_daemon_is_frozen(environment: dict[str, str]) -> None:
    """Its port still accepts; the check does not wait for ever."""
    async with Container() as container:
        await container.start(environment=environment)
        await container.ready()
        await podman("kill", "--signal=STOP", container.name)
        assert not await container.healthy()
        await podman("kill", "--signal=CONT", container.name)
        await eventually(container.healthy, "healthy again")


async def test_a_stop_drains(
    environment: dict[str, str], provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """SIGTERM reaches PID 1: mails under way are sent and settled, what was not begun stays, exit 0."""
    provider.hold()
    async with Container() as container:
        await container.start(environment={**environment, "FLOWSTATE_QUEUE_CONCURRENCY": "3"})
        await container.ready()
        await enqueue(connection, keys, 5)
        await eventually(lambda: _under_way(redis, keys, 3), "three mails under way")
        await podman("kill", "--signal=TERM", container.name)
        await eventually(lambda: _drains(container), "draining")
        provider.release()
        assert await container.exit_code() == 0
        assert '"stopped"' in await container.log()
    assert len(provider.accepted) == 3
    assert await redis.llen(keys("active")) == 0
    assert await redis.llen(keys("wait")) == 2


async def test_a_stop_hands_back_what_the_provider_does_not_answer(
    environment: dict[str, str], provider: FakeResend, connection: Connection, keys: Keys, redis: Redis
) -> None:
    """Within its drain, long before the kill: nothing under way is left behind locked, exit 0."""
    provider.hold()
    async with Container() as container:
        await container.start(environment={**environment, "FLOWSTATE_QUEUE_SHUTDOWN_TIMEOUT_S": "1"})
        await container.ready()
        await enqueue(connection, keys, 2)
        await eventually(lambda: _under_way(redis, keys, 2), "two mails under way")
        assert await container.stop(grace_s=30) == 0
    assert await redis.llen(keys("active")) == 0
    assert await redis.llen(keys("wait")) == 2


async def test_a_stop_while_starting_does_not_wait_for_the_kill(environment: dict[str, str]) -> None:
    """PID 1 has no default action for SIGTERM; ours ends at once, however early it comes."""
    async with Container() as container:
        await container.start(environment=environment)
        assert await container.stop(grace_s=30) in {0, 143}


async def test_orphans_are_buried(environment: dict[str, str]) -> None:
    """What an exec session leaves behind becomes PID 1's child, and does not stay as a zombie."""
    async with Container() as container:
        await container.start(environment=environment)
        await container.ready()
        orphan = await container.python(LEAVE_AN_ORPHAN)

        async def gone() -> bool:
            return await container.python(IS_THERE.format(orphan)) == "False"

        await eventually(gone, f"process {orphan} gone")


async def test_without_a_key_mails_are_written_to_the_outbox(
    environment: dict[str, str], connection: Connection, keys: Keys
) -> None:
    """The one place that may be written to is a volume."""
    async with Container() as container:
        await container.start(environment={**environment, "RESEND_API_KEY": ""})
        await container.ready()
        await enqueue(connection, keys, 1)

        async def written() -> bool:
            return (await container.python(MAILS)).endswith(".eml")

        await eventually(written, "one mail written")


async def test_a_wrong_configuration_exits_78(image: str) -> None:
    """And says what is wrong; a supervisor sees that trying again is no use."""
    code, said, complained = await called(PODMAN, "run", "--rm", *LOCKED, image)
    assert code == 78
    assert "RESEND_FROM_EMAIL: missing" in said + complained


async def test_a_secret_that_it_may_not_read_is_named(image: str, tmp_path: Path) -> None:
    """A file of root's alone, as a careful person makes it: it exits 78 and names the file."""
    secret = tmp_path / "key"
    secret.write_text("re_secret")
    secret.chmod(0o600)
    options = (f"--volume={secret}:/run/secrets/key:ro", "--env=RESEND_API_KEY_FILE=/run/secrets/key")
    code, said, complained = await called(PODMAN, "run", "--rm", *LOCKED, *options, image)
    assert code == 78
    assert "/run/secrets/key" in said + complained


async def _accepted(provider: FakeResend, count: int) -> bool:
    return len(provider.accepted) == count


async def _under_way(redis: Redis, keys: Keys, count: int) -> bool:
    return int(await redis.llen(keys("active"))) == count


async def _drains(container: Container) -> bool:
    return '"draining"' in await container.log()
