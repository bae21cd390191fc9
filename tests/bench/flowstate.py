"""The daemon's worker with a handler that does nothing: the counterpart of `bull_peer.mjs` for npm bull.

`python -m tests.bench.flowstate --redis URL --prefix P --jobs N --concurrency C` prints jobs, seconds, rate and rss_mb.
The time runs from the first run to the last job settled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path
from uuid import uuid4

import uvloop

from flowstate_daemon.base import logs
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import QueueEvents
from flowstate_daemon.queue.lease import Lease, connection_name
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.worker.executor import Handler
from flowstate_daemon.worker.in_flight import JobRun
from flowstate_daemon.worker.worker import Worker, WorkerOptions


def cpu_s(pid: int | str = "self") -> float:
    """The CPU time of the process in seconds: its cost, however busy the machine is."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int | str = "self") -> float:
    """Resident memory of a process, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def build(url: str, prefix: str, handler: Handler, concurrency: int) -> tuple[Worker, Connection, Lease]:
    """A worker as the daemon builds it, with another handler."""
    clock, keys, token = Clock(), Keys(prefix), f"bench/{uuid4().hex}"
    connection = Connection(url, client_name=connection_name(keys, token))
    context = ServiceContext(HealthRegistry(clock), Metrics(KINDS), clock)
    gate = SendGate(context.health, context.metrics, clock)
    lease = Lease(connection, keys, instance_id="bench", token=token)
    bull = BullQueue(connection, keys, clock, token=token)
    options = WorkerOptions(concurrency=concurrency)
    return Worker(bull, QueueEvents(connection, keys), lease, handler, gate, options, context), connection, lease


async def drain(url: str, prefix: str, jobs: int, concurrency: int) -> dict[str, float]:
    clock, done, started = Clock(), 0, 0.0
    all_done = asyncio.Event()

    async def nothing(_run: JobRun) -> None:
        nonlocal done, started
        if not done:
            started = clock.monotonic()
        done += 1
        if done == jobs:
            all_done.set()

    worker, connection, lease = build(url, prefix, nothing, concurrency)
    await lease.acquire()
    running = asyncio.create_task(worker.run())
    await all_done.wait()
    while len(worker.in_flight):
        await worker.in_flight.wait_for_change()
    seconds = clock.monotonic() - started
    worker.stop()
    await running
    await lease.release()
    await connection.close()
    return {"jobs": jobs, "seconds": round(seconds, 4), "rate": round(jobs / seconds), "rss_mb": rss_mb()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--concurrency", type=int, default=100)
    given = parser.parse_args()
    logs.configure("warning", "json")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(drain(given.redis, given.prefix, given.jobs, given.concurrency))))


if __name__ == "__main__":
    main()
