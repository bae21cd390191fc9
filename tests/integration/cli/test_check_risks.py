"""`check` names what looks healthy and is not: each with a remedy."""

from __future__ import annotations

from redis.asyncio import Redis

from flowstate_daemon.cli.check.result import Level
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.cli.conftest import Check
from tests.support.fake_resend import FakeResend


async def test_outbox_is_a_warning(check: Check) -> None:
    """Asked for or not, no email is sent."""
    result = (await check())["provider"]
    assert (result.level, result.remedy.startswith("unset FLOWSTATE_DELIVERY")) == (Level.WARN, True)
    assert "delivery is outbox" in result.message


async def test_queue_that_was_never_used_is_a_warning(check: Check, redis: Redis, keys: Keys) -> None:
    """Most likely the backend uses another prefix. Bull's counter shows that it was used, also when it is empty."""
    result = (await check())["queue"]
    assert result.level is Level.WARN
    assert "no job was ever added" in result.message
    assert all(part in result.remedy for part in ("FLOWSTATE_QUEUE_PREFIX", "FLOWSTATE_QUEUE_NAME", "database 0"))
    await redis.set(keys("id"), 7)
    assert (await check())["queue"].level is Level.OK


async def test_ledger_that_is_gone_fails(check: Check, redis: Redis, keys: Keys) -> None:
    """Only where emails are sent to people; with the setting that allows it, it is a warning."""
    await redis.set(keys.own("ledger-used"), 1)
    async with FakeResend() as fake:
        sending = {"RESEND_API_URL": fake.url, "RESEND_API_KEY": fake.api_key}
        result = (await check(**sending))["ledger"]
        assert (result.level, "set DATABASE_URL" in result.remedy) == (Level.FAIL, True)
        result = (await check(**sending, FLOWSTATE_DATABASE_WITHOUT_LEDGER="true"))["ledger"]
        assert result.level is Level.WARN
        assert "ledger" not in await check()


async def test_settings_that_send_broken_links_are_warnings(check: Check, database_url: str) -> None:
    """All in one run, beside the line about the schedules."""
    async with FakeResend() as fake:
        results = await check(
            RESEND_API_URL=fake.url,
            RESEND_API_KEY=fake.api_key,
            DATABASE_URL=database_url,
            FLOWSTATE_HTTP_PUBLIC_URL="http://mail.example.com",
        )
    for name in ("links", "unsubscribe links", "webhooks"):
        assert results[name].level is Level.WARN
        assert results[name].remedy
    assert results["schedules"].message.startswith("on: task-reminder, ")
