"""Failed jobs grouped by the reason of their failure."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.queue.filters import WILDCARD
from flowstate_daemon.queue.inspector import decode_text
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts

EXAMINE_BATCH = 500
BUDGET_S = 0.1  # the first byte of a page is sent within 200 ms
MAX_GROUPS = 100
SAMPLES = 3
# What differs between two failures of the same cause: numbers, ids, and what is quoted.
VARIABLE_PART = re.compile(r"[^\s<>'\"]+@[^\s<>'\"]+|[0-9a-f]{8}-[0-9a-f-]{27}|'[^']{1,200}'|\"[^\"]{1,200}\"|\d+")


@dataclass(slots=True)
class FailureGroup:
    """Jobs that failed for one reason; times are Unix ms.

    `reason` is that of the newest job. `pattern` is what all reasons have in common, for the filter of an action.
    """

    reason: str
    pattern: str
    count: int = 0
    newest_at: int = 0
    oldest_at: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    job_ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FailureGroups:
    """The groups, the largest first. Of `total` jobs, `examined` ones from the position `first` on are in them.

    When time ran out before the oldest job, `next_position` continues with older ones.
    """

    groups: tuple[FailureGroup, ...]
    examined: int
    total: int
    first: int = 0
    next_position: int | None = None


class Failures:
    """Reads the failed jobs of one queue."""

    def __init__(self, connection: Connection, keys: Keys, clock: Clock) -> None:
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self._scripts = Scripts(connection)

    async def groups(self, first: int = 0, *, budget_s: float = BUDGET_S) -> FailureGroups:
        """Group failed jobs, the newest first, from a position on: as many as can be read within `budget_s`."""
        total = int(await self._connection.execute("ZCARD", self._keys("failed")))
        found: dict[str, FailureGroup] = {}
        deadline, examined = self._clock.monotonic() + budget_s, 0
        following: int | None = None
        while True:
            args = (self._keys.base, first + examined, EXAMINE_BATCH)
            rows = await self._scripts.run("failure_reasons", [self._keys("failed")], args)
            for job_id, name, reason, at in rows:
                add_failure(found, decode_text(job_id), decode_text(name), decode_text(reason), round(float(at)))
            examined += len(rows)
            if len(rows) < EXAMINE_BATCH:
                break
            if self._clock.monotonic() > deadline:
                following = first + examined if first + examined < total else None
                break
        largest = sorted(found.values(), key=lambda group: (-group.count, group.reason))
        return FailureGroups(tuple(largest[:MAX_GROUPS]), examined, max(total, first + examined), first, following)


def add_failure(groups: dict[str, FailureGroup], job_id: str, kind: str, reason: str, at: int) -> None:
    """Count one failure; call it for the newest first."""
    safe = redact_text(reason) or "no reason was stored"
    pattern = WILDCARD.join(VARIABLE_PART.split(reason))
    group = groups.setdefault(pattern, FailureGroup(safe, pattern, newest_at=at, oldest_at=at))
    group.count += 1
    group.newest_at, group.oldest_at = max(group.newest_at, at), min(group.oldest_at, at)
    group.kinds[kind] += 1
    if len(group.job_ids) < SAMPLES:
        group.job_ids.append(job_id)
