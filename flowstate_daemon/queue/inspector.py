"""The queue as one looks at it, for metrics, web and command line. Reads only; the engine never comes here.

Every question is one command, because hosted Redis bills by the command. Answers are snapshots: the queue
moves on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flowstate_daemon.queue.clients import Client, carries, connected_clients, strangers
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.ids import names_a_job
from flowstate_daemon.queue.job import State
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.scripts import Scripts
from flowstate_daemon.queue.view import Found, JobView, readable, view_job

PAGE = 200  # jobs read in one script: about a millisecond of the server's time
ENDS_FIRST = ("completed", "failed", "delayed", "active", "wait", "paused")
STATES: dict[bytes, State] = {
    b"completed": "completed",
    b"failed": "failed",
    b"delayed": "delayed",
    b"active": "active",
    b"wait": "wait",
    b"paused": "paused",
}


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs are in each state; each job is counted once."""

    wait: int
    active: int
    delayed: int
    paused: int
    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Snapshot(Counts):
    """The queue at one instant. Instants are Unix ms, None where there is no such job.

    `oldest_waiting_ms` is when the longest waiting job was added: exact but for jobs that are `lifo` or come
    from a stall, which stand at the tail out of order. A delayed job counts from its adding.
    `journal` is the number of outcomes on their way to the ledger.
    """

    is_paused: bool
    oldest_waiting_ms: int | None
    next_due_ms: int | None
    journal: int


@dataclass(frozen=True, slots=True)
class Workers:
    """The worker processes connected, node's and ours; `note` says why none are known if nobody can know."""

    found: tuple[Client, ...]
    note: str | None = None

    def __iter__(self) -> Iterator[Client]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


class Inspector:
    """Reads one queue."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._scripts = Scripts(connection)

    async def snapshot(self) -> Snapshot:
        """Everything that the metrics need."""
        names = ("wait", "active", "delayed", "paused", "completed", "failed", "meta-paused", "priority")
        keys = [*(self._keys(name) for name in names), self._keys.ours("journal")]
        answer = await self._scripts.run("snapshot", keys, [self._keys.base])
        wait, active, delayed, paused, completed, failed, stopped, oldest, due, journal = answer
        return Snapshot(
            wait, active, delayed, paused, completed, failed, bool(stopped), _instant(oldest), _instant(due), journal
        )

    async def counts(self) -> Counts:
        """How many jobs are in each state."""
        return await self.snapshot()

    async def is_paused(self) -> bool:
        return bool(await self._connection.call("EXISTS", self._keys("meta-paused")))

    async def state(self, job_id: str) -> State | None:
        """The state of a job; None when it is in none, which Bull calls stuck, or unknown."""
        answer = await self._scripts.run("state", self._places(), [job_id])
        return None if answer is None else STATES[answer]

    async def job(self, job_id: str) -> JobView | None:
        """One job with everything known of it; None when there is no such job."""
        if not names_a_job(job_id):
            return None
        own = [self._keys.job(job_id), self._keys.lock(job_id), self._keys.logs(job_id)]
        state, *rest = await self._scripts.run("show", [*self._places(), *own], [job_id])
        if not state and not rest[-1]:
            return None
        return _view(job_id, STATES.get(state), rest)

    async def jobs(self, state: State, start: int = 0, stop: int = -1, *, newest_first: bool = True) -> list[JobView]:
        """The jobs of a state from position `start` to `stop`, both included; -1 is the last."""
        found: list[JobView] = []
        first = start
        while stop < 0 or first <= stop:
            last = first + PAGE - 1 if stop < 0 else min(first + PAGE - 1, stop)
            args = (self._keys.base, first, last, int(newest_first))
            page = await self._scripts.run("page", [self._keys(state)], args)
            found.extend(_view(readable(job_id), state, rest) for job_id, *rest in page)
            if len(page) < last - first + 1:
                break
            first = last + 1
        return found

    async def logs(self, job_id: str, start: int = 0, stop: int = -1) -> list[str]:
        """The rows of a job's log, oldest first."""
        return [readable(row) for row in await self._connection.call("LRANGE", self._keys.logs(job_id), start, stop)]

    async def workers(self) -> Workers:
        """The processes that work on this queue, as Bull's `getWorkers()` counts them."""
        clients = await connected_clients(self._connection)
        if clients is None:
            return Workers((), "this Redis refuses CLIENT LIST: the workers cannot be counted")
        return Workers(tuple(client for client in clients if carries(client.name, self._keys.client_name)))

    async def strangers(self) -> Workers:
        """Those of the workers that are no daemon of ours: Bull's own, in node."""
        workers = await self.workers()
        return Workers(strangers(workers, self._keys.client_name), workers.note)

    def _places(self) -> list[str]:
        return [self._keys(name) for name in ENDS_FIRST]


def _instant(at_ms: int) -> int | None:
    return None if at_ms < 0 else at_ms


def _view(job_id: str, state: State | None, rest: Sequence[Any]) -> JobView:
    score, locked, rows, flat = rest
    found = Found(state, float(score) if score else None, bool(locked), rows)
    return view_job(job_id, dict(zip(flat[::2], flat[1::2], strict=True)), found)
