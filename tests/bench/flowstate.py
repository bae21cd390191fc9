"""This daemon's worker in the protocol of the peers (`protocol.py`); its handler does nothing.

Emails, start, idle cost and recovery are measured on the real daemon in `measurements.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvloop

from flowstate_daemon.base import logs
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.garbage import tune_gc
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.queue.events import QueueEvents
from flowstate_daemon.queue.job import REMOVE, NewJob
from flowstate_daemon.queue.lease import Lease, connection_name
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.sending.send_gate import SendGate
from flowstate_daemon.worker.executor import Handler
from flowstate_daemon.worker.in_flight import JobRun
from flowstate_daemon.worker.worker import Worker, WorkerOptions
from tests.bench.protocol import Recorder, code, jobs, parse_options, report

CODE = "otp"
URGENT, ORDINARY = 1, 5
CHUNK = 1000


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


def new_job(data: dict[str, Any], *, priorities: bool, timestamp: int | None = None) -> NewJob:
    """A job as the FlowState backend adds it; with priorities, a code is urgent."""
    urgent = data["type"] == CODE
    priority = (URGENT if urgent else ORDINARY) if priorities else 0
    return NewJob(data["type"], data, priority, attempts=3, remove_on_complete=REMOVE, timestamp=timestamp)


async def work(given: argparse.Namespace) -> None:
    recorder = Recorder(given.mode, sys.maxsize, given.deadline)
    enough = asyncio.Event()

    async def perform(run: JobRun) -> None:
        job = run.job.payload() if run.job.name == CODE else {}
        recorder.begin(job)
        recorder.end(job)
        if (len(recorder.waits_ms) if given.mode == "code" else recorder.done) >= given.jobs:
            enough.set()

    worker, _connection, lease = build(given.redis, "bull", perform, given.concurrency)
    await lease.acquire()
    tune_gc()
    running = asyncio.create_task(worker.run())
    await asyncio.wait((running, asyncio.create_task(enough.wait())), return_when=asyncio.FIRST_COMPLETED)
    while len(worker.in_flight):  # until the last job is settled
        await worker.in_flight.wait_for_change()
    recorder.last = time.time()
    recorder.finish()


async def fill(given: argparse.Namespace) -> None:
    started, waiting = time.time(), []
    connection = Connection(given.redis, client_name="bench-producer")
    bull = BullQueue(connection, Keys("bull"), Clock(), token="bench/producer")
    for data in jobs(given.mode, given.jobs):
        waiting.append(new_job(data, priorities=given.priorities))
        if len(waiting) == CHUNK:
            await bull.add_many(waiting)
            waiting.clear()
    await bull.add_many(waiting)
    await connection.close()
    report({"seconds": round(time.time() - started, 3)})


async def urgent(given: argparse.Namespace) -> None:
    spent = []
    connection = Connection(given.redis, client_name="bench-producer")
    bull = BullQueue(connection, Keys("bull"), Clock(), token="bench/producer")
    await connection.open()
    for number in range(given.jobs):
        data = code(number)
        await bull.add(new_job(data, priorities=given.priorities))
        spent.append(round((time.time() - data["at"]) * 1000, 3))
        await asyncio.sleep(given.interval)
    await connection.close()
    report({"adds_ms": spent})


def main() -> None:
    given = parse_options(sys.argv[1:])
    logs.configure("warning", "json")
    roles = {"work": work, "fill": fill, "urgent": urgent}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(roles[given.role](given))


if __name__ == "__main__":
    main()
