"""Sealed requests whose members end: counted once each, kept for a retry, let go of when they have run out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.envelopes import Envelopes
from flowstate_daemon.queue.job import Failed, Finished, NewJob, Retried, Settled
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.operator import Operator
from tests.integration.queue.letters import bound, left, letter, take
from tests.integration.queue.stage import Stage
from tests.support.clock import HandClock


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A raw client that does not mind compressed bytes."""
    client = Redis.from_url(valkey_url, decode_responses=True, encoding_errors="replace", protocol=2)
    yield client
    await client.aclose()


@pytest.fixture
def operator(connection: Connection, keys: Keys, clock: HandClock) -> Operator:
    return Operator(connection, keys, clock, token="op")


async def test_the_last_member_takes_it_along(stage: Stage, bull: Bull, envelopes: Envelopes) -> None:
    """Finished members are counted in the call that finishes them; retried and failed ones keep their envelope."""
    first, second, third, fourth = await take(stage, bull, "1", "2", "3", "4", opts='{"attempts":3}')
    await envelopes.seal(letter([first, second, third, fourth]))
    assert await bull.finish([Finished(first), Finished(second), Finished(second)]) == [
        Settled.OK,
        Settled.OK,
        Settled.MISPLACED,
    ]
    assert await left(stage) == "2"
    await bull.finish([Finished(first)])
    await bull.retry([Retried(third, "no", b"[]")])
    await bull.fail([Failed(fourth, "no", b"[]")])
    assert await left(stage) == "2"
    assert await bound(stage, "3", "4") == ["e1", "e1"]
    (again,) = await bull.take(1)
    assert (again.id, again.envelope) == ("3", "e1")
    await bull.finish([Finished(again)])
    assert await left(stage) == "1"
    await stage.redis.lpush(stage.keys("active"), "4")
    await stage.redis.set(stage.keys.lock("4"), "me/2")
    await bull.finish([Finished(fourth)])
    assert not [name for name in await stage.everything() if "envelope" in name]


async def test_a_failed_job_that_is_not_kept(stage: Stage, bull: Bull, envelopes: Envelopes) -> None:
    """Nobody can retry it, so its part of the envelope goes with it."""
    jobs = await take(stage, bull, "1", "2", opts='{"removeOnFail":true}')
    await envelopes.seal(letter(jobs))
    await bull.fail([Failed(jobs[0], "no", b"[]")])
    assert await left(stage) == "1"
    await bull.fail([Failed(jobs[1], "no", b"[]")])
    assert await stage.everything() == {}


async def test_a_parked_job_is_free(stage: Stage, bull: Bull, envelopes: Envelopes, operator: Operator) -> None:
    """A job that fails without its envelope is sent afresh when somebody retries it; with it, the same bytes go."""
    parked, kept = await take(stage, bull, "1", "2")
    await envelopes.seal(letter([parked]))
    await envelopes.seal(letter([kept], eid="e2"))
    await stage.redis.delete(stage.keys.ours("envelope:e1"))
    await bull.fail([Failed(job, "no", b"[]") for job in (parked, kept)])
    assert await bound(stage, "1", "2") == [None, "e2"]
    await operator.retry("2")
    assert [job.envelope for job in await bull.take(5)] == ["e2"]


async def test_an_envelope_that_ran_out_before_the_retry(
    stage: Stage, bull: Bull, envelopes: Envelopes, operator: Operator
) -> None:
    """A person who retries a failed job a day later wants it sent, not parked again."""
    jobs = await take(stage, bull, "1", "2")
    await envelopes.seal(letter(jobs))
    await bull.fail([Failed(job, "no", b"[]") for job in jobs])
    await stage.redis.delete(stage.keys.ours("envelope:e1"))
    await operator.retry("1")
    await operator.retry_all()
    assert [job.envelope for job in await bull.take(5)] == [None, None]


async def test_new_data_is_sent_afresh(stage: Stage, bull: Bull, envelopes: Envelopes, operator: Operator) -> None:
    """Whoever changes the data of a job does not want the sealed bytes any more."""
    (job,) = await take(stage, bull, "1", opts='{"attempts":3}')
    await envelopes.seal(letter([job]))
    await bull.retry([Retried(job, "no", b"[]")])
    await operator.update_data("1", b'{"a":1}')
    assert [job.envelope for job in await bull.take(1)] == [None]


async def test_strangers_in_the_envelopes_place(stage: Stage, bull: Bull, envelopes: Envelopes) -> None:
    """A key of another kind, or a count that is none, does not stop an ending."""
    jobs = await take(stage, bull, "1", "2")
    await stage.redis.hset(stage.keys("1"), "envelope", "text")
    await stage.redis.set(stage.keys.ours("envelope:text"), "x")
    await envelopes.seal(letter(jobs[1:]))
    await stage.redis.hset(stage.keys.ours("envelope:e1"), "left", "many")
    assert await bull.finish([Finished(job) for job in jobs]) == [Settled.OK] * 2


async def test_two_finish_members_of_one_request(
    connection: Connection, elsewhere: Connection, stage: Stage, keys: Keys, clock: HandClock
) -> None:
    """Members that end in two daemons at once are counted once each, also when both try to end the same ones."""
    mine = Bull(connection, keys, clock, token="me/2")
    same = Bull(elsewhere, keys, clock, token="me/2")
    for _ in range(10):
        await mine.add_many([NewJob("x", {}) for _ in range(20)])
        jobs = await mine.take(20)
        await Envelopes(connection, keys, clock, token="me/2").seal(letter(jobs))
        results = await asyncio.gather(
            *(bull.finish([Finished(job)]) for job in jobs[:19] for bull in (mine, same)),
        )
        assert [result[0] for result in results].count(Settled.OK) == 19
        assert await left(stage) == "1"
        await same.finish([Finished(jobs[19])])
        assert await left(stage) is None
