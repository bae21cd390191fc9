"""The same operations on three queues: one of this daemon, one of npm bull, and one that both work on in turn.

After every operation each queue must be what the model in queue_model.py says, as Redis holds it and as npm bull shows
it. Differences between the programs that are intended are in the model. More examples:
`pytest tests/compat/test_model.py --hypothesis-profile=thorough`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.compat.driver import Driver
from tests.compat.queue_model import By, Keep, QueueModel, RefusedError, Spec
from tests.compat.subjects import LOCK_MS, Actor, Daemon, NpmBull, expected_look, expected_state, stored_state
from tests.support.clock import FakeClock

pytestmark = pytest.mark.node

T = TypeVar("T")

# No due time, age or grace falls on a moment at which the clock stands: it moves in steps of 10 ms. At that very
# millisecond Bull's scripts disagree with each other about "due" and "old".
delays = st.sampled_from([0, 0, 0, 0, 507, 2003])
keeps = st.sampled_from([Keep(), Keep(), Keep(), Keep(count=0), Keep(count=2), Keep(age_s=2), Keep(count=1, age_s=4)])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
payloads = st.one_of(st.none(), st.dictionaries(texts, st.one_of(texts, st.integers(-9, 9), st.booleans()), max_size=2))
specs = st.builds(
    Spec,
    name=st.sampled_from(["echo", "otp", "__default__"]),
    data=payloads,
    priority=st.sampled_from([0, 0, 1, 5, 10]),
    delay_ms=delays,
    lifo=st.booleans(),
    job_id=st.sampled_from([None, None, None, "slot", "naïve ☕:7"]),
    attempts=st.integers(1, 3),
    backoff=st.sampled_from([None, ("fixed", 703), ("exponential", 403)]),
    on_complete=keeps,
    on_fail=keeps,
    debounce=st.sampled_from([None, "d"]),
    debounce_ms=st.sampled_from([None, LOCK_MS]),
)
picks = st.integers(0, 7)
parties = st.sampled_from(["daemon", "bull"])


@dataclass
class Subject:
    """One queue: its model, and the programs that work on it."""

    keys: Keys
    actors: dict[By, Actor]
    viewer: NpmBull
    model: QueueModel
    claimed_by: dict[str, By]

    def actor(self, by: By) -> Actor:
        return self.actors.get(by) or next(iter(self.actors.values()))


class Stores:
    """What all examples share: Redis, node, and the loop on which both are used."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.runner = asyncio.Runner()
        self.numbers = count()
        self.driver: Driver
        self.redis: Redis
        self.connection: Connection

    async def open(self) -> None:
        self.driver = await Driver.start()
        self.redis = Redis.from_url(self.url, decode_responses=True, protocol=2)
        self.connection = Connection(self.url, client_name="model", block_timeout_s=1.0)
        await self.connection.open()

    async def close(self) -> None:
        await self.connection.close()
        await self.redis.aclose()
        await self.driver.close()

    def run(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            return await work

        return self.runner.run(wait())


class QueueMachine(RuleBasedStateMachine):
    """Hypothesis chooses the operations; an operation on a job is given a number that chooses among those possible."""

    stores: Stores

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.subjects = self._run(self._open())

    def _run(self, work: Awaitable[T]) -> T:
        return self.stores.run(work)

    async def _open(self) -> list[Subject]:
        await self.stores.driver.ask("clock", ms=self.clock.now_ms())
        subjects = []
        for parts in (("daemon",), ("bull",), ("daemon", "bull")):
            keys = Keys(f"m{uuid4().hex[:12]}", "email")
            handle = f"model-{next(self.stores.numbers)}"
            options = {"prefix": keys.prefix, "settings": {"lockDuration": LOCK_MS, "stalledInterval": 1}}
            await self.stores.driver.ask("open", queue=handle, name=keys.name, redis=self.stores.url, options=options)
            bull = NpmBull(self.stores.driver, handle)
            known: dict[By, Actor] = {"daemon": Daemon(self.stores.connection, keys, self.clock), "bull": bull}
            actors = {name: actor for name, actor in known.items() if name in parts}
            subjects.append(Subject(keys, actors, bull, QueueModel(), {}))
        return subjects

    def teardown(self) -> None:
        self._run(self._close())

    async def _close(self) -> None:
        for subject in self.subjects:
            await self.stores.driver.ask("close", queue=subject.viewer.handle)
        await self.stores.redis.flushdb()

    def _both(
        self, by: By, in_model: Callable[[QueueModel, By], Any], really: Callable[[Actor], Awaitable[Any]]
    ) -> None:
        """Do one operation on each queue and compare its result."""
        for subject in self.subjects:
            actor = subject.actor(by)
            expected = in_model(subject.model, actor.name)
            assert self._run(really(actor)) == expected, list(subject.actors)

    @rule(batch=st.lists(specs, min_size=1, max_size=3), by=parties)
    def add(self, batch: list[Spec], by: By) -> None:
        now = self.clock.now_ms()
        self._both(
            by,
            lambda model, who: [model.add(spec, now, who) for spec in batch],
            lambda actor: actor.add(batch),
        )

    @rule(number=st.integers(1, 4), by=parties)
    def claim(self, number: int, by: By) -> None:
        for subject in self.subjects:
            actor = subject.actor(by)
            taken = self._run(actor.claim(number))
            assert taken == subject.model.claim(number, self.clock.now_ms())
            subject.claimed_by.update(dict.fromkeys(taken, actor.name))

    @precondition(lambda self: any(s.model.active for s in self.subjects))
    @rule(pick=picks, value=st.one_of(st.integers(1, 9), st.just({"ok": True}), texts.filter(bool)))
    def complete(self, pick: int, value: Any) -> None:
        """Also without a lock, which is refused."""
        for subject in self.subjects:
            job_id = _pick(subject.model.active, pick)
            if job_id is not None:
                actor = subject.actors[subject.claimed_by[job_id]]
                expected = _result(lambda s=subject, j=job_id: s.model.complete(j, value, self.clock.now_ms()))
                assert self._run(_async_result(actor.complete(job_id, value))) == expected

    @rule(number=st.integers(1, 4), succeeds=st.booleans(), by=parties)
    def work(self, number: int, succeeds: bool, by: By) -> None:
        """Claim some jobs, and end the newest of those in flight: without this few examples get far."""
        self.claim(number, by)
        for _ in range(number):
            if succeeds:
                self.complete(0, {"ok": True})
            else:
                self.fail(0, "no")

    @precondition(lambda self: any(s.model.locked for s in self.subjects))
    @rule(pick=picks, reason=texts.filter(bool))
    def fail(self, pick: int, reason: str) -> None:
        """Only with a lock: Bull writes before it checks, and so overwrites what another worker has written."""
        for subject in self.subjects:
            job_id = _pick([j for j in subject.model.active if j in subject.model.locked], pick)
            if job_id is not None:
                actor = subject.actors[subject.claimed_by[job_id]]
                subject.model.fail(job_id, reason, self.clock.now_ms(), actor.name)
                self._run(actor.fail(job_id, reason))

    @rule(steps=st.sampled_from([1, 60, 250]), by=parties)
    def time_passes(self, steps: int, by: By) -> None:
        """And the jobs that have become due are ready."""
        self.clock.advance(steps / 100)
        now = self.clock.now_ms()
        self._run(self.stores.driver.ask("clock", ms=now))
        self._both(by, lambda model, _: model.promote_due(now), lambda actor: actor.promote_due())

    @precondition(lambda self: any(s.model.active for s in self.subjects))
    @rule(pick=picks, checked=st.booleans(), by=parties)
    def lock_expires(self, pick: int, checked: bool, by: By) -> None:
        """And, if it is `checked`, the job runs again or has failed. One at a time, because a check has no order."""
        for subject in self.subjects:
            model, actor = subject.model, subject.actor(by)
            job_id = _pick(model.active, pick)
            if job_id is not None and set(model.active) == model.locked:
                model.lose_lock(job_id)
                self._run(self.stores.redis.delete(subject.keys.lock(job_id)))
            if checked:
                model.check_stalled(self.clock.now_ms(), actor.name)
                for _ in range(2):
                    self._run(self.stores.redis.delete(subject.keys("stalled-check")))
                    self._run(actor.check_stalled())

    @rule(pick=picks, by=parties)
    def retry(self, pick: int, by: By) -> None:
        """Of failed jobs by both; of others by the daemon: Bull refuses that too, but deletes three fields before."""
        for subject in self.subjects:
            actor = subject.actor(by)
            ids = sorted(subject.model.jobs if actor.name == "daemon" else subject.model.failed)
            self._act(subject, ids, pick, lambda m, j, a=actor: m.retry(j, self.clock.now_ms(), a.name), actor.retry)

    @rule(pick=picks, by=parties)
    def promote(self, pick: int, by: By) -> None:
        for subject in self.subjects:
            ids = sorted(subject.model.jobs)
            self._act(subject, ids, pick, lambda model, job_id: model.promote(job_id), subject.actor(by).promote)

    @rule(pick=picks, by=parties)
    def remove(self, pick: int, by: By) -> None:
        for subject in self.subjects:
            actor = subject.actor(by)
            ids = [*sorted(subject.model.jobs), "nobody"]
            self._act(subject, ids, pick, lambda m, j, a=actor: m.remove(j, a.name), actor.remove)

    @rule(pick=picks, value=st.one_of(st.integers(0, 100), texts), by=parties)
    def edit(self, pick: int, value: Any, by: By) -> None:
        """New data for a job, and progress."""
        for subject in self.subjects:
            job_id, actor = _pick(sorted(subject.model.jobs), pick), subject.actor(by)
            if job_id is not None:
                job = subject.model.jobs[job_id]
                job.spec = replace(job.spec, data={"new": value})
                job.fields["progress"] = value
                self._run(actor.update(job_id, {"new": value}))
                self._run(actor.report(job_id, value))

    def _act(
        self,
        subject: Subject,
        ids: list[str],
        pick: int,
        in_model: Callable[[QueueModel, str], None],
        really: Callable[[str], Awaitable[None]],
    ) -> None:
        """One operation on one job of one queue; if it is refused, by both the model and the program."""
        job_id = _pick(ids, pick)
        if job_id is not None:
            expected = _result(lambda: in_model(subject.model, job_id))
            assert self._run(_async_result(really(job_id))) == expected, job_id

    @rule(paused=st.booleans(), by=parties)
    def pause(self, paused: bool, by: By) -> None:
        """Or resume; also a second time."""
        for subject in self.subjects:
            actor = subject.actor(by)
            subject.model.paused = paused
            self._run(actor.pause() if paused else actor.resume())

    @rule(
        state=st.sampled_from(["ready", "active", "completed", "failed"]),
        grace_ms=st.sampled_from([-5, -5, 595, 2505]),
        limit=st.sampled_from([0, 0, 1, 2]),
        by=parties,
    )
    def clean(self, state: str, grace_ms: int, limit: int, by: By) -> None:
        """Without `delayed`, where Bull compares due times with other times and so never deletes anything."""
        now = self.clock.now_ms()
        for subject in self.subjects:
            actor, model = subject.actor(by), subject.model
            name = state if state != "ready" else "paused" if model.paused else "wait"
            expected = model.clean(name, grace_ms, limit, now, actor.name)
            assert self._run(actor.clean(name, grace_ms, limit)) == expected

    @rule(grace_ms=st.sampled_from([-5, 595]))
    def clean_delayed(self, grace_ms: int) -> None:
        for subject in self.subjects:
            daemon = subject.actors.get("daemon")
            if daemon is not None:
                expected = subject.model.clean("delayed", grace_ms, 0, self.clock.now_ms(), "daemon")
                assert self._run(daemon.clean("delayed", grace_ms, 0)) == expected

    @rule(by=parties)
    def drain(self, by: By) -> None:
        """All that waits is removed, job by job: Bull's own `empty` leaves hashes, and `paused` in `meta`."""
        for subject in self.subjects:
            actor = subject.actor(by)
            for job_id in [*subject.model.ready, *subject.model.delayed]:
                subject.model.remove(job_id, actor.name)
                self._run(actor.remove(job_id))

    @invariant()
    def each_queue_is_as_expected(self) -> None:
        self._run(self._check_all())

    async def _check_all(self) -> None:
        await asyncio.gather(*(self._check(subject) for subject in self.subjects))

    async def _check(self, subject: Subject) -> None:
        found, look = await asyncio.gather(stored_state(self.stores.redis, subject.keys), subject.viewer.look())
        expected = expected_state(subject.model)
        differences = {name: (found[name], value) for name, value in expected.items() if found[name] != value}
        assert not differences, (list(subject.actors), differences)
        assert look == expected_look(subject.model), list(subject.actors)


def _pick(ids: list[str], number: int) -> str | None:
    return ids[number % len(ids)] if ids else None


def _result(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except RefusedError:
        return "refused"


async def _async_result(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except RefusedError:
        return "refused"


@pytest.fixture
def stores(valkey_url: str, node_modules: None) -> Iterator[Stores]:
    stores = Stores(valkey_url)
    stores.run(stores.open())
    yield stores
    stores.run(stores.close())
    stores.runner.close()


@pytest.mark.timeout(3600)  # when something differs, hypothesis looks for the shortest way there
def test_daemon_and_bull_do_the_same(stores: Stores) -> None:
    """Whatever operations in whatever order, by either program, also on one queue in turn."""
    QueueMachine.stores = stores
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        QueueMachine,
        settings=settings(
            max_examples=max(1, settings.default.max_examples // 5),  # a minute of one core in the gate
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
