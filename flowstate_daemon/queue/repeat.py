"""Repeatable jobs: the worker that claims one adds the next one to `delayed`; otherwise the repetition stops.

Key, id and time of the next job are computed as in npm bull 4.16, so that node and this daemon agree on them and the
second of the two finds the job in place.
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

from flowstate_daemon.base import cron as base_cron
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.cron import LATEST_MS
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.queue.job import Job
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts

log = structlog.get_logger()

ABSENT_VALUES = (None, "", False, 0)  # falsy values of JavaScript


@contextmanager
def _option(name: str) -> Iterator[None]:
    """Name the repeat option in errors."""
    try:
        yield
    except ValueError as error:
        raise InvalidDataError(f"the repeat option {name} {error}") from error


def parse_cron(text: Any) -> str:
    """A cron expression for croniter, always six fields with the seconds first. Raises InvalidDataError."""
    if not isinstance(text, str):
        raise InvalidDataError("the repeat option cron is not a string")
    with _option("cron"):
        return base_cron.parse_cron(text)


def parse_zone(name: Any, local: tzinfo) -> tzinfo:
    """The IANA time zone of that name, `local` without one. Raises InvalidDataError."""
    if name in (None, ""):
        return local
    with _option("tz"):
        return base_cron.parse_zone(str(name))


def next_occurrence(cron: str, zone: tzinfo, after_ms: int) -> int:
    """The first time after `after_ms` that matches `cron` in `zone`. Raises InvalidDataError."""
    with _option("cron"):
        return base_cron.next_occurrence(cron, zone, after_ms)


def parse_instant(value: Any, option: str, local: tzinfo) -> int:
    """A date from JSON in Unix ms: a number or ISO text; a date without time is UTC. Raises InvalidDataError."""
    try:
        if isinstance(value, str):
            parsed = datetime.fromisoformat(value)
            if parsed.tzinfo is None:
                parsed = parsed.replace(tzinfo=local if len(value) > len("2026-01-01") else UTC)
            return round(parsed.timestamp() * 1000)
        if is_valid_instant(value):
            return math.floor(value)
    except (ValueError, OverflowError) as error:
        raise InvalidDataError(f"the repeat option {option} is not a date") from error
    raise InvalidDataError(f"the repeat option {option} is not a date")


def is_valid_instant(at_ms: Any) -> TypeGuard[float]:
    """Whether this number is a valid time in Unix ms."""
    return isinstance(at_ms, int | float) and not isinstance(at_ms, bool) and abs(at_ms) <= LATEST_MS


@dataclass(frozen=True, slots=True)
class RepeatOptions:
    """One repeatable definition: a cron expression or an interval in ms, and limits. Times are Unix ms."""

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
        """The first occurrence after `base_ms`, or None when there is none. Raises InvalidDataError."""
        if self.every_ms is not None:  # as in Bull, at multiples of it; `startDate` is ignored
            return (base_ms // self.every_ms + 1) * self.every_ms
        assert self.cron is not None
        at_ms = next_occurrence(self.cron, self.zone, max(base_ms, self.start_ms or 0))
        # As in Bull, `endDate` limits each cron occurrence; for `every` it is compared with the current time only.
        return None if self.end_ms is not None and at_ms > self.end_ms else at_ms


@dataclass(frozen=True, slots=True)
class NextJob:
    """The next job of a repeatable definition."""

    id: str
    key: str
    at_ms: int
    options: bytes


def repeat_key(name: str, repeat: Mapping[str, Any], custom_id: str, local: tzinfo = UTC) -> str:
    """The member of the zset `repeat` for a definition. Raises InvalidDataError."""
    ends = repeat.get("endDate")
    end = "" if ends in ABSENT_VALUES else str(parse_instant(ends, "endDate", local))
    cron, zone = repeat.get("cron"), repeat.get("tz") or ""
    return f"{name}:{custom_id}:{end}:{f'{zone}:{cron}' if cron else _every(repeat)}"


def repeat_job_id(name: str, custom_id: str, key: str, at_ms: int) -> str:
    """The id of the job of one occurrence."""
    return f"repeat:{_md5(f'{name}{custom_id}:{_md5(key)}')}:{at_ms}"


def parse_repeat_options(job: Job, local: tzinfo = UTC) -> RepeatOptions:
    """The definition in a job's options; `local` is the zone without `tz`. Raises InvalidDataError."""
    repeat = job.options.repeat or {}
    if bool(repeat.get("cron")) == bool(repeat.get("every")):
        raise InvalidDataError("the repeat options need either cron or every")
    custom_id = _custom_id(job, repeat)
    # Prefer the producer's key: it was computed in the producer's zone, which matters for dates without zone.
    key = repeat.get("key") or repeat_key(job.name, repeat, custom_id, local)
    limit, count = repeat.get("limit"), repeat.get("count") or 0
    start, end = repeat.get("startDate"), repeat.get("endDate")
    if not isinstance(key, str) or not isinstance(limit, int | float | None) or not isinstance(count, int):
        raise InvalidDataError("the repeat options key, limit and count must be a string and two numbers")
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
    """The job after a repeatable job claimed at `now_ms`; None after the last one. Raises InvalidDataError."""
    options = parse_repeat_options(job, local)
    raw = job.options.raw
    if options.count > options.limit or (options.end_ms is not None and now_ms > options.end_ms):
        return None
    previous: Any = raw.get("prevMillis")
    at_ms = options.next_after(max(now_ms, int(previous)) if is_valid_instant(previous) else now_ms)
    if at_ms is None:
        return None
    job_id = repeat_job_id(job.name, options.id, options.key, at_ms)
    repeat = {**(job.options.repeat or {}), "count": options.count, "key": options.key}
    changed = {"jobId": job_id, "delay": max(at_ms - now_ms, 0), "timestamp": now_ms, "prevMillis": at_ms}
    return NextJob(job_id, options.key, at_ms, msgspec.json.encode({**raw, **changed, "repeat": repeat}))


def _custom_id(job: Job, repeat: Mapping[str, Any]) -> str:
    """`repeat.jobId`, or the option `jobId` of the first job, which the producer added."""
    job_id = not job.options.raw.get("prevMillis") and job.options.raw.get("jobId")
    custom_id = job_id or repeat.get("jobId")
    return "" if custom_id in ABSENT_VALUES else str(custom_id)


def _every(repeat: Mapping[str, Any]) -> int:
    every: Any = repeat.get("every")
    if not (is_valid_instant(every) and every >= 1 and every == int(every)):
        raise InvalidDataError("the repeat option every is not a positive integer of milliseconds")
    return int(every)


def _md5(text: str) -> str:
    return md5(text.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()


class RepeatableJobs:
    """Adds the next jobs. `local` is the zone of definitions without `tz`; in Bull, the zone of the node process."""

    def __init__(self, connection: Connection, keys: Keys, clock: Clock, *, token: str, local: tzinfo = UTC) -> None:
        self._keys = keys
        self._clock = clock
        self._token = token
        self._local = local
        self._scripts = Scripts(connection)

    async def schedule_next(self, job: Job) -> None:
        """Add the next job, unless it exists. An invalid definition is logged only. Raises StoreUnavailableError."""
        if job.options.repeat is None:
            return
        now_ms = self._clock.now_ms()
        try:
            upcoming = next_job(job, now_ms, self._local)
        except InvalidDataError as error:
            log.warning(
                "repeatable_job_stopped",
                job_id=job.id,
                kind=job.name,
                reason=error.reason,
                remedy="remove the repeatable job, and add it again with a valid definition",
            )
            return
        if upcoming is not None:
            await self._add(job, upcoming, now_ms)

    async def _add(self, job: Job, upcoming: NextJob, now_ms: int) -> None:
        names = ("repeat", "id", "delayed", upcoming.id, "wait", "paused", "meta-paused", "priority", job.id)
        await self._scripts.run(
            "schedule_next_repeat",
            [self._keys(name) for name in names],
            [
                upcoming.key,
                upcoming.id,
                upcoming.at_ms,
                now_ms,
                job.name,
                job.data or b"{}",
                upcoming.options,
                job.priority,
                "lifo" if job.options.lifo else "back",
                self._keys(f"duplicated@{self._token}"),
                self._keys(f"waiting@{self._token}"),
            ],
        )
