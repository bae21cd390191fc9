"""Whoever unsubscribes while mails cannot leave gets none of them, in a whole house."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.samples import preview_contexts
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending import batch
from tests.integration.worker.test_crash_points import settings
from tests.support.crashing_daemon import CrashingDaemon
from tests.support.fake_resend import FakeResend, error

KIND = "task-reminder"


async def test_unsubscribing_counts_while_the_lane_is_closed(
    valkey_url: str,
    database_url: str,
    keys: Keys,
    redis: Redis,
    connection: Connection,
    fake: FakeResend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both were found fit to be sent before the lane closed; by the time it opens, one of them is not any more."""
    monkeypatch.setattr(batch, "DECISION_MAX_AGE_S", 0.0)
    fake.script(error(403, "invalid_api_key"))
    producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=4, backoff_ms=20)
    for recipient in ("ada", "ben"):
        await producer.enqueue(NewMail(KIND, f"{recipient}@mail.dev", preview_contexts()[KIND]))
    life = CrashingDaemon({**settings(valkey_url, keys, fake), "DATABASE_URL": database_url})
    built, left = life.daemon.components, []

    async def over() -> bool:
        if built.gate.refusal and not built.dispatcher.in_flight and built.dispatcher.queued == 2 and not left:
            assert built.pool is not None
            left.append(await Suppressions(built.pool, Clock()).unsubscribe("ada@mail.dev", KIND))
            built.gate.retry_now()
            built.dispatcher._wake_up.set()
        return await redis.exists(keys("1"), keys("2")) == 0

    await life.run_until(over)
    assert left == [True]
    assert [accepted.to[0] for accepted in fake.accepted] == ["ben@mail.dev"]
