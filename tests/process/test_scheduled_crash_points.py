"""kill -9 between any two operations, from planning scheduled emails to the ledger: each user gets one email.

Only a sample of the steps is tested; `--every-step` tests each.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.dev.embedded import EmbeddedPostgres
from flowstate_daemon.redis_client.keys import Keys
from tests.conftest import copy_database
from tests.integration.worker.test_crash_points import lost_reply, partial_refusal, settings
from tests.support.app_tables import AppTables
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

SAMPLE = 8
AT_ONCE = 5
SENT_AT = 9  # o'clock, in the zone of the user
USERS = ("ada", "ben", "cho")

Trouble = Callable[[FakeResend], None]


def zone_where_it_is_nine() -> tuple[str, int]:
    """A zone without changes of its offset, and that offset in hours: reminders are due there."""
    ahead_h = (SENT_AT - datetime.now(UTC).hour + 12) % 24 - 12
    return f"Etc/GMT{-ahead_h:+d}", ahead_h


async def add_users(app: AppTables) -> None:
    """Users with a task that is due tomorrow."""
    zone, ahead_h = zone_where_it_is_nine()
    tomorrow = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=ahead_h, days=1)
    noon = tomorrow.replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(hours=ahead_h)
    for user_id in USERS:
        await app.user(user_id, {"timezone": zone})
        await app.task(user_id, "Write", noon)


class Crashes:
    """Runs a daemon that crashes after some steps, and one that does the rest, each time with new stores."""

    def __init__(
        self, valkey_url: str, postgres: EmbeddedPostgres, template: str, keys: Keys, folder: Path, trouble: Trouble
    ) -> None:
        self._valkey_url = valkey_url
        self._postgres = postgres
        self._template = template
        self._keys = keys
        self._folder = folder
        self._trouble = trouble
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self, steps: int | None) -> tuple[list[str], list[str]]:
        """The operations of the first daemon, and what is wrong in the end."""
        keys = Keys(f"{self._keys.prefix}-{steps}", self._keys.name)
        trail = self._folder / f"{steps}.trail"
        async with self._slots, copy_database(self._postgres, self._template) as url, FakeResend() as fake:
            self._trouble(fake)
            async with open_pool(clean_dsn(url)) as pool:
                await Migrator(pool).apply()
            postgres = await asyncpg.connect(url)
            await add_users(AppTables(postgres))
            environment = {**settings(self._valkey_url, keys, fake), "DATABASE_URL": url, "CRASH_TRAIL": str(trail)}
            if steps is not None:
                async with self._daemon({**environment, "CRASH_AFTER": str(steps)}) as daemon:
                    assert await daemon.ended(within_s=30) == -signal.SIGKILL, f"{steps} steps"
            async with self._daemon(environment) as daemon:
                await eventually(lambda: all_ended(postgres), f"all emails ended, after {steps} steps", within_s=60)
                daemon.send(signal.SIGTERM)
                assert await daemon.ended() == 0
            problems = await find_problems(postgres, fake)
            await postgres.close()
        found = trail.read_text().splitlines()
        return found, [f"after {steps} steps, {found[(steps or 0) - 1]}: {problem}" for problem in problems]

    def _daemon(self, environment: Mapping[str, str]) -> Daemon:
        return Daemon(environment, self._folder, instance="crashing", module="tests.support.crashing_process")


async def all_ended(postgres: asyncpg.Connection) -> bool:
    """Whether all emails are planned and ended, and the ledger has them."""
    states = await postgres.fetch("SELECT state FROM flowstate_daemon.scheduled_mails")
    return len(states) >= len(USERS) and {state for (state,) in states}.isdisjoint({"planned", "queued"})


async def find_problems(postgres: asyncpg.Connection, fake: FakeResend) -> list[str]:
    accepted = Counter(email.to[0].partition("@")[0] for email in fake.accepted)
    rows = await postgres.fetch("SELECT user_id, state, reason FROM flowstate_daemon.scheduled_mails")
    problems = [f"{user_id} got {accepted[user_id]} emails" for user_id in USERS if accepted[user_id] != 1]
    problems += [f"{user_id}: {state}, {reason}" for user_id, state, reason in rows if state != "sent"]
    return problems if len(rows) == len(USERS) else [*problems, f"{len(rows)} scheduled emails"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("trouble", [partial_refusal, lost_reply])
async def test_crash_between_any_two_operations_sends_each_scheduled_email_once(
    valkey_url: str,
    postgres: EmbeddedPostgres,
    template: str,
    keys: Keys,
    tmp_path: Path,
    sample: Callable[[Sequence[int], int], Sequence[int]],
    trouble: Trouble,
) -> None:
    """Also in the middle of planning, of adding the jobs, and of writing the ledger."""
    crashes = Crashes(valkey_url, postgres, template, keys, tmp_path, trouble)
    trail, problems = await crashes.run(None)
    assert problems == []
    last = trail.index("after INSERT INTO flowstate_daemon.mails")
    assert {"after add", "after POST /emails/batch"} <= set(trail[:last])
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(crashes.run(steps)) for steps in sample(range(last), SAMPLE)]
    assert [problem for run in runs for problem in run.result()[1]] == []
