"""Redis loses its newest writes between any two operations of the send path: nothing lost, nothing sent twice.

Only a sample of the pairs of operations is tested; `--every-step` tests each.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from flowstate_daemon.delivery import responses
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.worker.test_crash_points import (
    BAD,
    GOOD,
    add_jobs,
    failing,
    lost_reply,
    partial_refusal,
    settings,
)
from tests.support.crashing_daemon import CrashingDaemon
from tests.support.fake_resend import FakeResend
from tests.support.older_redis import OlderState, lose_connections, lose_writes, remember_state

SAMPLE = 16
AT_ONCE = 16
MAX_RUNS = 5
RECIPIENTS = [*GOOD[:2], *BAD, GOOD[2]]
# Jobs that are active again, and that no run processes, are recovered as soon as is allowed.
SHORT_LOCKS = {"FLOWSTATE_QUEUE_LOCK_DURATION_MS": "5000", "FLOWSTATE_QUEUE_STALLED_INTERVAL_MS": "1000"}

Trouble = Callable[[FakeResend], None]


@dataclass(frozen=True)
class Run:
    """Whether a run lost its writes, its operations, and what is wrong in the end."""

    lost: bool
    trail: Sequence[str]
    problems: Sequence[str]


class Losses:
    """Runs one daemon, whose Redis returns to an older state, for each pair of steps."""

    def __init__(self, redis: Redis, keys: Keys, environment: Mapping[str, str], trouble: Trouble) -> None:
        self._redis = redis
        self._keys = keys
        self._environment = environment
        self._trouble = trouble
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._runs = itertools.count()
        self.unreached = 0

    async def count_steps(self) -> int:
        """The number of operations of a run that loses nothing."""
        run = await self._run(0, None)
        assert run.problems == []
        return len(run.trail)

    async def find_problems(self, remembered: int, lost: int) -> list[str]:
        """What is wrong after a run that after `lost` steps loses everything since step `remembered`.

        How many steps a run has depends on time: one that ended before its loss is repeated.
        """
        async with self._slots:
            for _ in range(MAX_RUNS):
                run = await self._run(remembered, lost)
                if run.lost:
                    where = f"writes of the steps {remembered} to {lost} lost: {run.trail}"
                    return [f"{where}: {problem}" for problem in run.problems]
        self.unreached += 1
        return []

    async def _run(self, remembered: int, lost: int | None) -> Run:
        keys = Keys(f"{self._keys.prefix}-{next(self._runs)}", self._keys.name)
        url = self._environment["REDIS_URL"]
        state: asyncio.Future[OlderState] = asyncio.get_running_loop().create_future()
        has_lost = asyncio.Event()

        async def remember() -> None:
            state.set_result(await remember_state(url, keys))

        async def lose() -> None:
            await lose_writes(url, await state)
            await lose_connections(url, keys)
            has_lost.set()

        async def settled() -> bool:
            ended = [await self._redis.zcard(keys(name)) for name in ("completed", "failed")]
            losing = lost is not None and len(daemon.trail) >= lost and not has_lost.is_set()
            return sum(ended) == len(RECIPIENTS) and not losing

        async with FakeResend() as fake:
            self._trouble(fake)
            await add_jobs(url, keys, RECIPIENTS)
            if remembered == 0:
                await remember()
            actions = {} if lost is None else {remembered: remember, lost: lose}
            daemon = CrashingDaemon({**self._environment, **settings(url, keys, fake)}, actions=actions)
            try:
                await daemon.run_until(settled, within_s=60)
            except AssertionError as error:
                return Run(True, daemon.trail, [str(error)])
            return Run(has_lost.is_set(), daemon.trail, await self._problems(keys, fake))

    async def _problems(self, keys: Keys, fake: FakeResend) -> list[str]:
        accepted = Counter(email.to[0] for email in fake.accepted)
        problems = [f"{to} was sent {times} times" for to, times in accepted.items() if times != 1]
        problems += [f"{to} was not sent" for to in RECIPIENTS if to not in BAD and to not in accepted]
        for job_id in await self._redis.zrange(keys("failed"), 0, -1):
            data, reason = await self._redis.hmget(keys.job(job_id), "data", "failedReason")
            if json.loads(data or "")["to"] not in BAD:
                problems.append(f"job {job_id} failed: {reason}")
        return problems


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("trouble", [partial_refusal, lost_reply, failing])
@pytest.mark.parametrize("with_postgres", [False, True], ids=["redis only", "with Postgres"])
async def test_writes_lost_between_any_two_operations_send_each_mail_once(
    valkey_url: str,
    database_url: str,
    redis: Redis,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    sample: Callable[[Sequence[tuple[int, int]], int], Sequence[tuple[int, int]]],
    trouble: Trouble,
    *,
    with_postgres: bool,
) -> None:
    """A process that does not end knows what it has sent, also without Postgres: no email is parked either."""
    monkeypatch.setattr(responses, "IN_PROGRESS_WAIT_MS", 20)
    environment = {"REDIS_URL": valkey_url, **SHORT_LOCKS}
    if with_postgres:
        environment |= {"DATABASE_URL": database_url, "DATABASE_POOL_SIZE": "2"}
    losses = Losses(redis, keys, environment, trouble)
    steps = await losses.count_steps()
    pairs = [(remembered, lost) for lost in range(1, steps + 1) for remembered in range(lost)]
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(losses.find_problems(*pair)) for pair in sample(pairs, SAMPLE)]
    assert [problem for run in runs for problem in run.result()] == []
    assert losses.unreached <= len(runs) / 10, "most runs lost their writes"
