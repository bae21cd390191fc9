"""`check` on the provider and on this machine's port."""

from __future__ import annotations

import asyncio

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.web.health import Health, InstanceInfo
from flowstate_daemon.web.server import HttpServer
from tests.integration.cli.conftest import Check
from tests.support.fake_resend import FakeResend


async def test_a_daemon_that_runs_already_may_hold_the_port(check: Check) -> None:
    """It is recognised by its own answer, and named."""
    web = HttpServer(Health(HealthRegistry(Clock()), InstanceInfo("1.2.3", "vm-7")).routes(), host="127.0.0.1", port=0)
    await web.open()
    result = (await check(FLOWSTATE_HTTP_PORT=str(web.bound_port)))["http port"]
    await web.close()
    assert result.level is Level.OK
    assert "vm-7" in result.message


async def test_a_port_that_somebody_else_holds_is_a_failure(check: Check) -> None:
    """`run` could not start."""

    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result = (await check(FLOWSTATE_HTTP_PORT=str(port)))["http port"]
    server.close()
    await server.wait_closed()
    assert result.level is Level.FAIL
    assert "another program" in result.message


async def test_the_providers_word_on_key_and_domain(check: Check) -> None:
    """A full key tells the domain, a restricted one cannot, a wrong one is refused."""
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
