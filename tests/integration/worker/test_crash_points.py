"""kill -9 between every two operations of the send path: nothing lost, nothing sent twice. Every step is tested."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.delivery import responses
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Backoff, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.support.crashing_daemon import CrashingDaemon
from tests.support.fake_resend import Answer, FakeResend, error

GOOD = [f"person{number}@mail.dev" for number in range(5)]
BAD = ["eve@example.com"]  # an address that only the provider refuses
MAX_STEPS = 60
BATCH_PATH = "/emails/batch"


def partial_refusal(fake: FakeResend) -> None:
    """The provider rejects one email of the batch."""


def lost_reply(fake: FakeResend) -> None:
    """The batch is accepted in part, and the response lost: a second try with the same bytes."""
    fake.script(Answer(drop=True), when=lambda incoming: incoming.path == BATCH_PATH)


def strict(fake: FakeResend) -> None:
    """The whole batch is rejected because of one email: it is halved."""
    fake.permissive_known = False


def failing(fake: FakeResend) -> None:
    """An error page, a 409 about a request in progress and a 429 before the request is accepted."""
    fake.script(
        Answer(502, "<html>"), error(409, "resource_locked"), error(429, "rate_limit_exceeded", retry_after="0.1")
    )


def settings(valkey_url: str, keys: Keys, fake: FakeResend) -> dict[str, str]:
    return {
        "REDIS_URL": valkey_url,
        "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
        "FLOWSTATE_QUEUE_INSTANCE_ID": "crashing",
        "FLOWSTATE_HTTP_ENABLED": "false",
        "FLOWSTATE_REDIS_BLOCK_TIMEOUT_S": "0.2",
        "RESEND_API_URL": fake.url,
        "RESEND_API_KEY": fake.api_key,
        "RESEND_FROM_EMAIL": "FlowState <hello@flowstate.dev>",
    }


def job(to: str) -> NewJob:
    content = {"type": "welcome", "to": to, "context": {"name": "Ada"}}
    return NewJob("welcome", content, priority=5, attempts=4, backoff=Backoff("fixed", 20))


async def add_jobs(url: str, keys: Keys, recipients: list[str]) -> None:
    connection = Connection(url, client_name="producer")
    await BullQueue(connection, keys, Clock(), token="test").add_many([job(to) for to in recipients])
    await connection.close()


async def crash_and_restart(
    environment: dict[str, str], keys: Keys, redis: Redis, recipients: list[str], steps: int
) -> tuple[bool, list[str]]:
    """A daemon that crashes after `steps`, and one that ends when all is settled: whether the first did, its steps."""
    await add_jobs(environment["REDIS_URL"], keys, recipients)

    async def settled() -> bool:
        ended = int(await redis.zcard(keys("completed"))) + int(await redis.zcard(keys("failed")))
        return ended == len(recipients)

    first = CrashingDaemon(environment, steps)
    await first.run_until(settled)
    if first.crashed:
        await CrashingDaemon(environment).run_until(settled)
    return len(first.trail) == steps, first.trail


@pytest.mark.timeout(600)
@pytest.mark.parametrize("trouble", [partial_refusal, lost_reply, strict, failing])
@pytest.mark.parametrize("recipients", [[*GOOD[:2], *BAD, *GOOD[2:]], GOOD[:1]], ids=["batch", "single"])
async def test_crash_between_any_two_operations_sends_each_mail_once(
    valkey_url: str,
    keys: Keys,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[FakeResend], None],
    recipients: list[str],
) -> None:
    """Wherever it crashes, the next process sends what is left, and each recipient gets exactly one email."""
    monkeypatch.setattr(responses, "IN_PROGRESS_WAIT_MS", 20)
    wanted = sorted(to for to in recipients if to not in BAD)
    for steps in range(MAX_STEPS):
        here = Keys(f"{keys.prefix}-{steps}", keys.name)
        async with FakeResend() as fake:
            trouble(fake)
            crashed, trail = await crash_and_restart(settings(valkey_url, here, fake), here, redis, recipients, steps)
            where = f"after {steps} steps: {trail[-1:]}"
            assert sorted(accepted.to[0] for accepted in fake.accepted) == wanted, where
        failed = [await redis.hget(here(job_id), "data") for job_id in await redis.zrange(here("failed"), 0, -1)]
        assert [json.loads(data or "")["to"] for data in failed] == [to for to in recipients if to in BAD], where
        assert [key async for key in redis.scan_iter(f"{here.own('request')}:*")] == [], where
        if not crashed:
            return
    raise AssertionError("the daemon never ran to the end")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("trouble", [partial_refusal, strict])
async def test_crash_with_postgres_sends_each_mail_once(
    valkey_url: str,
    keys: Keys,
    redis: Redis,
    database_url: str,
    trouble: Callable[[FakeResend], None],
) -> None:
    """Also before and after a request is recorded: no email is sent twice, and none is set aside."""
    recipients = [*GOOD[:2], *BAD]
    for steps in range(MAX_STEPS):
        here = Keys(f"{keys.prefix}-{steps}", keys.name)
        async with FakeResend() as fake:
            trouble(fake)
            environment = settings(valkey_url, here, fake) | {"DATABASE_URL": database_url}
            crashed, trail = await crash_and_restart(environment, here, redis, recipients, steps)
            where = f"after {steps} steps: {trail[-1:]}"
            assert sorted(accepted.to[0] for accepted in fake.accepted) == GOOD[:2], where
        failed = [await redis.hget(here(job_id), "data") for job_id in await redis.zrange(here("failed"), 0, -1)]
        assert [json.loads(data or "")["to"] for data in failed] == BAD, where
        if not crashed:
            assert "before record in Postgres" in trail
            return
    raise AssertionError("the daemon never ran to the end")
