"""Ages, as people write them in a filter (`15min`, `2h`) and as they read them (`3 h`). Pure."""

from __future__ import annotations

import re

UNITS_MS = {"s": 1_000, "min": 60_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
UNITS = "|".join(UNITS_MS)
DIGITS = "[0-9]{1,5}"  # at most 99,999 weeks: longer ones lead to years that no date can express
AGE = re.compile(rf"({DIGITS})\s*({UNITS})", re.ASCII)
MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400


def age_ms(text: str) -> int:
    """An age that AGE matches, in ms."""
    match = AGE.fullmatch(text)
    assert match is not None, "pages and API have checked it"
    return int(match[1]) * UNITS_MS[match[2]]


def format_age(seconds: float) -> str:
    """A duration in the largest unit of which it has at least two.

    >>> format_age(7_300)
    '2 h'
    """
    whole = max(int(seconds), 0)
    for unit_s, unit in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "min")):
        if whole >= 2 * unit_s:
            return f"{whole // unit_s} {unit}"
    return f"{whole} s"
