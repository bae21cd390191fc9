"""kill -9 between any two operations, from planning scheduled emails to the ledger: each user gets one email.

Only a sample of the steps is tested; `--every-step` tests each.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
from tests.integration.worker.test_crash_points import BAD, lost_reply, partial_refusal, settings
from tests.support.app_tables import AppTables
from tests.support.daemon import Daemon
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

SAMPLE = 8
AT_ONCE = 3
MAX_RUNS = 3
SENT_AT = 9  # o'clock, in the zone of the user
USERS = ("ada", "ben", "cho")
REFUSED = "eve"  # whose address only the provider refuses

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
    for user_id in (*USERS, REFUSED):
        columns = {"email": BAD[0]} if user_id == REFUSED else {}
        await app.user(user_id, {"timezone": zone}, **columns)
        await app.task(user_id, "Write", noon)


@dataclass(frozen=True)
class Run:
    """Whether the first daemon crashed, its operations, and what is wrong in the end."""

    crashed: bool
    trail: list[str]
    problems: list[str]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


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
        self._runs = itertools.count()
        self.unreached = 0

    async def count_steps(self) -> list[str]:
        """The operations of a daemon that does not crash."""
        run = await self._run(None)
        assert run.problems == []
        return run.trail

    async def find_problems(self, steps: int) -> list[str]:
        """What is wrong in the end. A run that has ended before the crash is repeated: its number of steps varies."""
        async with self._slots:
            for _ in range(MAX_RUNS):
                run = await self._run(steps)
                if run.crashed:
                    return [f"after {steps} steps, {run.trail[-1:]}: {problem}" for problem in run.problems]
        self.unreached += 1
        return []

    async def _run(self, steps: int | None) -> Run:
        number = next(self._runs)
        keys = Keys(f"{self._keys.prefix}-{number}", self._keys.name)
        trail = self._folder / f"{number}.trail"
        async with copy_database(self._postgres, self._template) as url, FakeResend() as fake:
            self._trouble(fake)
            async with open_pool(clean_dsn(url)) as pool:
                await Migrator(pool).apply()
            async with connected(url) as postgres:
                await add_users(AppTables(postgres))
                environment = {**settings(self._valkey_url, keys, fake), "DATABASE_URL": url, "CRASH_TRAIL": str(trail)}
                crashed = steps is not None and await self._crash({**environment, "CRASH_AFTER": str(steps)}, postgres)
                found = trail.read_text().splitlines() if crashed else []
                async with self._daemon(environment) as daemon:
                    await eventually(lambda: all_ended(postgres), f"all emails ended, after {steps} steps", within_s=60)
                    daemon.send(signal.SIGTERM)
                    assert await daemon.ended() == 0
                problems = await find_problems(postgres, fake)
        return Run(crashed, found or trail.read_text().splitlines(), problems)

    async def _crash(self, environment: Mapping[str, str], postgres: asyncpg.Connection) -> bool:
        """Run a daemon until it kills itself or all emails have ended. True if it killed itself."""
        async with self._daemon(environment) as daemon:
            process = daemon.process
            assert process is not None

            async def ended() -> bool:
                return process.returncode is not None or await all_ended(postgres)

            await eventually(ended, "killed", within_s=30)
            assert process.returncode in (None, -signal.SIGKILL)
            return process.returncode is not None

    def _daemon(self, environment: Mapping[str, str]) -> Daemon:
        return Daemon(environment, self._folder, instance="crashing", module="tests.support.crashing_process")


async def all_ended(postgres: asyncpg.Connection) -> bool:
    """Whether all emails are planned and ended, and the ledger has them."""
    states = await postgres.fetch("SELECT state FROM flowstate_daemon.scheduled_mails")
    return len(states) > len(USERS) and {state for (state,) in states}.isdisjoint({"planned", "queued"})


async def find_problems(postgres: asyncpg.Connection, fake: FakeResend) -> list[str]:
    accepted = Counter(email.to[0].partition("@")[0] for email in fake.accepted)
    rows = await postgres.fetch("SELECT user_id, state, reason FROM flowstate_daemon.scheduled_mails")
    states = {user_id: (state, reason) for user_id, state, reason in rows}
    problems = [f"{user_id} got {accepted[user_id]} emails" for user_id in USERS if accepted[user_id] != 1]
    problems += [f"{user_id}: {states[user_id]}" for user_id in USERS if states[user_id][0] != "sent"]
    if states[REFUSED][0] != "failed" or accepted[REFUSED]:
        problems.append(f"refused by the provider: {states[REFUSED]}")
    return problems if len(rows) == len(states) else [*problems, f"{len(rows)} scheduled emails"]


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
    trail = await crashes.count_steps()
    last = trail.index("after UPDATE flowstate_daemon.mails")  # the statement that writes the ledger begins with it
    assert {"after add", "after POST /emails/batch"} <= set(trail[:last])
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(crashes.find_problems(steps)) for steps in sample(range(last), SAMPLE)]
    assert [problem for run in runs for problem in run.result()] == []
    assert crashes.unreached <= len(runs) / 10, "most daemons crashed"
