"""Finds and counts the jobs that match a filter. Operators use it; the worker does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, gcd
from typing import Any

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.filters import EVERYTHING, JobFilter
from flowstate_daemon.queue.inspector import JobView, read_job_row
from flowstate_daemon.queue.job import State
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts

EXAMINE_BATCH = 1000  # jobs that one script call looks at: 2 to 4 ms of server time
COUNT_BUDGET_S = 0.6  # a preview answers within a second
GOLDEN_RATIO = 0.618


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some matching jobs; `next_position` continues after them, None at the end."""

    jobs: tuple[JobView, ...]
    next_position: int | None


@dataclass(frozen=True, slots=True)
class MatchCount:
    """How many jobs match. When `is_exact` is False, time ran out after `examined` of `total` jobs, evenly spread over
    the state: `matching` is what they contained, `estimate` what all of them contain if they are alike.
    """

    matching: int
    examined: int
    total: int

    @property
    def is_exact(self) -> bool:
        return self.examined >= self.total

    @property
    def estimate(self) -> int:
        return self.matching if self.is_exact else round(self.matching * self.total / max(1, self.examined))


class JobSearch:
    """Searches one queue. Jobs move while it reads, so a page can repeat a job of the page before."""

    def __init__(self, connection: Connection, keys: Keys, clock: Clock) -> None:
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._scripts = Scripts(connection)

    async def page(
        self,
        state: State,
        job_filter: JobFilter = EVERYTHING,
        *,
        position: int = 0,
        count: int,
        newest_first: bool = True,
    ) -> JobPage:
        """Up to `count` matching jobs from a position on. After COUNT_BUDGET_S it returns what it has found so far."""
        found: list[JobView] = []
        deadline = self._clock.monotonic() + COUNT_BUDGET_S
        while True:
            examined, _, rows = await self._search(state, job_filter, position, newest_first, count - len(found))
            found.extend(read_job_row(state, row) for row in rows)
            position += examined
            if len(found) < count and examined < EXAMINE_BATCH:
                return JobPage(tuple(found), None)
            if len(found) >= count or self._clock.monotonic() > deadline:
                return JobPage(tuple(found), position)

    async def count(self, state: State, job_filter: JobFilter = EVERYTHING) -> MatchCount:
        """How many jobs match: exact, or after COUNT_BUDGET_S from the part examined until then."""
        total = await self._total(state)
        if job_filter.matches_all:
            return MatchCount(total, total, total)
        deadline = self._clock.monotonic() + COUNT_BUDGET_S
        matching = examined = 0
        for number in spread(ceil(total / EXAMINE_BATCH)):
            seen, matched, _ = await self._search(state, job_filter, number * EXAMINE_BATCH, True, 0)
            examined, matching = examined + seen, matching + matched
            if self._clock.monotonic() > deadline:
                return MatchCount(matching, examined, max(total, examined))
        return MatchCount(matching, examined, examined)

    async def _total(self, state: State) -> int:
        command = "LLEN" if state in ("wait", "active", "paused") else "ZCARD"
        return int(await self._connection.execute(command, self._keys(state)))

    async def _search(
        self, state: State, job_filter: JobFilter, first: int, newest_first: bool, wanted: int
    ) -> tuple[int, int, Sequence[Sequence[Any]]]:
        args = (self._keys.base, first, EXAMINE_BATCH, int(newest_first), job_filter.encode(), wanted)
        examined, matching, rows = await self._scripts.run("search_jobs", [self._keys(state)], args)
        return examined, matching, rows


def spread(count: int) -> list[int]:
    """The numbers below `count` in an order whose every beginning is spread evenly over them. Pure."""
    step = max(1, round(count * GOLDEN_RATIO))
    while gcd(step, count) != 1:
        step += 1
    return [number * step % count for number in range(count)]
