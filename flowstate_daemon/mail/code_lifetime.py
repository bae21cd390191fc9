"""Parses the lifetime of a one-time code from the text in its email. Pure.

Producers write "10 minutes", "1 hour", "15 min", "1 h 30", "une demi-heure". Any other text means the default:
a user can request another code when one was dropped too early, while a late code is useful only to a thief.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MINUTE_S = 60
HOUR_S = 3_600
DAY_S = 86_400
DEFAULT_S = 10 * MINUTE_S
MAX_S = DAY_S  # also if the producer writes more
MAX_TEXT_LENGTH = 200

UNITS: Mapping[int, str] = {
    1: "s|secs?|seconds?|secondes?",
    MINUTE_S: "m|mn|mins?|minutes?",
    HOUR_S: "h|hrs?|hours?|heures?",
    DAY_S: "d|days?|j|jours?",
}
NUMBER_WORDS: Mapping[str, float] = {
    **dict.fromkeys(("half a", "half an", "demi", "une demi"), 0.5),
    **dict.fromkeys(("a", "an", "one", "un", "une"), 1),
    **dict.fromkeys(("two", "deux"), 2),
    **dict.fromkeys(("three", "trois"), 3),
    **dict.fromkeys(("four", "quatre"), 4),
    **dict.fromkeys(("five", "cinq"), 5),
    **dict.fromkeys(("ten", "dix"), 10),
    **dict.fromkeys(("twelve", "douze"), 12),
    **dict.fromkeys(("fifteen", "quinze"), 15),
    **dict.fromkeys(("twenty", "vingt"), 20),
    **dict.fromkeys(("thirty", "trente"), 30),
    **dict.fromkeys(("forty-five", "quarante-cinq"), 45),
    **dict.fromkeys(("sixty", "soixante"), 60),
}
_NUMBERS = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))
_UNITS = "|".join(f"(?P<x{seconds}>{names})" for seconds, names in UNITS.items())
# The `30` of "1 h 30" has no unit of its own: it may follow hours only, and nothing may follow it.
DURATION_PATTERN = re.compile(
    rf"(?:(?<![\d.,])(?P<digits>\d{{1,6}}(?:[.,]\d{{1,3}})?)|(?<!\w)(?<!\w-)(?P<word>{_NUMBERS})(?=[\s-]))"
    rf"[\s-]{{0,3}}(?:{_UNITS})(?![^\W\d_])"
    r"(?:\s{0,3}(?P<minutes>\d{1,2})(?!\s*[\w.,:]))?",
    re.ASCII,
)


def parse_lifetime(text: str | None) -> int:
    """The lifetime in seconds, between 1 second and one day."""
    plain = " ".join((text or "")[:MAX_TEXT_LENGTH].casefold().split())
    total = sum(_seconds(span) for span in DURATION_PATTERN.finditer(plain))
    return min(int(total), MAX_S) if total >= 1 else DEFAULT_S


def _seconds(span: re.Match[str]) -> float:
    digits, word, minutes = span["digits"], span["word"], span["minutes"]
    count = NUMBER_WORDS[word] if word else float(digits.replace(",", "."))
    unit = next(seconds for seconds in UNITS if span[f"x{seconds}"])
    rest = int(minutes) * MINUTE_S if minutes and unit == HOUR_S else 0
    return count * unit + rest
