"""When a repeatable job occurs next: cron, zones and dates as npm bull's cron-parser reads them. Pure.

croniter does the arithmetic on wall time; what daylight saving makes of it is decided here: a wall time that
comes twice counts once, a wall time that does not exist counts one hour later.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, TypeGuard
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter

from flowstate_daemon.base.errors import Malformed

LEFT_OUT = ("0", "*", "*", "*", "*", "*")  # what a field means that is missing at the start of an expression
SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@hourly": "0 * * * *",
}
NAMES = re.compile(r"jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat", re.IGNORECASE)
ALLOWED = re.compile(r"[\d*/,\-?#L ]+")  # croniter's H, R and W mean nothing to cron-parser
ONE_ONLY = re.compile(r"(?<!\d)(\d+)-\1(?!\d)(?:/\d+)?")  # croniter takes 1-1 for the whole cycle
LAST_DAY = re.compile(r"(?<![\dL])(\d)L")
LONGEST_CRON = 1_000  # all minutes of an hour, written out, take 169; croniter takes seconds for 100 kB
YEARS_AHEAD = 8  # 29 February can be eight years away
HOUR_FIELD = 1  # in croniter's own order, whatever the order of the text
LATEST_MS = 253_402_300_799_000  # the year 9999


def read_cron(text: Any) -> str:
    """A cron expression in croniter's words, always six fields with the seconds first. Raises Malformed."""
    if not isinstance(text, str):
        raise Malformed("the repeat option cron is not a text")
    if len(text) > LONGEST_CRON:
        raise Malformed(f"the repeat option cron is longer than {LONGEST_CRON} characters")
    fields = SHORTHANDS.get(text, text).split()
    cron = " ".join((*LEFT_OUT[: 6 - len(fields)], *fields))
    if not fields or len(fields) > len(LEFT_OUT) or not ALLOWED.fullmatch(NAMES.sub("", cron) + " "):
        raise Malformed("the repeat option cron is not a cron expression")
    cron = LAST_DAY.sub(r"L\1", ONE_ONLY.sub(r"\1", cron))
    try:
        croniter.expand(cron, second_at_beginning=True)
    except CroniterError as error:
        raise Malformed("the repeat option cron is not a cron expression") from error
    return cron


def read_zone(name: Any, local: tzinfo) -> tzinfo:
    """An IANA zone, `local` where none is named. Raises Malformed."""
    if name in (None, ""):
        return local
    try:
        return UTC if str(name).upper() == "UTC" else ZoneInfo(str(name))
    except (KeyError, ValueError, OSError) as error:
        raise Malformed("the repeat option tz is not the name of a time zone") from error


def read_instant(value: Any, option: str, local: tzinfo) -> int:
    """A date as JSON carries it, in Unix ms: a number or ISO text; a mere day is UTC's. Raises Malformed."""
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            if found.tzinfo is None:
                found = found.replace(tzinfo=local if len(value) > len("2026-01-01") else UTC)
            return round(found.timestamp() * 1000)
        if usable(value):
            return math.floor(value)
    except (ValueError, OverflowError) as error:
        raise Malformed(f"the repeat option {option} is not a date") from error
    raise Malformed(f"the repeat option {option} is not a date")


def usable(at_ms: Any) -> TypeGuard[float]:
    """Whether this is a number that can be an instant in Unix ms."""
    return isinstance(at_ms, int | float) and not isinstance(at_ms, bool) and abs(at_ms) <= LATEST_MS


def cron_after(cron: str, zone: tzinfo, after_ms: int) -> int:
    """The first instant after `after_ms` when a clock in `zone` shows what `cron` says. Raises Malformed."""
    if after_ms > LATEST_MS - YEARS_AHEAD * 366 * 86_400_000:
        raise Malformed("the repeat option cron has no further occurrence")
    after = datetime.fromtimestamp(after_ms / 1000, tz=zone)
    try:
        if croniter.expand(cron, second_at_beginning=True)[0][HOUR_FIELD] == ["*"]:
            return _ms(_ticks(cron, after).get_next(datetime))  # every hour that passes, also the repeated one
        return _wall_after(cron, after, after_ms)
    except CroniterError as error:
        raise Malformed("the repeat option cron has no further occurrence") from error


def _wall_after(cron: str, after: datetime, after_ms: int) -> int:
    """As `cron_after` for fixed hours: each wall time once, at its first chance."""
    skipped = _offset(after) - _offset((after.astimezone(UTC) - timedelta(hours=1)).astimezone(after.tzinfo))
    # Right after a gap, the wall times inside the gap are still to come.
    ticks = _ticks(cron, after.replace(tzinfo=UTC) - max(skipped, timedelta(0)))
    while True:
        at_ms = _ms(ticks.get_next(datetime).replace(tzinfo=after.tzinfo, fold=0))
        if at_ms > after_ms:
            return at_ms


def _ticks(cron: str, start: datetime) -> croniter:
    return croniter(cron, start, second_at_beginning=True, max_years_between_matches=YEARS_AHEAD)


def _offset(instant: datetime) -> timedelta:
    return instant.utcoffset() or timedelta(0)


def _ms(instant: datetime) -> int:
    return int(instant.timestamp()) * 1000  # cron knows whole seconds only
