"""`check` of the HTTP port of this machine and of the provider."""

from __future__ import annotations

import asyncio

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.web.health import Health, InstanceInfo
from flowstate_daemon.web.server import HttpServer
from tests.integration.cli.conftest import Check
from tests.support.fake_resend import FakeResend


async def test_port_held_by_a_running_daemon_is_ok(check: Check) -> None:
    """The running daemon is recognized by its health response, and its instance is named."""
    web = HttpServer(Health(HealthRegistry(Clock()), InstanceInfo("1.2.3", "vm-7")).routes(), host="127.0.0.1", port=0)
    await web.open()
    result = (await check(FLOWSTATE_HTTP_PORT=str(web.bound_port)))["http port"]
    await web.close()
    assert result.level is Level.OK
    assert "vm-7" in result.message


async def test_port_held_by_another_program_fails(check: Check) -> None:
    """The check fails, because `run` could not start."""

    async def close_connection(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close_connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result = (await check(FLOWSTATE_HTTP_PORT=str(port)))["http port"]
    server.close()
    await server.wait_closed()
    assert result.level is Level.FAIL
    assert "another program" in result.message


async def test_key_and_sender_domain_are_checked_with_the_provider(check: Check) -> None:
    """A full key can read the domain, a sending key cannot, and a wrong key fails."""
    async with FakeResend() as fake:
        settings = {"RESEND_API_URL": fake.url, "RESEND_API_KEY": fake.api_key}
        fake.verified = {"flowstate.dev"}
        full = await check(**settings)
        assert (full["provider"].level, full["sender domain"].level) == (Level.OK, Level.OK)
        fake.send_only = True
        assert "may send only" in (await check(**settings))["provider"].message
        wrong = await check(**{**settings, "RESEND_API_KEY": "re_wrong"})
        assert wrong["provider"].level is Level.FAIL
        assert fake.accepted == []
