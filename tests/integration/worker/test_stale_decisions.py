"""A recipient who unsubscribes while sending is blocked gets none of the waiting emails, in a whole daemon."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.samples import preview_contexts
from flowstate_daemon.mail_producer import ORIGIN, MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending import batch
from tests.integration.worker.test_crash_points import settings
from tests.support.crashing_daemon import CrashingDaemon
from tests.support.fake_resend import FakeResend, error

KIND = "task-reminder"


async def test_unsubscribe_counts_while_the_account_is_refused(
    valkey_url: str,
    database_url: str,
    keys: Keys,
    redis: Redis,
    connection: Connection,
    fake: FakeResend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both emails were allowed before the account was refused; when it is restored, one of them is not any more."""
    monkeypatch.setattr(batch, "DECISION_MAX_AGE_S", 0.0)
    fake.script(error(403, "invalid_api_key"))
    producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=4, backoff_ms=20)
    for recipient in ("ada", "ben"):
        await producer.enqueue(NewMail(KIND, f"{recipient}@mail.dev", preview_contexts()[KIND], origin=ORIGIN))
    crashing = CrashingDaemon({**settings(valkey_url, keys, fake), "DATABASE_URL": database_url})
    built, unsubscribed = crashing.daemon.components, []

    async def all_settled() -> bool:
        if (
            built.send_gate.refusal
            and not built.dispatcher.in_flight
            and built.dispatcher.queued == 2
            and not unsubscribed
        ):
            assert built.pool is not None
            unsubscribed.append(await Suppressions(built.pool, Clock()).unsubscribe("ada@mail.dev", KIND))
            built.send_gate.retry_now()
            built.dispatcher._wake_up.set()
        return await redis.exists(keys("1"), keys("2")) == 0

    await crashing.run_until(all_settled)
    assert unsubscribed == [True]
    assert [accepted.to[0] for accepted in fake.accepted] == ["ben@mail.dev"]
