"""Durations of options: a number of seconds, or numbers with units. Imports little, because `health` uses it."""

from __future__ import annotations

import math
import re

import click

UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")
WHOLE = re.compile(rf"(?:{PART.pattern})+")
MAX_MS = 100 * 366 * UNITS_MS["d"]
EXAMPLES = "expected a duration such as 90, 2s, 1h30m or 7d"


class Duration(click.ParamType[float]):
    """A duration in seconds, a float; a number without a unit counts `plain_unit`. It is finite and not negative."""

    name = "duration"

    def __init__(self, *, plain_unit: str = "s", least_s: float = 0.0, most_s: float = MAX_MS / 1000) -> None:
        self._plain_unit = plain_unit
        self._least_s = least_s
        self._most_s = most_s

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = parse_duration(str(value), self._plain_unit)
        if seconds is None:
            self.fail(f"{value!r} is not a duration; {EXAMPLES}", param, ctx)
        if not self._least_s <= seconds <= self._most_s:
            self.fail(f"{value!r} is out of range: {self._least_s:g} to {self._most_s:g} seconds", param, ctx)
        return seconds


def parse_duration(text: str, plain_unit: str = "s") -> float | None:
    """The seconds of a duration; None when the text is none. Pure.

    >>> parse_duration("1h30m")
    5400.0
    """
    text = text.strip().lower()
    try:
        milliseconds = float(text) * UNITS_MS[plain_unit]
    except ValueError:
        if not WHOLE.fullmatch(text):
            return None
        milliseconds = sum(float(number) * UNITS_MS[unit] for number, unit in PART.findall(text))
    return milliseconds / 1000 if math.isfinite(milliseconds) else None
