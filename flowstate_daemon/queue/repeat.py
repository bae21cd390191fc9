"""Repeatable jobs: a worker that claims one puts the next one into `delayed`, or the cron silently ends.

Key, id and instant are computed as npm bull 4.16 does, so that node and this daemon agree on the next job and
the second of them finds it there. `Repeats.follow` is called once for each claimed job that carries `repeat`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from hashlib import md5
from typing import Any, TypeGuard

import msgspec
import structlog

from flowstate_daemon.base import cron as wall
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.cron import LATEST_MS
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.queue.job import Job
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts


@contextmanager
def _option(name: str) -> Iterator[None]:
    """Say of which repeat option something is wrong."""
    try:
        yield
    except ValueError as error:
        raise InvalidDataError(f"the repeat option {name} {error}") from error


def parse_cron(text: Any) -> str:
    """A cron expression in croniter's words, always six fields with the seconds first. Raises Malformed."""
    if not isinstance(text, str):
        raise InvalidDataError("the repeat option cron is not a text")
    with _option("cron"):
        return wall.parse_cron(text)


def parse_zone(name: Any, local: tzinfo) -> tzinfo:
    """An IANA zone, `local` where none is named. Raises Malformed."""
    if name in (None, ""):
        return local
    with _option("tz"):
        return wall.parse_zone(str(name))


def next_occurrence(cron: str, zone: tzinfo, after_ms: int) -> int:
    """The first instant after `after_ms` when a clock in `zone` shows what `cron` says. Raises Malformed."""
    with _option("cron"):
        return wall.next_occurrence(cron, zone, after_ms)


def parse_instant(value: Any, option: str, local: tzinfo) -> int:
    """A date as JSON carries it, in Unix ms: a number or ISO text; a mere day is UTC's. Raises Malformed."""
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            if found.tzinfo is None:
                found = found.replace(tzinfo=local if len(value) > len("2026-01-01") else UTC)
            return round(found.timestamp() * 1000)
        if is_valid_instant(value):
            return math.floor(value)
    except (ValueError, OverflowError) as error:
        raise InvalidDataError(f"the repeat option {option} is not a date") from error
    raise InvalidDataError(f"the repeat option {option} is not a date")


def is_valid_instant(at_ms: Any) -> TypeGuard[float]:
    """Whether this is a number that can be an instant in Unix ms."""
    return isinstance(at_ms, int | float) and not isinstance(at_ms, bool) and abs(at_ms) <= LATEST_MS


log = structlog.get_logger()

ABSENT_VALUES = (None, "", False, 0)  # what JavaScript takes for absent


@dataclass(frozen=True, slots=True)
class RepeatOptions:
    """One repeatable definition: a cron expression or a number of ms, and bounds. Instants are Unix ms."""

    key: str
    id: str
    count: int
    limit: float
    cron: str | None
    every_ms: int | None
    zone: tzinfo
    start_ms: int | None
    end_ms: int | None

    def next_after(self, base_ms: int) -> int | None:
        """The first occurrence after `base_ms`, or None when there is none. Raises Malformed."""
        if self.every_ms is not None:  # at multiples of it, whatever `startDate` says
            return (base_ms // self.every_ms + 1) * self.every_ms
        assert self.cron is not None
        at_ms = next_occurrence(self.cron, self.zone, max(base_ms, self.start_ms or 0))
        # Bull lets `endDate` cut off cron occurrences one by one, but `every` only by the clock.
        return None if self.end_ms is not None and at_ms > self.end_ms else at_ms


@dataclass(frozen=True, slots=True)
class NextJob:
    """The job that follows a repeatable one, ready to be written."""

    id: str
    key: str
    at_ms: int
    options: bytes


def repeat_key(name: str, repeat: Mapping[str, Any], custom_id: str, local: tzinfo = UTC) -> str:
    """The member of `P repeat` that stands for a definition. Raises Malformed."""
    ends = repeat.get("endDate")
    end = "" if ends in ABSENT_VALUES else str(parse_instant(ends, "endDate", local))
    cron, zone = repeat.get("cron"), repeat.get("tz") or ""
    return f"{name}:{custom_id}:{end}:{f'{zone}:{cron}' if cron else _every(repeat)}"


def repeat_job_id(name: str, custom_id: str, key: str, at_ms: int) -> str:
    """The id of the job of one occurrence."""
    return f"repeat:{_md5(f'{name}{custom_id}:{_md5(key)}')}:{at_ms}"


def parse_repeat_options(job: Job, local: tzinfo = UTC) -> RepeatOptions:
    """The definition in a job's options; `local` is the zone where no `tz` is given. Raises Malformed."""
    repeat = job.options.repeat or {}
    if bool(repeat.get("cron")) == bool(repeat.get("every")):
        raise InvalidDataError("the repeat options need either cron or every")
    custom_id = _custom_id(job, repeat)
    # The producer's own key wins: it was made in the producer's zone, which matters for dates without one.
    key = repeat.get("key") or repeat_key(job.name, repeat, custom_id, local)
    limit, count = repeat.get("limit"), repeat.get("count") or 0
    start, end = repeat.get("startDate"), repeat.get("endDate")
    if not isinstance(key, str) or not isinstance(limit, int | float | None) or not isinstance(count, int):
        raise InvalidDataError("the repeat options key, limit and count need to be a text and two numbers")
    return RepeatOptions(
        key=key,
        id=custom_id,
        count=count + 1,
        limit=math.inf if limit is None else limit,
        cron=parse_cron(repeat["cron"]) if repeat.get("cron") else None,
        every_ms=_every(repeat) if repeat.get("every") else None,
        zone=UTC if repeat.get("utc") else parse_zone(repeat.get("tz"), local),
        start_ms=None if start in ABSENT_VALUES else parse_instant(start, "startDate", local),
        end_ms=None if end in ABSENT_VALUES else parse_instant(end, "endDate", local),
    )


def next_job(job: Job, now_ms: int, local: tzinfo = UTC) -> NextJob | None:
    """The successor of a repeatable job claimed at `now_ms`; None when it was the last. Raises Malformed."""
    repetition = parse_repeat_options(job, local)
    raw = job.options.raw
    if repetition.count > repetition.limit or (repetition.end_ms is not None and now_ms > repetition.end_ms):
        return None
    previous: Any = raw.get("prevMillis")
    at_ms = repetition.next_after(max(now_ms, int(previous)) if is_valid_instant(previous) else now_ms)
    if at_ms is None:
        return None
    job_id = repeat_job_id(job.name, repetition.id, repetition.key, at_ms)
    repeat = {**(job.options.repeat or {}), "count": repetition.count, "key": repetition.key}
    changed = {"jobId": job_id, "delay": max(at_ms - now_ms, 0), "timestamp": now_ms, "prevMillis": at_ms}
    return NextJob(job_id, repetition.key, at_ms, msgspec.json.encode({**raw, **changed, "repeat": repeat}))


def _custom_id(job: Job, repeat: Mapping[str, Any]) -> str:
    """`repeat.jobId`, or the job's own id option when the job is the producer's first."""
    first = not job.options.raw.get("prevMillis") and job.options.raw.get("jobId")
    found = first or repeat.get("jobId")
    return "" if found in ABSENT_VALUES else str(found)


def _every(repeat: Mapping[str, Any]) -> int:
    every: Any = repeat.get("every")
    if not (is_valid_instant(every) and every >= 1 and every == int(every)):
        raise InvalidDataError("the repeat option every is not a whole number of milliseconds")
    return int(every)


def _md5(text: str) -> str:
    return md5(text.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()


class RepeatableJobs:
    """Writes successors. `local` is the zone of definitions without `tz`; in Bull, the node process's own."""

    def __init__(self, connection: Connection, keys: Keys, clock: Clock, *, token: str, local: tzinfo = UTC) -> None:
        self._keys = keys
        self._clock = clock
        self._token = token
        self._local = local
        self._scripts = Scripts(connection)

    async def schedule_next(self, job: Job) -> None:
        """Add the successor of a repeatable job, unless there is one. Never fails the job; raises Outage."""
        if job.options.repeat is None:
            return
        now_ms = self._clock.now_ms()
        try:
            successor = next_job(job, now_ms, self._local)
        except InvalidDataError as wrong:
            log.warning(
                "repeatable_job_stopped",
                job_id=job.id,
                kind=job.name,
                reason=wrong.reason,
                remedy="remove the repeatable job and add it again with a correct definition",
            )
            return
        if successor is not None:
            await self._add(job, successor, now_ms)

    async def _add(self, job: Job, successor: NextJob, now_ms: int) -> None:
        names = ("repeat", "id", "delayed", successor.id, "wait", "paused", "meta-paused", "priority", job.id)
        await self._scripts.run(
            "schedule_next_repeat",
            [self._keys(name) for name in names],
            [
                successor.key,
                successor.id,
                successor.at_ms,
                now_ms,
                job.name,
                job.data or b"{}",
                successor.options,
                job.priority,
                "lifo" if job.options.lifo else "back",
                self._keys(f"duplicated@{self._token}"),
                self._keys(f"waiting@{self._token}"),
            ],
        )
