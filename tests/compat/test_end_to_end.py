"""End to end: npm bull adds FlowState's nine emails, the daemon sends them, and `redis-cli` shows each state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from flowstate_daemon.redis_client.keys import Keys
from tests.compat.driver import NodeQueue
from tests.compat.flowstate_mails import KINDS, all_nine
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend, error
from tests.support.waiting import eventually

pytestmark = pytest.mark.node

REFUSED = "streak-milestone@example.org"


@pytest.fixture
async def provider() -> AsyncIterator[FakeResend]:
    async with FakeResend() as fake:
        yield fake


@pytest.fixture
async def daemon(valkey_url: str, keys: Keys, provider: FakeResend, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon on the test's queue, not started yet."""
    settings = {
        "REDIS_URL": valkey_url,
        "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
        "RESEND_API_URL": provider.url,
        "RESEND_API_KEY": provider.api_key,
    }
    made = Daemon(settings, tmp_path)
    yield made
    await made.kill()


class Cli:
    """What operators type, as they type it."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def __call__(self, line: str) -> object:
        command, key, *rest = line.split()
        return await self._redis.execute_command(command, key.replace("bull:email:", self._keys.base), *rest)


async def test_nine_mails_from_node_to_the_provider(
    q: NodeQueue, daemon: Daemon, provider: FakeResend, redis: Redis, keys: Keys
) -> None:
    """Waiting, active, failed, gone: at each step the queue's own keys say so, and each mail is accepted once."""
    cli = Cli(redis, keys)
    await q.add_bulk(all_nine())
    assert await cli("LLEN bull:email:wait") == 9
    assert await cli("LLEN bull:email:active") == 0

    provider.script(error(422, "validation_error"), when=lambda seen: REFUSED in str(seen.body), times=None)
    provider.hold()
    await daemon.start()
    await daemon.ready()

    async def all_active() -> bool:
        return await cli("LLEN bull:email:active") == 9 and await cli("LLEN bull:email:wait") == 0

    await eventually(all_active, "nine active jobs")
    provider.release()

    async def all_ended() -> bool:
        return await cli("LLEN bull:email:active") == 0

    await eventually(all_ended, "no active jobs")
    assert sorted(mail.to[0] for mail in provider.accepted) == sorted(
        f"{kind}@example.org" for kind in KINDS if kind != "streak-milestone"
    )
    assert provider.duplicates() == []
    (failed,) = await cli("ZRANGE bull:email:failed 0 -1")  # type: ignore[misc]
    assert await cli("ZCARD bull:email:failed") == 1
    assert await cli("ZCARD bull:email:completed") == 0
    assert await cli(f"HGET bull:email:{failed} attemptsMade") == "1"
    assert await q.counts() == {"waiting": 0, "active": 0, "completed": 0, "failed": 1, "delayed": 0, "paused": 0}

    provider.unscript()
    await q.job(failed, "retry")

    async def retried() -> bool:
        return len(provider.accepted) == 9

    await eventually(retried, "the refused mail, given another run")

    async def nothing_left() -> bool:
        return await redis.exists(keys.job(failed)) == 0

    await eventually(nothing_left, "nothing kept, as `removeOnComplete: true` asks")


async def test_what_the_provider_gets_is_the_mail(
    q: NodeQueue, daemon: Daemon, provider: FakeResend, keys: Keys
) -> None:
    """Sender, recipient, subject, both parts and an idempotency key."""
    async with daemon:
        await daemon.ready()
        (job_id,) = await q.add_bulk([all_nine()[0]])
        await q.wait_for_event("completed", job_id)
    (mail,) = provider.accepted
    assert mail.key.startswith("flowstate-")
    assert mail.body["from"] == "FlowState <hello@flowstate.example>"
    assert mail.body["to"] == ["otp@example.org"]
    assert "482913" in mail.body["html"]
    assert "482913" in mail.body["text"]
    assert "482913" not in mail.subject
    assert "482913" not in daemon.log_text()
