"""Next occurrence of a cron expression in a time zone, for schedules and repeatable jobs. Pure.

croniter computes wall times; daylight saving time is handled here: a wall time that occurs twice counts once, a wall
time that does not exist is shifted by the length of the gap.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter

DEFAULT_FIELDS = ("0", "*", "*", "*", "*", "*")  # for fields missing at the start of an expression
SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@hourly": "0 * * * *",
}
NAMES = re.compile(r"jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat", re.IGNORECASE)
ALLOWED = re.compile(r"[\d*/,\-?#L ]+")  # croniter's H, R and W mean nothing to cron-parser
SELF_RANGE = re.compile(r"(?<!\d)(\d+)-\1(?!\d)(?:/\d+)?")  # croniter takes 1-1 for the whole cycle
LAST_DAY = re.compile(r"(?<![\dL])(\d)L")
MAX_EXPRESSION_LENGTH = 1_000  # all minutes of an hour, written out, take 169; croniter takes seconds for 100 kB
MAX_YEARS_AHEAD = 8  # 29 February can be eight years away
HOUR_FIELD = 1  # in croniter's own order, whatever the order of the text
CACHE_SIZE = 1_000  # expressions come from configuration and from whoever may add jobs
LATEST_MS = 253_402_300_799_000  # the year 9999
INVALID_CRON_MESSAGE = "is not a cron expression"
NO_OCCURRENCE_MESSAGE = "has no further occurrence"


def parse_cron(text: str) -> str:
    """A cron expression in croniter's syntax, always six fields, seconds first. Raises ValueError."""
    if len(text) > MAX_EXPRESSION_LENGTH:
        raise ValueError(f"is longer than {MAX_EXPRESSION_LENGTH} characters")
    fields = SHORTHANDS.get(text, text).split()
    cron = " ".join((*DEFAULT_FIELDS[: 6 - len(fields)], *fields))
    if not fields or len(fields) > len(DEFAULT_FIELDS) or not ALLOWED.fullmatch(NAMES.sub("", cron) + " "):
        raise ValueError(INVALID_CRON_MESSAGE)
    cron = LAST_DAY.sub(r"L\1", SELF_RANGE.sub(r"\1", cron))
    try:
        croniter.expand(cron, second_at_beginning=True)
    except CroniterError as error:
        raise ValueError(INVALID_CRON_MESSAGE) from error
    return cron


def parse_zone(name: str) -> tzinfo:
    """An IANA zone by its name. Raises ValueError."""
    try:
        return UTC if name.upper() == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("is not the name of a time zone") from error


def next_occurrence(cron: str, zone: tzinfo, after_ms: int) -> int:
    """The first time after `after_ms` at which local time in `zone` matches `cron`. Raises ValueError."""
    if after_ms > LATEST_MS - MAX_YEARS_AHEAD * 366 * 86_400_000:
        raise ValueError(NO_OCCURRENCE_MESSAGE)
    after = datetime.fromtimestamp(after_ms / 1000, tz=zone)
    try:
        if _every_hour(cron):
            return _ms(_ticks(cron, after).get_next(datetime))  # every hour that passes, also the repeated one
        return _wall_after(cron, after, after_ms)
    except CroniterError as error:
        raise ValueError(NO_OCCURRENCE_MESSAGE) from error


def _wall_after(cron: str, after: datetime, after_ms: int) -> int:
    """As `next_occurrence` for fixed hours: each wall time once, at its first occurrence."""
    skipped = _offset(after) - _offset((after.astimezone(UTC) - timedelta(hours=1)).astimezone(after.tzinfo))
    # Right after a gap, the wall times inside the gap are still to come.
    wall = after.replace(tzinfo=None) - max(skipped, timedelta(0))
    while True:
        wall = _next_wall(cron, wall)
        at_ms = _ms(wall.replace(tzinfo=after.tzinfo, fold=0))
        if at_ms > after_ms:
            return at_ms


@lru_cache(maxsize=CACHE_SIZE)
def _next_wall(cron: str, wall: datetime) -> datetime:
    """The next wall time without a zone: the same in all zones, so it is cached (a computation takes 0.5 ms)."""
    following: datetime = _ticks(cron, wall.replace(tzinfo=UTC)).get_next(datetime)
    return following.replace(tzinfo=None)


@lru_cache(maxsize=CACHE_SIZE)
def _every_hour(cron: str) -> bool:
    return bool(croniter.expand(cron, second_at_beginning=True)[0][HOUR_FIELD] == ["*"])


def _ticks(cron: str, start: datetime) -> croniter:
    return croniter(cron, start, second_at_beginning=True, max_years_between_matches=MAX_YEARS_AHEAD)


def _offset(instant: datetime) -> timedelta:
    return instant.utcoffset() or timedelta(0)


def _ms(instant: datetime) -> int:
    return int(instant.timestamp()) * 1000  # cron knows whole seconds only
