"""Emails that failed are freed at once, and do not wait for a full run of the garbage collector, which is rare.

An error refers to the frames that it has passed, and these to the emails of a request: a cycle if a frame or an email
refers to the error. While Postgres refused writes, a daemon grew by 7 MB a second.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import asyncpg
import pytest
from redis import exceptions as redis_errors

from flowstate_daemon.base.errors import FlowstateError, StoreUnavailableError
from flowstate_daemon.database.pool import translate_errors as translate_database_errors
from flowstate_daemon.queue.job import Job
from flowstate_daemon.redis_client.errors import translate_errors as translate_redis_errors
from flowstate_daemon.sending.batch import OutgoingMail
from tests.support.dispatcher_harness import CODE, REMINDER, DispatcherHarness, wait_for_results
from tests.support.fake_resend import FakeResend, error
from tests.support.read_only import read_only

COUNT, ROUNDS = 20, 4  # fewer than open the circuit


@pytest.fixture
def harness(recording_harness: DispatcherHarness) -> DispatcherHarness:
    return recording_harness


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def send(harness: DispatcherHarness, jobs: list[Job]) -> None:
    """What the worker does with a result: it keeps the reason only."""
    for result in await wait_for_results([harness.post(job) for job in jobs]):
        if isinstance(result, FlowstateError):
            result.drop_frames()


def alive() -> int:
    return sum(type(one) is OutgoingMail for one in gc.get_objects())


@pytest.mark.parametrize("priority", [CODE, REMINDER])
async def test_emails_that_postgres_could_not_record(
    harness: DispatcherHarness, pool: asyncpg.Pool, no_collection: None, priority: int
) -> None:
    """At most those of the last two rounds are left."""
    jobs = await harness.jobs(COUNT, priority)
    async with read_only(pool):
        for _ in range(ROUNDS):
            await send(harness, jobs)
            jobs = await harness.released(jobs)
    assert alive() <= 2 * COUNT


@pytest.mark.parametrize("status", [500, 429, 422])
async def test_emails_that_the_provider_refused(
    harness: DispatcherHarness, fake: FakeResend, no_collection: None, status: int
) -> None:
    """Whatever its reason is."""
    for _ in range(ROUNDS):
        fake.script(error(status, "validation_error"))
        await send(harness, await harness.jobs(COUNT))
    assert alive() <= 2 * COUNT


@pytest.mark.parametrize(
    ("translate", "cause"),
    [
        (translate_database_errors, asyncpg.PostgresConnectionError("gone")),
        (translate_database_errors, OSError("gone")),
        (translate_redis_errors, redis_errors.ConnectionError("gone")),
        (translate_redis_errors, redis_errors.ReadOnlyError("replica")),
        (translate_redis_errors, OSError("gone")),
    ],
)
def test_translated_error_is_freed(translate: Callable[[], object], cause: Exception, no_collection: None) -> None:
    """With the frames that it has passed."""

    def outages() -> int:
        return sum(type(one) is StoreUnavailableError for one in gc.get_objects())

    before = outages()
    for _ in range(10):
        with pytest.raises(StoreUnavailableError), translate():  # type: ignore[attr-defined]
            raise cause
    assert outages() <= before + 1  # pytest keeps the last one
