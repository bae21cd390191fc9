"""Whoever unsubscribes while mails cannot leave gets none of them, in a whole house."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.suppression import Suppressions
from flowstate_daemon.intake import Intake, MailOrder
from flowstate_daemon.mail.samples import preview_contexts
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.work import parcel
from tests.integration.work.test_every_death import settings
from tests.support.fake_resend import FakeResend, error
from tests.support.mortal import Mortal

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
    monkeypatch.setattr(parcel, "JUDGED_FOR_S", 0.0)
    fake.script(error(403, "invalid_api_key"))
    intake = Intake(Bull(connection, keys, Clock(), token="test"), attempts=4, backoff_ms=20)
    for person in ("ada", "ben"):
        await intake.accept(MailOrder(KIND, f"{person}@mail.dev", preview_contexts()[KIND]))
    life = Mortal({**settings(valkey_url, keys, fake), "DATABASE_URL": database_url})
    built, left = life.house.built, []

    async def over() -> bool:
        if built.lane.closed and not built.bus.under_way and built.bus.waiting == 2 and not left:
            assert built.pool is not None
            left.append(await Suppressions(built.pool, Clock()).unsubscribe("ada@mail.dev", KIND))
            built.lane.try_now()
            built.bus._roused.set()
        return await redis.exists(keys("1"), keys("2")) == 0

    await life.live(over)
    assert left == [True]
    assert [accepted.to[0] for accepted in fake.accepted] == ["ben@mail.dev"]
