"""While every request gets 503, command, health and metrics say the same; after the recovery ready is green soon."""

from __future__ import annotations

import asyncio
import json
import sys

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_delivery import enqueue
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend, error
from tests.support.waiting import eventually


async def provider_status(daemon: Daemon) -> dict[str, object]:
    """What an operator sees on the same host."""
    command = (sys.executable, "-m", "flowstate_daemon", "provider", "status", "--json")
    process = await asyncio.create_subprocess_exec(
        *command, env=daemon._environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    found: dict[str, object] = json.loads(output)
    return found


async def test_one_truth_while_the_provider_fails(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """The reason and the next try everywhere; nothing says open."""
    provider.script(error(503, "service_unavailable", "Down for maintenance."), times=None)
    async with make_daemon() as daemon:
        await daemon.ready()
        await enqueue(connection, keys, ["ada@mail.dev"])
        await eventually(lambda: provider.answered[503], "the first failure")
        await enqueue(connection, keys, ["ben@mail.dev"])
        await eventually(lambda: provider.answered[503] > 1, "the second one")
        await enqueue(connection, keys, ["cleo@mail.dev"])

        async def is_red() -> bool:
            status, body = await daemon.look("/health/ready")
            return status == 503 and "provider: Resend: Down for maintenance." in body and "; next try " in body

        await eventually(is_red, "ready is red, with reason and next try")

        async def shown() -> dict[str, object]:
            found = await provider_status(daemon)
            return found if found["state"] != "accepting" else {}

        found = await eventually(shown, "the command shows it")
        [problem] = found["problems"]  # type: ignore[misc]
        assert (found["state"], problem["instance"]) == ("circuit_open", "test")
        assert "Down for maintenance." in problem["reason"]
        assert isinstance(problem["next_probe_ms"], int)
        assert "flowstate_provider_circuit_open 1.0" in (await daemon.look("/metrics"))[1]
        provider.unscript()

        async def is_green() -> bool:
            return (await daemon.look("/health/ready"))[0] == 200

        await eventually(is_green, "ready is green within one probe", within_s=61)
        await eventually(lambda: len(provider.accepted) == 3, "all emails")

        async def accepts() -> bool:
            return (await provider_status(daemon))["state"] == "accepting"

        await eventually(accepts, "the command agrees")
        assert "flowstate_provider_circuit_open 0.0" in (await daemon.look("/metrics"))[1]
