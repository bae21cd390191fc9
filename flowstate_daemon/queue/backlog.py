"""What the calendar asks of the queue: how long the list before it is, and what is left of jobs it has lost sight of.

The feeder looks before each batch, the reconciler when slots stay open too long. Reads only, but for the mark by which
a memory is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from uuid import uuid4

from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.scripts import Scripts


class Trace(Enum):
    """What is left of a job."""

    NONE = 0
    THERE = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class Ahead:
    """Jobs that wait before a new one, and the name of the memory that will hold it."""

    jobs: int
    memory: str


class Backlog:
    """Looks at one queue; every call is one command and raises Outage when Redis is away."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._keys = keys
        self._mark = keys.ours("memory")
        self._scripts = Scripts(connection)

    async def look(self, priority: int) -> Ahead:
        """How many jobs wait that go before a new one of this priority."""
        jobs, memory = await self._scripts.run("backlog", [self._keys("priority"), self._mark], [priority, _name()])
        return Ahead(jobs, memory.decode())

    async def traces(self, job_ids: Sequence[str]) -> tuple[str, list[Trace]]:
        """The name of the present memory, and what is left there of each job."""
        hashes = [self._keys.job(job_id) for job_id in job_ids]
        memory, *traces = await self._scripts.run("traces", [self._mark, *hashes], [_name()])
        return memory.decode(), [Trace(trace) for trace in traces]


def _name() -> str:
    return uuid4().hex
