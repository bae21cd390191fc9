"""A result that Redis wrote although its reply was lost, and whose job was claimed again before the retry."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.base.event_loop import UrgentPriority
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import Job, JobRetried, NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.worker.completer import JobCompleter, JobLogger
from flowstate_daemon.worker.in_flight import InFlightJobs
from flowstate_daemon.worker.results import JobReleased, JobResult


def released(job: Job) -> JobResult:
    return JobReleased(job)


def retried(job: Job) -> JobResult:
    return JobRetried(job, "no", b"[]")


@pytest.mark.parametrize("make_result", [released, retried])
async def test_repeated_result_does_not_settle_the_new_run(
    connection: Connection, keys: Keys, redis: Redis, monkeypatch: pytest.MonkeyPatch, make_result: Any
) -> None:
    """Written again, the old result would put the job back into the queue under the new run, and it would run twice."""
    clock = Clock()
    bull, in_flight = BullQueue(connection, keys, clock, token="me/1"), InFlightJobs(5)
    context = ServiceContext(HealthRegistry(clock), Metrics(), clock)
    heartbeat = context.health.register(JobCompleter.name)
    completer = JobCompleter(bull, in_flight, JobLogger(context), UrgentPriority(clock), heartbeat)
    await bull.add_many([NewJob("welcome", {}, attempts=3)])
    [first] = await bull.claim(1)
    in_flight.add(first, 0.0).finished = True
    call = connection.execute

    async def lose_reply(*command: Any) -> Any:
        await call(*command)
        raise StoreUnavailableError("the connection broke")

    completer.submit(make_result(first))
    monkeypatch.setattr(connection, "execute", lose_reply)
    with pytest.raises(StoreUnavailableError):
        await completer.run_once()
    monkeypatch.undo()
    [second] = await bull.claim(1)
    in_flight.add(second, 1.0)
    async with asyncio.timeout(5):
        await completer.run_once()
    assert await redis.lrange(keys("active"), 0, -1) == [second.id]
    assert await redis.get(keys.lock(second.id)) == "me/1"
    assert [await redis.llen(keys("wait")), await redis.zcard(keys("delayed"))] == [0, 0]
