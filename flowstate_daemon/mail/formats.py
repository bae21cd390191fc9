"""How each language writes numbers, days and lengths of time. Pure; the rules are the Unicode consortium's, by Babel.

Templates and words use the functions by name. Answers are remembered: a thousand mails of one morning speak of the
same day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from functools import lru_cache

from babel import Locale
from babel.dates import format_date, format_interval, get_day_names
from babel.lists import format_list
from babel.numbers import format_decimal, format_percent
from babel.units import format_unit

REMEMBERED = 1_024  # answers of each function
HOUR = 60
BEST = 5  # of ratings


class Formats:
    """One language's way to write things."""

    def __init__(self, locale: str) -> None:
        self.locale = locale
        self._plural = Locale.parse(locale).plural_form
        self._weekdays = get_day_names("wide", "stand-alone", locale)

    def is_one(self, number: int) -> bool:
        """Whether so many things are named in the singular: in French, none is."""
        return str(self._plural(number)) == "one"

    def number(self, number: float) -> str:
        return format_decimal(number, locale=self.locale)

    def percent(self, number: int) -> str:
        return format_percent(number / 100, locale=self.locale)

    def rating(self, number: float) -> str:
        return f"{format_decimal(number, format='0.0', locale=self.locale)}\u00a0/\u00a0{BEST}"

    def weekday(self, number: int) -> str:
        """The name of an ISO weekday: 1 is Monday."""
        return str(self._weekdays[number - 1])

    def day(self, day: date) -> str:
        """A day with its weekday, as it stands on a line of its own."""
        text = format_date(day, "full", locale=self.locale)
        return text[:1].upper() + text[1:]

    def days(self, first: date, last: date | None) -> str:
        """From one day to another; the first alone where that is no span of time."""
        if last is None or last <= first:
            return format_date(first, "long", locale=self.locale)
        return format_interval(first, last, "yMMMMd", locale=self.locale)

    def length(self, minutes: int) -> str:
        """A length of time in hours and minutes."""
        hours, rest = divmod(minutes, HOUR)
        parts = [("hour", hours)] if hours else []
        parts += [("minute", rest)] if rest or not hours else []
        words = [format_unit(many, f"duration-{unit}", "short", locale=self.locale) for unit, many in parts]
        return format_list(words, style="unit-narrow", locale=self.locale)


def functions_of(formats: Formats) -> Mapping[str, Callable[..., str]]:
    """What templates may call, by name; each remembers its latest answers."""
    names = ("number", "percent", "rating", "weekday", "day", "days", "length")
    return {name: lru_cache(REMEMBERED)(getattr(formats, name)) for name in names}
