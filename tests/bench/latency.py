"""Time from adding a job to the start of its handler, on an idle worker: the latency of a code."""

from __future__ import annotations

import asyncio
from statistics import quantiles

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.job import NewJob
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.worker.in_flight import JobRun
from tests.bench.flowstate import build

RUNS = 1000


async def latency(url: str, prefix: str) -> dict[str, float]:
    """p50 and p99 in ms over jobs that are added one at a time."""
    clock, arrived, waits = Clock(), asyncio.Queue[float](), []

    async def arrive(_run: JobRun) -> None:
        arrived.put_nowait(clock.monotonic())

    worker, connection, lease = build(url, prefix, arrive, 50)
    await lease.acquire()
    running = asyncio.create_task(worker.run())
    producer = Connection(url, client_name="bench-producer")
    bull = BullQueue(producer, Keys(prefix), clock, token="bench/producer")
    for _ in range(RUNS):
        added = clock.monotonic()
        await bull.add(NewJob(name="otp", data={}, priority=1))
        waits.append((await arrived.get() - added) * 1000)
        while len(worker.in_flight):
            await worker.in_flight.wait_for_change()
    worker.stop()
    await running
    await lease.release()
    await connection.close()
    await producer.close()
    cuts = quantiles(waits, n=100)
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3)}
