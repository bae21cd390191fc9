"""Finds and counts the jobs that match a filter. Operators use it; the worker does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, gcd
from typing import Any

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.queue.filters import EVERYTHING, EXAMINE_BATCH, JobFilter
from flowstate_daemon.queue.inspector import JobView, read_job_row
from flowstate_daemon.queue.job import STATES_SCORED_BY_END, State
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts

COUNT_BUDGET_S = 0.6  # a preview answers within a second
PAGE_BUDGET_S = 0.1  # the first byte of a page is sent within 200 ms
GOLDEN_RATIO = 0.618


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some matching jobs; `next_position` continues after them, None at the end.

    `examined` jobs were looked at, `remaining` were not. When `is_partial`, time ran out before the page was full.
    """

    jobs: tuple[JobView, ...]
    next_position: int | None
    examined: int = 0
    remaining: int = 0
    is_partial: bool = False


@dataclass(frozen=True, slots=True)
class MatchCount:
    """How many jobs match. When `is_exact` is False, time ran out after `examined` of `total` jobs, evenly spread over
    the state: `matching` is what they contained, `estimate` what all of them contain if they are alike. Finished jobs
    whose age cannot match are not in `total`.
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
        budget_s: float = PAGE_BUDGET_S,
    ) -> JobPage:
        """Up to `count` matching jobs from a position on. After `budget_s` it returns what it has found so far."""
        found: list[JobView] = []
        deadline = self._clock.monotonic() + budget_s
        first, end = await self._range(state, job_filter, newest_first=newest_first)
        position = start = max(position, first)
        while True:
            most = min(EXAMINE_BATCH, end - position)
            if most <= 0:
                return JobPage(tuple(found), None, position - start)
            examined, _, rows = await self._search(
                state, job_filter, position, most, newest_first=newest_first, wanted=count - len(found)
            )
            found.extend(read_job_row(state, row) for row in rows)
            position += examined
            is_full = len(found) >= count
            if not is_full and examined < most:  # the others have moved
                return JobPage(tuple(found), None, position - start)
            if is_full or self._clock.monotonic() > deadline:
                left = end - position
                following = position if is_full or left else None
                return JobPage(tuple(found), following, position - start, left, is_partial=not is_full and left > 0)

    async def count(
        self, state: State, job_filter: JobFilter = EVERYTHING, *, budget_s: float = COUNT_BUDGET_S
    ) -> MatchCount:
        """How many jobs match: exact, or after `budget_s` from the part examined until then."""
        first, end = await self._range(state, job_filter, newest_first=True)
        total = end - first
        if job_filter.matches_all:
            return MatchCount(total, total, total)
        deadline = self._clock.monotonic() + budget_s
        matching = examined = 0
        for number in spread(ceil(total / EXAMINE_BATCH)):
            begin = first + number * EXAMINE_BATCH
            most = min(EXAMINE_BATCH, end - begin)
            seen, matched, _ = await self._search(state, job_filter, begin, most, newest_first=True, wanted=0)
            examined, matching = examined + seen, matching + matched
            if self._clock.monotonic() > deadline:
                return MatchCount(matching, examined, max(total, examined))
        return MatchCount(matching, examined, examined)

    async def _range(self, state: State, job_filter: JobFilter, *, newest_first: bool) -> tuple[int, int]:
        """The first position that can match, and the one after the last: the ages of finished jobs are their scores."""
        key = self._keys(state)
        if state in ("wait", "active", "paused"):
            return 0, int(await self._connection.execute("LLEN", key))
        total = int(await self._connection.execute("ZCARD", key))
        too_new = too_old = 0
        if state in STATES_SCORED_BY_END and job_filter.before is not None:
            too_new = int(await self._connection.execute("ZCOUNT", key, f"({job_filter.before}", "+inf"))
        if state in STATES_SCORED_BY_END and job_filter.after is not None:
            too_old = int(await self._connection.execute("ZCOUNT", key, "-inf", f"({job_filter.after}"))
        skipped, cut = (too_new, too_old) if newest_first else (too_old, too_new)
        return skipped, max(skipped, total - cut)

    async def _search(
        self, state: State, job_filter: JobFilter, first: int, most: int, *, newest_first: bool, wanted: int
    ) -> tuple[int, int, Sequence[Sequence[Any]]]:
        args = (self._keys.base, first, most, int(newest_first), job_filter.encode(), wanted)
        examined, matching, rows = await self._scripts.run("search_jobs", [self._keys(state)], args)
        return examined, matching, rows


def spread(count: int) -> list[int]:
    """The numbers below `count` in an order whose every beginning is spread evenly over them. Pure."""
    step = max(1, round(count * GOLDEN_RATIO))
    while gcd(step, count) != 1:
        step += 1
    return [number * step % count for number in range(count)]
