"""Redis has lost the request of an email: it is settled by what became of that request, and not sent again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import (
    EarlierRequestError,
    LockLostError,
    MaybeSentError,
    PermanentError,
    RetryableError,
    StaleDecisionError,
    StoreUnavailableError,
)
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger
from flowstate_daemon.database.pool import acquire, open_pool
from flowstate_daemon.database.request_records import RequestRecords
from flowstate_daemon.mail.message import Accepted
from flowstate_daemon.queue.job import Job, JobFailed, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.recent_requests import RecentRequests
from flowstate_daemon.sending.request_recorder import MAX_PREPARATION_S, OLD_JOB_MS, OUTCOME_WAIT_MS
from tests.support.clock import FakeClock
from tests.support.dispatcher_harness import CODE, REMINDER, DispatcherHarness, wait_for_results
from tests.support.fake_resend import Answer, FakeResend, ReceivedRequest, error
from tests.support.ledger_entries import outcome
from tests.support.older_redis import OlderState, lose_writes, remember_state
from tests.support.read_only import read_only

Make = Callable[[], Awaitable[DispatcherHarness]]


@pytest.fixture
def harness(recording_harness: DispatcherHarness) -> DispatcherHarness:
    return recording_harness


async def send(harness: DispatcherHarness, jobs: list[Job]) -> list[Accepted | BaseException]:
    return await wait_for_results([harness.post(job) for job in jobs])


def forget_memory(harness: DispatcherHarness) -> None:
    """From here on the harness is another process."""
    harness.request_store.recent = RecentRequests()


async def add(harness: DispatcherHarness, count: int, priority: int = REMINDER) -> None:
    await harness.bull.add_many([NewJob("welcome", {}, priority=priority) for _ in range(count)])


async def sent_and_lost(
    harness: DispatcherHarness, url: str, count: int, priority: int = REMINDER
) -> tuple[OlderState, list[Accepted | BaseException]]:
    """Send `count` emails, and let Redis lose their claims; the results."""
    await add(harness, count, priority)
    state = await remember_state(url, harness.keys)
    results = await send(harness, await harness.claim(count))
    await lose_writes(url, state)
    return state, results


async def write_ledger(
    harness: DispatcherHarness, pool: asyncpg.Pool, jobs: list[Job], results: list[Accepted | BaseException]
) -> None:
    ledger = Ledger(pool, harness.clock)
    for job, result in zip(jobs, results, strict=True):
        assert isinstance(result, Accepted)
        key = f"{harness.keys.base}{job.id}:{job.timestamp}:1"
        to = f"person{job.id}@mail.dev"
        await ledger.write([outcome(key=key, job_id=job.id, to=to, provider_id=result.provider_id)])


def in_another_order(jobs: list[Job]) -> list[Job]:
    """The last job first: then the batch is not the same request as before."""
    return sorted(jobs, key=lambda job: -int(job.id))


def one_request(seen: list[ReceivedRequest]) -> bool:
    return len({(incoming.path, incoming.key, incoming.body) for incoming in seen}) == 1


@pytest.mark.parametrize("count", [1, 2, 100])
@pytest.mark.parametrize("priority", [CODE, REMINDER])
async def test_the_same_process_knows_what_it_has_sent(
    harness: DispatcherHarness, fake: FakeResend, valkey_url: str, count: int, priority: int
) -> None:
    """The jobs complete with the ids of the first time, and the provider gets no second request."""
    _, first = await sent_and_lost(harness, valkey_url, count, priority)
    assert await send(harness, await harness.claim(count)) == first
    assert len(fake.accepted) == count
    assert fake.duplicates() == []
    assert sum(fake.requests.values()) == len({mail.key for mail in fake.accepted})


@pytest.mark.parametrize("count", [1, 2, 100])
async def test_another_process_completes_what_the_ledger_has_as_sent(
    harness: DispatcherHarness, fake: FakeResend, pool: asyncpg.Pool, valkey_url: str, count: int
) -> None:
    """The ledger has the provider's id: the job completes with it, whatever other jobs it is grouped with."""
    _, first = await sent_and_lost(harness, valkey_url, count)
    forget_memory(harness)
    jobs = await harness.claim(count)
    await write_ledger(harness, pool, jobs, first)
    others = await harness.jobs(3)
    results = await send(harness, [others[0], *jobs, *others[1:]])
    assert results[1:-2] == first
    assert fake.duplicates() == []
    assert len(fake.accepted) == count + 3


async def test_email_of_unknown_outcome_waits_and_is_set_aside(
    harness: DispatcherHarness, fake: FakeResend, valkey_url: str, redis: Redis, pool: asyncpg.Pool
) -> None:
    """Its process may still learn the outcome; later none will. Then a person decides, and a retry sends it."""
    await sent_and_lost(harness, valkey_url, 2)
    forget_memory(harness)
    jobs = in_another_order(await harness.claim(2))
    for _ in range(2):  # however often it is tried again
        results = await send(harness, jobs)
        assert {type(result) for result in results} == {EarlierRequestError}
        jobs = in_another_order(await harness.released(jobs))
    async with acquire(pool) as postgres:
        await postgres.execute(
            "UPDATE flowstate_daemon.request_members SET saved_at = saved_at - $1 * interval '1 ms'", OUTCOME_WAIT_MS
        )
    results = await send(harness, jobs)
    assert [type(result) for result in results] == [MaybeSentError] * 2
    assert len(fake.accepted) == 2
    numbers = [result.requests for result in results if isinstance(result, MaybeSentError)]
    await harness.bull.fail(
        [JobFailed(job, "parked: …", b"[]", requests=number) for job, number in zip(jobs, numbers, strict=True)]
    )
    assert await redis.hget(harness.keys.job(jobs[0].id), "maybeSent") == "1"
    for job in jobs:  # as Bull's own retry does, which knows nothing of our fields
        await redis.zrem(harness.keys("failed"), job.id)
        await redis.lpush(harness.keys("wait"), job.id)
    assert {type(result) for result in await send(harness, await harness.claim(2))} == {Accepted}
    assert len(fake.accepted) == 4


@pytest.mark.parametrize("answer", [Answer(502, "", accept=True), Answer(drop=True), Answer(502, "")])
async def test_same_bytes_are_sent_again_while_the_outcome_is_unknown(
    harness: DispatcherHarness, fake: FakeResend, valkey_url: str, seen: list[ReceivedRequest], answer: Answer
) -> None:
    """The process has the stored request in memory: same bytes, same key. Redis has it again afterwards."""
    fake.script(answer)
    _, first = await sent_and_lost(harness, valkey_url, 3)
    assert {type(result) for result in first} == {RetryableError}
    fake.script(Answer(502, ""))
    jobs = await harness.claim(3)
    assert {type(result) for result in await send(harness, jobs)} == {RetryableError}
    forget_memory(harness)  # from here on another process, with the stored request from Redis
    jobs = await harness.released(jobs)
    assert len({job.stored_request_id for job in jobs} - {None}) == 1
    assert {type(result) for result in await send(harness, jobs)} == {Accepted}
    assert len(fake.accepted) == 3
    assert one_request(seen)


async def test_rejected_email_is_free_after_lost_writes(
    harness: DispatcherHarness, fake: FakeResend, valkey_url: str
) -> None:
    """What the provider has certainly not sent is neither set aside nor waited for."""
    await add(harness, 4)
    state = await remember_state(valkey_url, harness.keys)
    jobs = await harness.claim(4)
    results = await wait_for_results([harness.post(job, to="nobody") for job in jobs])
    assert {type(result) for result in results} == {PermanentError}
    await lose_writes(valkey_url, state)
    forget_memory(harness)
    assert {type(result) for result in await send(harness, await harness.claim(4))} == {Accepted}
    assert len(fake.accepted) == 4


async def test_request_that_was_replaced_by_a_later_one_is_not_sent(
    harness: DispatcherHarness, fake: FakeResend, valkey_url: str
) -> None:
    """A batch was rejected and its emails were sent one by one; Redis has lost that, and still has the batch."""
    await add(harness, 2)
    jobs = await harness.claim(2)
    fake.hold()
    async with remembered_at_first_request(harness, valkey_url) as states:
        fake.script(error(422, "validation_error", "The batch is invalid."), when=lambda one: "batch" in one.path)
        tasks = [harness.post(job) for job in jobs]
        fake.release()
        first = await wait_for_results(tasks)
    assert {type(result) for result in first} == {Accepted}
    await lose_writes(valkey_url, states[0])
    jobs = await harness.released(jobs)
    assert len({job.stored_request_id for job in jobs} - {None}) == 1
    assert await send(harness, jobs) == first
    assert len(fake.accepted) == 2


@pytest.mark.parametrize("rejected", [0, 1, 3])
async def test_response_that_redis_has_lost_is_known(
    harness: DispatcherHarness, fake: FakeResend, valkey_url: str, rejected: int
) -> None:
    """Redis has the request, but neither its response nor its rejected emails: no email is parked or sent again."""
    await add(harness, 4)
    jobs = await harness.claim(4)

    async with remembered_at_first_request(harness, valkey_url) as states:
        first = await send_some_to_nobody(harness, jobs, rejected)
    assert [type(result) for result in first] == [PermanentError] * rejected + [Accepted] * (4 - rejected)
    await lose_writes(valkey_url, states[0])
    again = await send_some_to_nobody(harness, await harness.released(jobs), rejected)
    assert [str(result) for result in again] == [str(result) for result in first]
    assert len(fake.accepted) == 4 - rejected
    assert sum(fake.requests.values()) == 1


async def send_some_to_nobody(
    harness: DispatcherHarness, jobs: list[Job], rejected: int
) -> list[Accepted | BaseException]:
    """Send emails of which the provider rejects the first ones."""
    bad = jobs[:rejected]
    return await wait_for_results([harness.post(job, **({"to": "nobody"} if job in bad else {})) for job in jobs])


async def test_rejected_email_that_a_later_request_has_sent_is_sent(
    harness: DispatcherHarness, fake: FakeResend, valkey_url: str
) -> None:
    """It was retried by hand; Redis has lost that, and the response that had rejected it."""
    await add(harness, 2)
    jobs = await harness.claim(2)
    async with remembered_at_first_request(harness, valkey_url) as states:
        first = await send_some_to_nobody(harness, jobs, 1)
    assert [type(result) for result in first] == [PermanentError, Accepted]
    (retried,) = await send(harness, await harness.released(jobs[:1]))
    assert isinstance(retried, Accepted)
    await lose_writes(valkey_url, states[0])
    rejected, accepted = await send(harness, await harness.released(jobs))
    assert (type(rejected), accepted) == (StaleDecisionError, first[1])
    assert await send(harness, await harness.released(jobs[:1])) == [retried]
    assert (len(fake.accepted), fake.duplicates()) == (2, [])


@pytest.mark.parametrize("retried_first", [False, True])
async def test_outcome_of_another_process_is_waited_for(
    harness: DispatcherHarness, fake: FakeResend, pool: asyncpg.Pool, valkey_url: str, *, retried_first: bool
) -> None:
    """As above, but another process gets the jobs: the one that has sent them may be about to write the ledger."""
    await add(harness, 4)
    jobs = await harness.claim(4)
    async with remembered_at_first_request(harness, valkey_url) as states:
        first = await send_some_to_nobody(harness, jobs, 1)
    await lose_writes(valkey_url, states[0])
    forget_memory(harness)
    bad, *others = await harness.released(jobs)
    results = await send_some_to_nobody(harness, [bad, *others], 1)
    assert [type(result) for result in results] == [StaleDecisionError] + [EarlierRequestError] * 3
    if retried_first:  # its new request is recorded: the first one is not sent again, even to learn its outcome
        again = await send_some_to_nobody(harness, await harness.released([bad]), 1)
        assert [type(result) for result in again] == [PermanentError]
        await write_ledger(harness, pool, others, first[1:])
    assert await send(harness, await harness.released(others)) == first[1:]
    assert (len(fake.accepted), fake.duplicates()) == (3, [])


@asynccontextmanager
async def remembered_at_first_request(harness: DispatcherHarness, url: str) -> AsyncIterator[list[OlderState]]:
    """The first of these is the state of Redis before the first request of this harness leaves."""
    send_request, states = harness.gateway.send, list[OlderState]()

    async def wrapped(path: str, body: bytes, key: str, mails: int) -> object:
        if not states:
            states.append(await remember_state(url, harness.keys))
        return await send_request(path, body, key, mails)

    harness.gateway.send = wrapped  # type: ignore[method-assign,assignment]
    yield states
    harness.gateway.send = send_request  # type: ignore[method-assign]


async def test_job_with_a_reused_id_is_sent(harness: DispatcherHarness, fake: FakeResend, valkey_url: str) -> None:
    """The counter of ids went back: a new job has the id of a lost one, and another timestamp."""
    state = await remember_state(valkey_url, harness.keys)
    (lost,) = await harness.jobs(1)
    assert isinstance((await send(harness, [lost]))[0], Accepted)
    await lose_writes(valkey_url, state)
    await harness.bull.add(NewJob("welcome", {}, priority=REMINDER, timestamp=lost.timestamp + 1))
    (new,) = await harness.claim(1)
    assert new.id == lost.id
    assert isinstance((await send(harness, [new]))[0], Accepted)
    assert len(fake.accepted) == 2


async def test_email_alone_is_sent_again_as_the_same_request(
    harness: DispatcherHarness, fake: FakeResend, valkey_url: str
) -> None:
    """Built again, it has the same bytes and so the same key: the provider recognizes it, and there is no delay."""
    _, first = await sent_and_lost(harness, valkey_url, 1)
    forget_memory(harness)
    assert await send(harness, await harness.claim(1)) == first
    assert len(fake.accepted) == 1
    assert fake.repeated_keys == 1


@pytest.mark.parametrize("per_ms", [1, 1_000, 1_000_000])
async def test_old_copy_of_redis_sends_nothing_again(
    harness: DispatcherHarness, fake: FakeResend, pool: asyncpg.Pool, connection: Connection, keys: Keys, per_ms: int
) -> None:
    """The records of such old jobs are deleted, but the ledger has them; one that was never sent is sent.

    Producers also write the time in microseconds and nanoseconds.
    """
    timestamp = harness.clock.now_ms() - OLD_JOB_MS - 60_000
    added = await harness.bull.add_many([NewJob("welcome", {}, priority=REMINDER) for _ in range(3)])
    for job in added:
        await connection.execute("HSET", keys.job(job.id), "timestamp", timestamp * per_ms)
    jobs = await harness.claim(3)
    sent: list[Accepted | BaseException] = [Accepted("re-1", "resend"), Accepted("re-2", "resend")]
    await write_ledger(harness, pool, jobs[:2], sent)
    results = await send(harness, jobs)
    assert results[:2] == sent
    assert [mail.to for mail in fake.accepted] == [(f"person{jobs[2].id}@mail.dev",)]


async def test_bulk_waits_for_postgres_and_codes_do_not(
    connection: Connection, keys: Keys, fake: FakeResend, pool: asyncpg.Pool
) -> None:
    """While Postgres is unreachable a batch of bulk emails is released, and a code is sent; both are sent once."""
    async with open_pool(clean_dsn("postgresql://nobody@127.0.0.1:1/nothing")) as unreachable:
        records = RequestRecords(unreachable, keys.base)
        async with DispatcherHarness(connection, keys, fake, records=records) as harness:
            jobs, codes = await harness.jobs(2), await harness.jobs(1, CODE)
            assert {type(result) for result in await send(harness, jobs)} == {StoreUnavailableError}
            assert [type(result) for result in await send(harness, codes)] == [Accepted]
            await harness.bull.release(jobs)
    async with DispatcherHarness(connection, keys, fake, records=RequestRecords(pool, keys.base)) as harness:
        assert {type(result) for result in await send(harness, await harness.claim(2))} == {Accepted}
    assert len(fake.accepted) == 3


async def test_bulk_emails_beside_a_code_wait_for_their_record(
    harness: DispatcherHarness, fake: FakeResend, pool: asyncpg.Pool, seen: list[ReceivedRequest]
) -> None:
    """While Postgres is away, a code is sent without a record; the bulk emails of its batch are not."""
    fake.rate.limit = 50  # once the limit is known, codes and bulk emails share a request
    await send(harness, await harness.jobs(1))
    bulk, codes = await harness.jobs(3), await harness.jobs(2, CODE)
    async with read_only(pool):
        results = await send(harness, [*codes, *bulk])
    assert [type(result) for result in results] == [Accepted] * 2 + [StoreUnavailableError] * 3
    assert {type(result) for result in await send(harness, await harness.released(bulk))} == {Accepted}
    assert len(fake.accepted) == 6
    assert fake.duplicates() == []


@pytest.mark.parametrize("times", [1, 3])
async def test_outage_of_postgres_after_lost_writes_sends_nothing_twice(
    harness: DispatcherHarness, fake: FakeResend, pool: asyncpg.Pool, valkey_url: str, times: int
) -> None:
    """Redis loses the outcomes, and then the emails cannot be recorded: the record of the first time counts."""
    await sent_and_lost(harness, valkey_url, 2)
    forget_memory(harness)
    jobs = in_another_order(await harness.claim(2))
    for _ in range(times):
        async with read_only(pool):
            assert {type(result) for result in await send(harness, jobs)} == {StoreUnavailableError}
        jobs = in_another_order(await harness.released(jobs))
    assert {type(result) for result in await send(harness, jobs)} == {EarlierRequestError}
    assert len(fake.accepted) == 2


async def test_unrecorded_request_of_a_dead_process_waits_for_its_record(
    harness: DispatcherHarness, fake: FakeResend, pool: asyncpg.Pool
) -> None:
    """A process stored the request and died: while Postgres is away, bulk emails are not sent with it."""
    fake.script(error(500, "application_error"))
    jobs = await harness.jobs(2)
    assert {type(result) for result in await send(harness, jobs)} == {RetryableError}
    forget_memory(harness)
    async with read_only(pool):
        jobs = await harness.released(jobs)
        assert {type(result) for result in await send(harness, jobs)} == {StoreUnavailableError}
    assert {type(result) for result in await send(harness, await harness.released(jobs))} == {Accepted}
    assert fake.duplicates() == []


async def test_record_that_comes_late_is_taken_back(
    connection: Connection, keys: Keys, fake: FakeResend, pool: asyncpg.Pool, clock: FakeClock
) -> None:
    """A process that was stopped between storing and recording sends nothing: others may have decided meanwhile."""
    records = StopsBeforeIt(pool, keys.base, clock)
    async with DispatcherHarness(connection, keys, fake, records=records, clock=clock) as harness:
        jobs = await harness.jobs(2)
        assert {type(result) for result in await send(harness, jobs)} == {StaleDecisionError}
        assert fake.accepted == []
        assert await pool.fetchval("SELECT bool_and(free) FROM flowstate_daemon.request_members")
        assert {type(result) for result in await send(harness, await harness.released(jobs))} == {Accepted}
    assert len(fake.accepted) == 2


class StopsBeforeIt(RequestRecords):
    """The process stands still before the first record, as after SIGSTOP."""

    def __init__(self, pool: asyncpg.Pool, base: str, clock: FakeClock) -> None:
        super().__init__(pool, base)
        self._clock: FakeClock | None = clock

    async def record(self, *args: object, **kwargs: object) -> set[tuple[str, int]]:
        if self._clock is not None:
            self._clock.advance(MAX_PREPARATION_S + 1)
            self._clock = None
        return await super().record(*args, **kwargs)  # type: ignore[arg-type]


async def test_lost_reply_of_postgres_changes_nothing(
    connection: Connection, keys: Keys, fake: FakeResend, pool: asyncpg.Pool, seen: list[ReceivedRequest]
) -> None:
    """The record was written and its reply lost: the batch is released, and sent once with another number."""
    async with DispatcherHarness(connection, keys, fake, records=LosesReplies(pool, keys.base)) as harness:
        jobs = await harness.jobs(3)
        assert {type(result) for result in await send(harness, jobs)} == {StoreUnavailableError}
        assert {type(result) for result in await send(harness, await harness.released(jobs))} == {Accepted}
    assert len(fake.accepted) == 3


class LosesReplies(RequestRecords):
    """A short outage: the first record may be `written`, but its reply is lost, and it cannot be taken back at once."""

    def __init__(self, pool: asyncpg.Pool, base: str, *, written: bool = True) -> None:
        super().__init__(pool, base)
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        self._written = written
        self._lost = self._over = False

    async def record(self, *args: object, **kwargs: object) -> set[tuple[str, int]]:
        found = await super().record(*args, **kwargs) if self._lost or self._written else set()  # type: ignore[arg-type]
        if not self._lost:
            self._lost = True
            if self.meanwhile is not None:
                await self.meanwhile()
            raise StoreUnavailableError("the reply was lost")
        return found

    async def forget(self, *args: object, **kwargs: object) -> None:
        self._end_outage()
        await super().forget(*args, **kwargs)  # type: ignore[arg-type]

    async def forget_withdrawn(self, *args: object, **kwargs: object) -> bool:
        self._end_outage()
        return await super().forget_withdrawn(*args, **kwargs)  # type: ignore[arg-type]

    def _end_outage(self) -> None:
        if not self._over:
            self._over = True
            raise StoreUnavailableError("not back yet")


async def test_lost_reply_of_postgres_is_known_to_other_processes(
    connection: Connection, keys: Keys, fake: FakeResend, pool: asyncpg.Pool
) -> None:
    """Redis knows that the recorded request was never sent: another process sends the emails at once."""
    async with DispatcherHarness(connection, keys, fake, records=LosesReplies(pool, keys.base)) as harness:
        jobs = await harness.jobs(3)
        assert {type(result) for result in await send(harness, jobs)} == {StoreUnavailableError}
        forget_memory(harness)
        jobs = in_another_order(await harness.released(jobs))
        assert {type(result) for result in await send(harness, jobs)} == {Accepted}
    assert len(fake.accepted) == 3


@pytest.mark.parametrize("written", [True, False])
async def test_claims_that_redis_loses_while_the_record_is_in_doubt_are_sent_at_once(
    connection: Connection, keys: Keys, fake: FakeResend, pool: asyncpg.Pool, valkey_url: str, written: bool
) -> None:
    """The locks are gone with the request, so that nobody else can have read it: its record does not count."""
    records = LosesReplies(pool, keys.base, written=written)
    async with DispatcherHarness(connection, keys, fake, records=records, clock=Clock()) as harness:
        await add(harness, 3)
        state = await remember_state(valkey_url, keys)
        records.meanwhile = lambda: lose_writes(valkey_url, state)
        jobs = await harness.claim(3)
        assert {type(result) for result in await send(harness, jobs)} == {LockLostError}
        forget_memory(harness)
        results = await send(harness, in_another_order(await harness.claim(3)))
        assert {type(result) for result in results} == {Accepted}
    assert len(fake.accepted) == 3


async def test_request_that_another_process_has_resumed_is_not_withdrawn(
    connection: Connection, keys: Keys, fake: FakeResend, pool: asyncpg.Pool, valkey_url: str
) -> None:
    """Its locks expired while the record was in doubt, another process sent it, and Redis lost all of that."""
    records = LosesReplies(pool, keys.base)
    async with DispatcherHarness(connection, keys, fake, records=records, clock=Clock()) as harness:
        await add(harness, 2)
        state = await remember_state(valkey_url, keys)

        async def resume_elsewhere() -> None:
            client = Redis.from_url(valkey_url, protocol=2)
            (name,) = [name async for name in client.scan_iter(f"{keys.own('request:')}*")]
            await client.aclose()
            stored = await harness.request_store.load(name.decode().rpartition(":")[2])
            assert stored is not None
            other = RequestRecords(pool, keys.base)
            await other.mark_resumed(stored.id, stored.key, stored.saved_at)
            await other.record(stored.id, stored.key, stored.saved_at, stored.members, stored.numbers)
            await lose_writes(valkey_url, state)

        records.meanwhile = resume_elsewhere
        assert {type(result) for result in await send(harness, await harness.claim(2))} == {LockLostError}
        forget_memory(harness)
        results = await send(harness, in_another_order(await harness.claim(2)))
        assert {type(result) for result in results} == {EarlierRequestError}
    assert fake.accepted == []


async def test_without_postgres_the_memory_of_the_process_is_enough(
    connection: Connection, keys: Keys, fake: FakeResend, valkey_url: str, clock: FakeClock
) -> None:
    """One process that survives sends nothing twice, also without Postgres."""
    async with DispatcherHarness(connection, keys, fake) as harness:
        _, first = await sent_and_lost(harness, valkey_url, 100)
        assert await send(harness, await harness.claim(100)) == first
    assert len(fake.accepted) == 100
