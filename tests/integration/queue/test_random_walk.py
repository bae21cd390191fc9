"""Whatever two workers, an operator and death do to a queue in whatever order: each job is in exactly one place."""

from __future__ import annotations

from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from flowstate_daemon.queue.admin import QueueAdmin
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import REMOVE, Job, JobFailed, JobRetried, JobSucceeded, NewJob, Retention
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.integration.queue.queue_fixture import QueueFixture
from tests.support.clock import FakeClock

PLACES = ("wait", "paused", "active", "delayed", "completed", "failed")
KEPT = (REMOVE, Retention(), Retention(count=2), Retention(age_s=3))
STEPS = (
    "add", "delay", "slot", "take", "finish", "retry", "later", "fail", "release", "promote", "time",
    "expire", "reclaim", "die", "pause", "resume",
)  # fmt: skip
walks = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), max_size=60)
queues = count()


class Walk:
    """One queue and those who work on it; each step is drawn with a number that decides its details."""

    def __init__(self, redis: Redis, connection: Connection, keys: Keys) -> None:
        self.stage = QueueFixture(redis, keys)
        self.clock = FakeClock()
        self._connection = connection
        self._operator = QueueAdmin(connection, keys, self.clock, token="op")
        self._boots = [1, 1]
        self._workers = [self._start(0), self._start(1)]
        self._held: list[list[Job]] = [[], []]

    def _start(self, who: int) -> BullQueue:
        token = f"w{who}/{self._boots[who]}"
        return BullQueue(self._connection, self.stage.keys, self.clock, token=token)

    def _some(self, number: int) -> list[Job]:
        held = self._held[number % 2]
        some, held[:] = held[: 1 + number // 4], held[1 + number // 4 :]
        return some

    async def step(self, name: str, number: int) -> None:
        bull = self._workers[number % 2]
        match name:
            case "add" | "delay" | "slot":
                await bull.add_many(self._new(name, number))
            case "take":
                self._held[number % 2] += await bull.claim(1 + number)
            case "promote":
                await bull.promote()
            case "reclaim":
                await self.stage.redis.delete(self.stage.keys("stalled-check"))
                await bull.check_stalled(1, 1000)
            case "die":
                await self._die(number % 2)
            case "time" | "pause" | "resume":
                await self._from_outside(name, number)
            case _ if some := self._some(number):
                await self._end(name, bull, some)

    @staticmethod
    def _new(name: str, number: int) -> list[NewJob]:
        kept = KEPT[number % 4]
        if name == "delay":
            return [NewJob("x", {}, delay_ms=number * 300, priority=number // 4)]
        if name == "slot":
            return [NewJob("x", {}, job_id=f"slot{number % 3}", priority=2)]
        single = NewJob("x", {}, priority=number // 3, remove_on_complete=kept, remove_on_fail=kept, debounce_id="d")
        return [single, *[NewJob("y", {}, priority=number // 4)] * (number % 5)]

    async def _from_outside(self, name: str, number: int) -> None:
        match name:
            case "time":
                self.clock.advance(number / 4)
            case "pause":
                await self._operator.pause()
            case "resume":
                await self._operator.resume()

    async def _die(self, who: int) -> None:
        self._boots[who] += 1
        self._held[who] = []
        self._workers[who] = self._start(who)
        await self._workers[who].recover_own_jobs([], limit=2)

    async def _end(self, name: str, bull: BullQueue, jobs: list[Job]) -> None:
        match name:
            case "finish":
                await bull.complete([JobSucceeded(job) for job in jobs])
            case "retry" | "later":
                delay_ms = 700 if name == "later" else 0
                await bull.retry([JobRetried(job, "no", b"[]", delay_ms) for job in jobs])
            case "fail":
                await bull.fail([JobFailed(job, "no", b"[]") for job in jobs])
            case "release":
                await bull.release(jobs)
            case "expire":
                await self.stage.redis.delete(*(self.stage.keys.lock(job.id) for job in jobs))

    async def check(self) -> None:
        """What must hold at any time."""
        found = await self.stage.dump()
        hashes = {name for name, value in found.items() if isinstance(value, dict) and "name" in value}
        placed = [job_id for place in PLACES for job_id in found.get(place, ())]
        assert sorted(placed) == sorted(hashes)
        locks = {name.removesuffix(":lock") for name in found if name.endswith(":lock")}
        assert locks <= set(found.get("active", ()))
        ready = "paused" if "meta-paused" in found else "wait"
        assert ("wait" if ready == "paused" else "paused") not in found
        self._check_order(found, found.get(ready, []))

    @staticmethod
    def _check_order(found: dict[str, Any], ready: list[str]) -> None:
        ranks = [int(found[job_id]["priority"]) for job_id in reversed(ready)]
        assert ranks == sorted(ranks, key=lambda rank: rank or 99)
        prioritised = {job_id: float(found[job_id]["priority"]) for job_id in ready if found[job_id]["priority"] != "0"}
        assert found.get("priority", {}) == prioritised


@given(walks)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_each_job_is_in_exactly_one_place(
    redis: Redis, connection: Connection, keys: Keys, walk: list[tuple[str, int]]
) -> None:
    """After every step: one place a job, locks only in active, the right list, the right order, no ghosts."""
    steps = Walk(redis, connection, Keys(f"{keys.prefix}{next(queues)}", keys.name))
    for name, number in walk:
        await steps.step(name, number)
        await steps.check()
