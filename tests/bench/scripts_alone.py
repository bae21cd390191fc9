"""The daemon's Lua without Python between: one client sends prepared claim and complete calls in a pipeline.

This is the physical limit of the queue: what Redis itself can do with the same jobs and the same scripts.
`python -m tests.bench.scripts_alone --redis URL --jobs N` prints jobs and seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import hiredis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.bull_queue import BATCH_SIZE, KEYS, BullQueue, complete_args, job_keys
from flowstate_daemon.queue.job import Job, JobSucceeded
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import load_scripts
from tests.bench.flowstate import new_job
from tests.bench.protocol import jobs, report

TOKEN = "bench/scripts"
LOCK_MS, MAX_DATA_BYTES = 30_000, 1_048_576
WINDOW = 8  # pairs of calls that are on their way
READ_BYTES = 1 << 20


async def prepare(url: str, count: int) -> list[Job]:
    """Fill the queue, learn what a claim returns for each job, and fill it again with the same jobs."""
    connection, keys, clock = Connection(url, client_name="bench-scripts"), Keys("bull"), Clock()
    bull = BullQueue(connection, keys, clock, token=TOKEN)
    new_jobs = [new_job(data, priorities=False, timestamp=clock.now_ms()) for data in jobs("noop", count)]
    await bull.add_many(new_jobs)
    claimed: list[Job] = []
    while batch := await bull.claim(BATCH_SIZE):
        claimed += batch
    await connection.execute("FLUSHALL")
    await bull.add_many(new_jobs)
    for name in ("claim", "complete"):
        await connection.execute("SCRIPT", "LOAD", load_scripts()[name].text)
    await connection.close()
    return claimed


def calls(claimed: list[Job]) -> Iterator[bytes]:
    """For each hundred jobs the bytes of both calls."""
    keys, now_ms = Keys("bull"), Clock().now_ms()
    for first in range(0, len(claimed), BATCH_SIZE):
        batch = claimed[first : first + BATCH_SIZE]
        claim = [keys.base, TOKEN, LOCK_MS, now_ms, BATCH_SIZE, MAX_DATA_BYTES, 1, 0]
        settle = [keys.base, TOKEN, now_ms, 0, *complete_args([JobSucceeded(job) for job in batch])]
        yield _call("claim", [], claim) + _call("complete", job_keys(keys, batch), settle)


def _call(name: str, more_keys: list[str], args: list[Any]) -> bytes:
    keys = [*map(Keys("bull"), KEYS[name]), *more_keys]
    packed = tuple(part if isinstance(part, bytes) else str(part) for part in (*keys, *args))
    return hiredis.pack_command(("EVALSHA", load_scripts()[name].sha, str(len(keys)), *packed))


def run(url: str, requests: list[bytes]) -> float:
    """Send everything with a few pairs of calls on their way; returns seconds. Raises RuntimeError for a refusal."""
    address = urlsplit(url)
    reader, sent, received = hiredis.Reader(), 0, 0
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = time.perf_counter()
        while received < 2 * len(requests):
            while sent < len(requests) and sent - received // 2 < WINDOW:
                connection.sendall(requests[sent])
                sent += 1
            reader.feed(connection.recv(READ_BYTES))
            while (reply := reader.gets()) is not False:
                received += 1
                if isinstance(reply, Exception) or (received % 2 == 0 and set(reply) != {0}):
                    raise RuntimeError(f"the scripts did not settle all jobs: {reply!r}")
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", required=True)
    parser.add_argument("--jobs", type=int, required=True)
    given = parser.parse_args()
    requests = list(calls(asyncio.run(prepare(given.redis, given.jobs))))
    report({"jobs": given.jobs, "seconds": round(run(given.redis, requests), 4)})


if __name__ == "__main__":
    main()
