"""The command `health` next to a running daemon, as a container supervisor runs it."""

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


async def run_health(daemon: Daemon, *options: str) -> tuple[int, str]:
    """Exit code and output of `flowstate-daemon health` with the environment of the daemon."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "flowstate_daemon",
        "health",
        *options,
        env={"FLOWSTATE_HTTP_PORT": str(daemon.port)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def health_document(daemon: Daemon, *options: str) -> dict[str, Any]:
    return dict(json.loads((await run_health(daemon, *options, "--json"))[1]))


async def test_health_of_a_ready_daemon_exits_0(make_daemon: MakeDaemon) -> None:
    """`health` and `health --ready` exit with 0 and name the instance."""
    async with make_daemon("mail-1") as daemon:
        await daemon.ready()
        code, output = await run_health(daemon)
        assert (code, output.partition(",")[0]) == (0, "alive: mail-1")
        code, output = await run_health(daemon, "--ready")
        assert (code, output.partition(",")[0]) == (0, "ready: mail-1")


async def test_draining_daemon_is_live_but_not_ready(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """A supervisor does not kill it, and a load balancer sends no requests to it."""
    provider.hold()
    async with make_daemon() as daemon:
        await daemon.ready()
        await enqueue(connection, keys, 1)
        await eventually(lambda: _busy(daemon), "an email in flight")
        daemon.send(signal.SIGTERM)
        await eventually(lambda: _draining(daemon), "draining")
        assert (await run_health(daemon))[0] == 0
        code, output = await run_health(daemon, "--ready")
        assert code == 1
        assert "\n  - draining: " in output
        assert (await health_document(daemon, "--ready"))["status"] == "not_ready"
        provider.release()
        assert await daemon.ended() == 0


async def test_health_of_a_frozen_daemon_exits_1(make_daemon: MakeDaemon) -> None:
    """Its port accepts connections, but there is no response within the timeout."""
    async with make_daemon() as daemon:
        await daemon.ready()
        daemon.send(signal.SIGSTOP)
        assert (await run_health(daemon, "--timeout", "0.5"))[0] == 1
        assert (await health_document(daemon, "--timeout", "0.5"))["status"] == "unreachable"
        daemon.send(signal.SIGCONT)


async def _busy(daemon: Daemon) -> bool:
    return "flowstate_jobs_in_flight 1.0" in (await daemon.look("/metrics"))[1]


async def _draining(daemon: Daemon) -> bool:
    return (await daemon.look("/health/ready"))[0] == 503
