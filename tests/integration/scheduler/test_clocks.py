"""A clock that is days ahead must not use up the scheduled emails of those days."""

from __future__ import annotations

import pytest

from flowstate_daemon.base.shared_clock import SharedClock
from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon.builders import build_manual_runs
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.scheduler.manual_runs import InvalidRunRequestError, RunRequest
from tests.support.app_tables import AppTables, stored
from tests.support.clock import FakeClock
from tests.support.scheduler import SchedulerDatabase

DAY_S = 86_400.0


@pytest.mark.parametrize("jump_s", [3 * DAY_S, 3600.0, -3 * DAY_S])
async def test_jump_for_25_seconds_marks_nothing(
    migrated_url: str, app: AppTables, connection: Connection, keys: Keys, clock: FakeClock, jump_s: float
) -> None:
    """Nothing is planned, enqueued or skipped as too late during the jump; afterwards all is as it would have been."""
    user = await app.user("ada", {"timezone": "Europe/Paris"})
    await app.task(user, "Write", stored(2026, 3, 3, 12))
    await app.task(user, "Read", stored(2026, 3, 6, 12))
    dsn = clean_dsn(migrated_url)
    async with open_pool(dsn) as pool:
        shared = SharedClock(clock, 30.0)
        shared.observe(clock.now_ms() - clock.monotonic() * 1000, None)
        harness = SchedulerDatabase(pool, dsn.schema, connection, keys, shared).harness()
        clock.jump(jump_s)
        for _ in range(5):
            await harness.tick()
            clock.advance(5)
            shared.observe(clock.now_ms() - clock.monotonic() * 1000, None)
        assert await harness.scheduled_mails() == []
        clock.jump(-jump_s)
        shared.observe(clock.now_ms() - clock.monotonic() * 1000, None)
        await harness.tick()
        assert [mail.kind for mail in harness.fake_worker.delivered] == ["task-reminder"]
        assert [row["local_date"].isoformat() for row in await harness.scheduled_mails()] == ["2026-03-02"]


async def test_second_daemon_with_a_wrong_clock_does_nothing(
    migrated_url: str, app: AppTables, connection: Connection, keys: Keys, clock: FakeClock
) -> None:
    """It leaves everything, also manual runs, to the daemon whose clock agrees with those of the stores."""
    user = await app.user("ada", {"timezone": "Europe/Paris"})
    await app.task(user, "Write", stored(2026, 3, 3, 12))
    dsn = clean_dsn(migrated_url)
    async with open_pool(dsn) as pool:
        wrong = FakeClock()
        wrong.jump(3 * DAY_S)
        ahead = SharedClock(wrong, 30.0)
        ahead.observe(clock.now_ms() - clock.monotonic() * 1000, None)
        second = SchedulerDatabase(pool, dsn.schema, connection, keys, ahead).harness()
        await second.tick()
        assert await second.scheduled_mails() == []
        right = SchedulerDatabase(pool, dsn.schema, connection, keys, clock).harness()
        await right.plan()
        assert await second.enqueue_due() == 0
        assert await right.tick() == 1
        runs = build_manual_runs(load({}), pool, ahead)
        with pytest.raises(InvalidRunRequestError, match="clocks disagree"):
            await runs.run(RunRequest("task-reminder", ahead.now(), False))
