"""Reads what FlowState's backend writes as English text: lists, ratings and dates, so that emails need not repeat it.

Text of another form is kept as it is: an older backend, or another producer, may have written it.
"""

from __future__ import annotations

import re
from datetime import date, time, timedelta
from typing import Annotated

import msgspec

from flowstate_daemon.base.text import one_line, several_lines
from flowstate_daemon.mail.field_types import TITLE_PLACEHOLDER, Cleaner, parse_date

BULLETS = "-*•✅"
BULLET = re.compile(r"^(?:[-*•](?:\s+|$)|✅\s*)")
OVERDUE_LINE = re.compile(r"(.*)- (\d{1,6}) day(?:s|\(s\))? overdue", re.DOTALL)
FOCUS_LINE = re.compile(r"(.*): (\d{1,9}) min", re.DOTALL)
SCORE = re.compile(r"([0-5](?:\.\d{1,3})?)\s?/\s?5")
MAX_RATING = 5
ISO_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})(?:T.*)?", re.ASCII)
SLASH_DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})", re.ASCII)
MONTH_FIRST, DAY_FIRST = "M/D/YYYY", "D/M/YYYY"
TIME = re.compile(r"(?:[01]\d|2[0-3]):[0-5]\d", re.ASCII)
DAY = timedelta(days=1)
EPOCH = date(1970, 1, 1)


class ListedTask(msgspec.Struct, frozen=True):
    """One line of a list. `days` and `minutes` are None if the line does not contain them."""

    title: str
    days: int | None = None
    minutes: int | None = None
    url: str = ""


def parse_titles(text: str) -> tuple[ListedTask, ...]:
    """A title in each line, without the producer's bullets."""
    return tuple([ListedTask(_clean_title(row)) for row in _rows(text)])


def parse_overdue(text: str) -> tuple[ListedTask, ...]:
    """Lines like `Pay the rent - 3 days overdue`."""
    return tuple([ListedTask(title, number) for title, number in _numbered(text, OVERDUE_LINE)])


def parse_minutes(text: str) -> tuple[ListedTask, ...]:
    """Lines like `Write the report: 120 min`."""
    return tuple([ListedTask(title, None, number) for title, number in _numbered(text, FOCUS_LINE)])


def _rows(text: str) -> list[str]:
    """The lines that are not blank."""
    return [row for row in map(str.strip, several_lines(text).split("\n")) if row]


def _clean_title(row: str) -> str:
    """A title without the producer's bullet."""
    title = BULLET.sub("", row) if row[:1] in BULLETS else row
    return title or TITLE_PLACEHOLDER


def _numbered(text: str, form: re.Pattern[str]) -> list[tuple[str, int | None]]:
    """Titles and numbers. A line without a number is the start of a title that contains a line break."""
    found: list[tuple[str, int | None]] = []
    begun: list[str] = []
    for row in _rows(text):
        match = form.fullmatch(row)
        if match is None:
            begun.append(row)
            continue
        title, number = match[1].rstrip(), int(match[2])
        if begun:
            title = one_line(" ".join([*begun, title]))
            begun = []
        found.append((_clean_title(title), number))
    return found + [(_clean_title(row), None) for row in begun]


def parse_score(text: str) -> float | None:
    """A rating like `4.2/5`; None for any other text."""
    match = SCORE.fullmatch(text.strip())
    return min(float(match[1]), MAX_RATING) if match is not None else None


def parse_time(text: str) -> time | None:
    """A local time of day as HH:MM; None for any other text, because no email is refused for it."""
    return time.fromisoformat(text) if TIME.fullmatch(text) else None


def parse_backend_date(text: str, order: str) -> date | None:
    """The date that the server's `toLocaleDateString()` wrote; `order` says what a date with slashes means.

    A date that is impossible in this order is read in the other one.
    """
    if iso := ISO_DATE.fullmatch(text):
        return _parse_iso(iso[1])
    match = SLASH_DATE.fullmatch(text)
    if match is None or order not in {MONTH_FIRST, DAY_FIRST}:
        return None
    first, second, year = int(match[1]), int(match[2]), int(match[3])
    found = [_date(year, first, second), _date(year, second, first)]
    return next((day for day in (found if order == MONTH_FIRST else reversed(found)) if day is not None), None)


def find_streak_start(text: str, days: int, job_day: int | None, order: str) -> date | None:
    """When a streak began: the backend writes the day of the job minus the days, in the form of its locale.

    `job_day` counts from 1970. The expected day decides between two readings of the date, and replaces a date that
    cannot be read.
    """
    try:
        expected = None if job_day is None else EPOCH + timedelta(days=job_day - days)
    except OverflowError:
        expected = None
    readings = [parse_backend_date(text, way) for way in (order, MONTH_FIRST, DAY_FIRST)]
    if expected is not None:
        # The server may be in another time zone than UTC.
        near = [day for day in readings if day is not None and abs(day - expected) <= DAY]
        return next(iter(near), readings[0] or expected)
    return readings[0]


def _parse_iso(text: str) -> date | None:
    try:
        return parse_date(text)
    except ValueError:
        return None


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


TitleLines = Annotated[str, Cleaner(parse_titles)]
OverdueLines = Annotated[str, Cleaner(parse_overdue)]
MinutesLines = Annotated[str, Cleaner(parse_minutes)]
Score = Annotated[str, Cleaner(parse_score)]
TimeOfDay = Annotated[str, Cleaner(parse_time)]
