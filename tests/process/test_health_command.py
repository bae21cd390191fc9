"""The command `health` beside a daemon: what a container's supervisor is told at each turn of its life."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_lifecycle import enqueue
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually


async def asked(daemon: Daemon, *text: str) -> tuple[int, str]:
    """Exit code and output of `flowstate-daemon health` in the daemon's own surroundings."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "flowstate_daemon",
        "health",
        *text,
        env={"FLOWSTATE_HTTP_PORT": str(daemon.port)},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def document(daemon: Daemon, *text: str) -> dict[str, Any]:
    return dict(json.loads((await asked(daemon, *text, "--json"))[1]))


async def test_a_ready_daemon_is_healthy(make_daemon: MakeDaemon) -> None:
    """Both questions exit 0 and name the daemon that answered."""
    async with make_daemon("mail-1") as daemon:
        await daemon.ready()
        code, said = await asked(daemon)
        assert (code, said.partition(",")[0]) == (0, "alive: mail-1")
        code, said = await asked(daemon, "--ready")
        assert (code, said.partition(",")[0]) == (0, "ready: mail-1")


async def test_a_draining_daemon_is_alive_but_not_ready(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """A supervisor must not kill it, a balancer must not count on it."""
    provider.hold()
    async with make_daemon() as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 1)
        await eventually(lambda: _busy(daemon), "a mail under way")
        daemon.send(signal.SIGTERM)
        await eventually(lambda: _draining(daemon), "draining")
        assert (await asked(daemon))[0] == 0
        code, said = await asked(daemon, "--ready")
        assert code == 1
        assert "\n  - draining: " in said
        assert (await document(daemon, "--ready"))["status"] == "not_ready"
        provider.release()
        assert await daemon.ended() == 0


async def test_a_frozen_daemon_is_unhealthy(make_daemon: MakeDaemon) -> None:
    """Its port still accepts, but nobody answers within the timeout."""
    async with make_daemon() as daemon:
        await daemon.ready()
        daemon.send(signal.SIGSTOP)
        assert (await asked(daemon, "--timeout", "0.5"))[0] == 1
        assert (await document(daemon, "--timeout", "0.5"))["status"] == "unreachable"
        daemon.send(signal.SIGCONT)


async def _busy(daemon: Daemon) -> bool:
    return "flowstate_jobs_in_flight 1.0" in (await daemon.look("/metrics"))[1]


async def _draining(daemon: Daemon) -> bool:
    return (await daemon.look("/health/ready"))[0] == 503
