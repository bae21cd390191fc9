"""Redis loses writes while a process is between two steps of a request: of all that know an email, one sends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import (
    EarlierRequestError,
    LockLostError,
    StaleDecisionError,
    StoreUnavailableError,
)
from flowstate_daemon.database.request_records import RequestRecords
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.queue.job import Job, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.request_recorder import MAX_PREPARATION_S
from tests.support.clock import FakeClock
from tests.support.dispatcher_harness import REMINDER, DispatcherHarness, wait_for_results
from tests.support.fake_resend import FakeResend, error
from tests.support.older_redis import OlderState, lose_writes, remember_state

Call = Callable[[], Awaitable[None]]


class Interrupted(RequestRecords):
    """Calls `before` and `after` once, around the record number `at`; `away` calls that forget fail."""

    def __init__(self, pool: asyncpg.Pool, base: str, *, at: int = 1, away: int = 0) -> None:
        super().__init__(pool, base)
        self.before: Call | None = None
        self.after: Call | None = None
        self._at = at
        self._away = away
        self._one_at_a_time = asyncio.Lock()

    async def record(self, *args: object, **kwargs: object) -> set[tuple[str, int]]:
        async with self._one_at_a_time:
            self._at -= 1
            if self._at == 0 and self.before is not None:
                await self.before()
            found = await super().record(*args, **kwargs)  # type: ignore[arg-type]
            if self._at == 0 and self.after is not None:
                await self.after()
            return found

    async def forget_withdrawn(self, *args: object, **kwargs: object) -> bool:
        self._away -= 1
        if self._away >= 0:
            raise StoreUnavailableError("away")
        return await super().forget_withdrawn(*args, **kwargs)  # type: ignore[arg-type]


def stand_still(records: Interrupted, moment: str) -> asyncio.Event:
    """The process stops for ever at this moment; the event is set when it does."""
    reached = asyncio.Event()

    async def stop() -> None:
        reached.set()
        await asyncio.Event().wait()

    setattr(records, moment, stop)
    return reached


class Others:
    """Other processes of the same queue, each without a memory."""

    def __init__(
        self, connection: Connection, keys: Keys, fake: FakeResend, pool: asyncpg.Pool, valkey_url: str
    ) -> None:
        self.keys, self.pool, self.url = keys, pool, valkey_url
        self._connection, self._fake = connection, fake

    @asynccontextmanager
    async def process(
        self, records: RequestRecords | None = None, clock: Clock | None = None
    ) -> AsyncIterator[DispatcherHarness]:
        records = records or RequestRecords(self.pool, self.keys.base)
        clock = clock or Clock()
        async with DispatcherHarness(self._connection, self.keys, self._fake, records=records, clock=clock) as harness:
            yield harness

    async def send(
        self, count: int, order: Callable[[list[Job]], list[Job]] = lambda jobs: jobs, *, clock: Clock | None = None
    ) -> list[Accepted | BaseException]:
        """Claim jobs in another process, send those that `order` returns, and release all that are not sent."""
        async with self.process(clock=clock) as harness:
            jobs = await harness.claim(count)
            chosen = order(jobs)
            results = await wait_for_results([harness.post(job) for job in chosen])
            sent = {job.id for job, result in zip(chosen, results, strict=True) if isinstance(result, Accepted)}
            if unsent := [job for job in jobs if job.id not in sent]:
                await harness.bull.release(unsent)
            return results


@pytest.fixture
def others(connection: Connection, keys: Keys, fake: FakeResend, pool: asyncpg.Pool, valkey_url: str) -> Others:
    return Others(connection, keys, fake, pool, valkey_url)


async def add(harness: DispatcherHarness, count: int) -> None:
    await harness.bull.add_many([NewJob("welcome", {}, priority=REMINDER) for _ in range(count)])


def backwards(jobs: list[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: -int(job.id))


def kinds(results: list[Accepted | BaseException]) -> set[type]:
    return {type(result) for result in results}


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_second_request_of_a_process_does_not_hide_the_first_of_another(
    others: Others, fake: FakeResend, moment: str
) -> None:
    """A batch was rejected and split. Redis loses that, and another process puts the emails into its first request."""
    records = Interrupted(others.pool, others.keys.base, at=2)
    async with others.process(records) as harness:
        await add(harness, 2)
        state = await remember_state(others.url, others.keys)
        elsewhere: list[Accepted | BaseException] = []

        async def lose_and_send() -> None:
            await lose_writes(others.url, state)
            elsewhere.extend(await others.send(2, backwards))

        setattr(records, moment, lose_and_send)
        fake.script(error(422, "validation_error", "The batch is invalid."), when=lambda one: "batch" in one.path)
        results = await wait_for_results([harness.post(job) for job in await harness.claim(2)])
    assert fake.duplicates() == []
    # Both processes may learn that an email was accepted.
    learned = {result.provider_id for result in [*results, *elsewhere] if isinstance(result, Accepted)}
    assert learned == {mail.id for mail in fake.accepted}
    assert fake.accepted


async def test_all_emails_of_a_resumed_request_are_recorded(others: Others, fake: FakeResend) -> None:
    """A process died before it recorded its request. The one that sends all its emails has one of the jobs."""
    records = Interrupted(others.pool, others.keys.base)
    reached = stand_still(records, "before")
    async with others.process(records) as harness:
        await add(harness, 3)
        state = await remember_state(others.url, others.keys)
        jobs = await harness.claim(3)
        tasks = [harness.post(job) for job in jobs]
        await reached.wait()
        await harness.bull.release(jobs)
        assert kinds(await others.send(1)) == {Accepted}
        assert len(fake.accepted) == 3
        await lose_writes(others.url, state)
        assert kinds(await others.send(3, backwards)) == {EarlierRequestError}
        for task in tasks:
            task.cancel()
    assert fake.duplicates() == []


async def test_rejected_batch_is_not_sent_for_one_of_its_emails(others: Others, fake: FakeResend) -> None:
    """A batch was split, one half was sent, the other not yet, when Redis loses the split."""
    records = Interrupted(others.pool, others.keys.base, at=3)
    async with others.process(records) as harness:
        await add(harness, 2)
        jobs = await harness.claim(2)
        send_request = harness.gateway.send
        states: list[OlderState] = []

        async def remember_first(*args: object) -> object:
            if not states:
                states.append(await remember_state(others.url, others.keys))
            return await send_request(*args)  # type: ignore[arg-type]

        async def lose_and_send() -> None:
            (sent,) = fake.accepted
            await lose_writes(others.url, states[0])
            await harness.bull.release(jobs)
            await others.send(2, lambda jobs: [job for job in jobs if sent.to != (f"person{job.id}@mail.dev",)])

        records.before = lose_and_send
        harness.gateway.send = remember_first  # type: ignore[method-assign,assignment]
        fake.script(error(422, "validation_error", "The batch is invalid."), when=lambda one: "batch" in one.path)
        await wait_for_results([harness.post(job) for job in jobs])
    assert fake.duplicates() == []


async def test_record_of_a_withdrawn_request_counts_if_the_same_request_was_sent(
    others: Others, fake: FakeResend
) -> None:
    """While a record was in doubt, another process built the same request and sent it without a record of its own."""
    records = Interrupted(others.pool, others.keys.base)
    async with others.process(records) as harness:
        await add(harness, 2)
        state = await remember_state(others.url, others.keys)

        async def lose_and_send() -> None:
            await lose_writes(others.url, state)
            assert kinds(await others.send(2)) == {Accepted}
            await lose_writes(others.url, state)
            raise StoreUnavailableError("the reply was lost")

        records.after = lose_and_send
        results = await wait_for_results([harness.post(job) for job in await harness.claim(2)])
        assert kinds(results) == {LockLostError}
        assert kinds(await others.send(2, backwards)) == {EarlierRequestError}
    assert fake.duplicates() == []
    assert len(fake.accepted) == 2


async def test_late_record_whose_claims_redis_has_lost_does_not_count(
    others: Others, fake: FakeResend, clock: FakeClock
) -> None:
    """A process was stopped for minutes, and cannot take its record back at once: its emails are not set aside."""
    records = Interrupted(others.pool, others.keys.base, away=1)
    async with others.process(records, clock) as harness:
        await add(harness, 2)
        state = await remember_state(others.url, others.keys)

        async def lose_and_wait() -> None:
            clock.advance(MAX_PREPARATION_S + 1)
            await lose_writes(others.url, state)

        records.after = lose_and_wait
        await wait_for_results([harness.post(job) for job in await harness.claim(2)])
        assert fake.accepted == []
        assert kinds(await others.send(2, backwards, clock=clock)) == {Accepted}
    assert len(fake.accepted) == 2


@pytest.mark.parametrize("count", [1, 3])
async def test_request_of_a_dead_process_is_sent_after_one_that_was_withdrawn(
    others: Others, fake: FakeResend, count: int
) -> None:
    """Postgres was away twice: the first request was recorded and withdrawn, the second one not even recorded."""
    first = Interrupted(others.pool, others.keys.base, away=1)
    second, reached = Interrupted(others.pool, others.keys.base), asyncio.Event()

    async def lose_reply() -> None:
        raise StoreUnavailableError("the reply was lost")

    async def stand_still() -> None:
        reached.set()
        await asyncio.Event().wait()

    first.after, second.before = lose_reply, stand_still
    async with others.process(first) as one, others.process(second) as two:
        await add(one, 3)
        jobs = await one.claim(3)
        assert kinds(await wait_for_results([one.post(job) for job in jobs])) == {StoreUnavailableError}
        await one.bull.release(jobs)
        jobs = await two.claim(3)
        tasks = [two.post(job) for job in jobs]
        await reached.wait()
        await two.bull.release(jobs)
        assert kinds(await others.send(count)) == {Accepted}
        for task in tasks:
            task.cancel()
    assert fake.duplicates() == []
    assert len(fake.accepted) == 3


@pytest.mark.parametrize("moment", ["before its locks are checked", "before it records"])
async def test_process_that_was_stopped_does_not_resume_a_request(
    others: Others, fake: FakeResend, redis: Redis, clock: FakeClock, moment: str
) -> None:
    """After minutes the scheduler has made new jobs of emails that are in no record, if Redis has lost theirs."""
    first, reached = Interrupted(others.pool, others.keys.base), asyncio.Event()

    async def stand_still() -> None:
        reached.set()
        await asyncio.Event().wait()

    async def wait() -> None:
        clock.advance(MAX_PREPARATION_S + 1)

    first.before = stand_still
    second = Interrupted(others.pool, others.keys.base)
    async with others.process(first) as one, others.process(second, clock) as two:
        await add(one, 2)
        jobs = await one.claim(2)
        tasks = [one.post(job) for job in jobs]
        await reached.wait()
        await one.bull.release(jobs)
        jobs = await two.claim(2)
        if moment == "before it records":
            second.before = wait
            expected: type = StaleDecisionError
        else:
            await redis.delete(*(others.keys.lock(job.id) for job in jobs))
            expected = LockLostError
        assert kinds(await wait_for_results([two.post(job) for job in jobs])) == {expected}
        assert fake.accepted == []
        for task in tasks:
            task.cancel()


async def test_emails_beside_one_that_was_sent_are_not_set_aside(others: Others, fake: FakeResend) -> None:
    """A process died when it had learnt that one of its emails is in an earlier request: the others were not sent."""
    records = Interrupted(others.pool, others.keys.base)
    reached = stand_still(records, "after")
    async with others.process(records) as harness:
        await add(harness, 3)
        state = await remember_state(others.url, others.keys)
        assert kinds(await others.send(3, lambda jobs: jobs[:1])) == {Accepted}
        await lose_writes(others.url, state)
        jobs = await harness.claim(3)
        tasks = [harness.post(job) for job in jobs]
        await reached.wait()
        await harness.bull.release(jobs)
        results = await others.send(3)
        assert [type(result) for result in results] == [EarlierRequestError, StaleDecisionError, StaleDecisionError]
        assert [type(result) for result in await others.send(3)] == [EarlierRequestError, Accepted, Accepted]
        for task in tasks:
            task.cancel()
    assert fake.duplicates() == []
    assert len(fake.accepted) == 3
