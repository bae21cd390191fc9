"""`kind.toml` of a scheduled kind, replaced in `mail.kinds_dir`: its properties count for scheduled emails too."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.catalog import load_catalog
from flowstate_daemon.mail.kind_files import read_built_in_files
from flowstate_daemon.redis_client.keys import Keys
from tests.support.app_tables import AppTables, stored
from tests.support.kind_folders import write_kind
from tests.support.scheduler import SchedulerHarness

KIND = "task-reminder"
LEFT = "the recipient has unsubscribed from this kind of email"
BUILT_IN = read_built_in_files()[f"{KIND}/kind.toml"].text


@pytest.mark.parametrize(
    ("text", "priority", "reason"),
    [
        (BUILT_IN, 5, LEFT),
        (BUILT_IN.replace("priority = 5", "priority = 3", 1), 3, LEFT),
        (BUILT_IN.replace("unsubscribable = true\n", ""), 5, None),
    ],
)
async def test_priority_and_right_to_leave_are_those_of_the_folder(
    app: AppTables,
    harness: SchedulerHarness,
    redis: Redis,
    keys: Keys,
    tmp_path: Path,
    text: str,
    priority: int,
    reason: str | None,
) -> None:
    """Ada has unsubscribed from reminders, Bea has not; applied as a reload does it."""
    kinds = load_catalog(write_kind(tmp_path, KIND, {"kind.toml": text})).kinds
    harness.scheduler.eligibility.kinds = harness.scheduler.producer.kinds = kinds
    for name in ("ada", "bea"):
        await app.user(name)
        await app.task(name, "Call back", stored(2026, 3, 3, 12))
    await Suppressions(harness.pool, harness.clock).unsubscribe("ada@example.org", KIND)
    await harness.plan()
    await harness.enqueue_due()
    priorities = [int(score) for _, score in await redis.zrange(keys("priority"), 0, -1, withscores=True)]
    assert set(priorities) == {priority}
    assert len(priorities) == (1 if reason else 2)
    outcomes = await harness.outcomes()
    assert outcomes[KIND, "ada"] == (("skipped", reason) if reason else ("queued", None))
