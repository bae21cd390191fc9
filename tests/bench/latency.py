"""From adding a job to its handler starting, on an idle engine: what a one-time code feels."""

from __future__ import annotations

import asyncio
from statistics import quantiles

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.bull import Bull
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.job import NewJob
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.work.inflight import Run
from tests.bench.ours import build

ROUNDS = 1000


async def latency(url: str, prefix: str) -> dict[str, float]:
    """p50 and p99 in ms over jobs that are added one at a time."""
    clock, arrived, waits = Clock(), asyncio.Queue[float](), []

    async def arrive(_run: Run) -> None:
        arrived.put_nowait(clock.mono())

    engine, connection, lease = build(url, prefix, arrive, 50)
    await lease.acquire()
    running = asyncio.create_task(engine.run())
    producer = Connection(url, client_name="bench-producer")
    bull = Bull(producer, Keys(prefix), clock, token="bench/producer")
    for _ in range(ROUNDS):
        added = clock.mono()
        await bull.add(NewJob(name="otp", data={}, priority=1))
        waits.append((await arrived.get() - added) * 1000)
        while len(engine.inflight):
            await engine.inflight.changed()
    engine.stop()
    await running
    await lease.release()
    await connection.close()
    await producer.close()
    cuts = quantiles(waits, n=100)
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3)}
