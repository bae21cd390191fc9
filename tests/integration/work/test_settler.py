"""An ending that Redis executed without being heard, and whose job is back in our hands before it is repeated."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import Outage
from flowstate_daemon.base.instruments import Instruments
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.vitals import Vitals
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.job import Job, NewJob, Retried
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.work.fate import Ending, Released
from flowstate_daemon.work.inflight import InFlight
from flowstate_daemon.work.report import Reporter
from flowstate_daemon.work.right_of_way import RightOfWay
from flowstate_daemon.work.settler import Settler


def released(job: Job) -> Ending:
    return Released(job)


def retried(job: Job) -> Ending:
    return Retried(job, "no", b"[]")


@pytest.mark.parametrize("ending_of", [released, retried])
async def test_the_new_run_keeps_its_job(
    connection: Connection, keys: Keys, redis: Redis, monkeypatch: pytest.MonkeyPatch, ending_of: Any
) -> None:
    """Written again, the old ending would put the job back into the queue under the new run, and it would run twice."""
    clock = Clock()
    bull, inflight = Bull(connection, keys, clock, token="me/1"), InFlight(5)
    instruments = Instruments(Vitals(clock), Metrics(), clock)
    pulse = instruments.vitals.pulse("settler")
    settler = Settler(bull, inflight, Reporter(instruments), RightOfWay(clock), pulse)
    await bull.add_many([NewJob("welcome", {}, attempts=3)])
    [first] = await bull.take(1)
    inflight.take_in(first, 0.0).over = True
    call = connection.call

    async def deaf(*command: Any) -> Any:
        await call(*command)
        raise Outage("the connection broke")

    settler.put(ending_of(first))
    monkeypatch.setattr(connection, "call", deaf)
    with pytest.raises(Outage):
        await settler.turn()
    monkeypatch.undo()
    [second] = await bull.take(1)
    inflight.take_in(second, 1.0)
    async with asyncio.timeout(5):
        await settler.turn()
    assert await redis.lrange(keys("active"), 0, -1) == [second.id]
    assert await redis.get(keys.lock(second.id)) == "me/1"
    assert [await redis.llen(keys("wait")), await redis.zcard(keys("delayed"))] == [0, 0]
