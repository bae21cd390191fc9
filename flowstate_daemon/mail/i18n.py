"""One language: its number and date formats, and its texts from `translations/<locale>.toml`.

`templates` inserts the texts into the templates at start (`[[ intro ]]`), so a text may itself contain fields, and a
missing text stops the start instead of breaking an email.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from importlib.resources import files

from babel import Locale
from babel.dates import format_date, format_interval, get_day_names
from babel.lists import format_list
from babel.numbers import format_decimal, format_percent
from babel.units import format_unit

CACHE_SIZE = 1_024  # results of each function
HOUR = 60  # minutes
MAX_RATING = 5


class Formats:
    """Formats numbers, dates and durations in one language."""

    def __init__(self, locale: str) -> None:
        self.locale = locale
        self._plural = Locale.parse(locale).plural_form
        self._weekdays = get_day_names("wide", "stand-alone", locale)

    def is_singular(self, number: int) -> bool:
        """Whether this count takes the singular (CLDR plural rules); in French, 0 does."""
        return str(self._plural(number)) == "one"

    def number(self, number: float) -> str:
        return format_decimal(number, locale=self.locale)

    def percent(self, number: int) -> str:
        return format_percent(number / 100, locale=self.locale)

    def rating(self, number: float) -> str:
        return f"{format_decimal(number, format='0.0', locale=self.locale)}\u00a0/\u00a0{MAX_RATING}"

    def weekday(self, number: int) -> str:
        """The name of an ISO weekday: 1 is Monday."""
        return str(self._weekdays[number - 1])

    def day(self, day: date) -> str:
        """A date with its weekday, capitalised for a line of its own."""
        text = format_date(day, "full", locale=self.locale)
        return text[:1].upper() + text[1:]

    def date_range(self, first: date, last: date | None) -> str:
        """From one day to another; only the first if the last is missing or not later."""
        if last is None or last <= first:
            return format_date(first, "long", locale=self.locale)
        return format_interval(first, last, "yMMMMd", locale=self.locale)

    def duration(self, minutes: int) -> str:
        """A duration in hours and minutes."""
        hours, rest = divmod(minutes, HOUR)
        parts = [("hour", hours)] if hours else []
        parts += [("minute", rest)] if rest or not hours else []
        texts = [format_unit(count, f"duration-{unit}", "short", locale=self.locale) for unit, count in parts]
        return format_list(texts, style="unit-narrow", locale=self.locale)


def template_functions(formats: Formats) -> Mapping[str, Callable[..., str]]:
    """The functions that templates may call, by name; each caches its results."""
    names = ("number", "percent", "rating", "weekday", "day", "date_range", "duration")
    return {name: lru_cache(CACHE_SIZE)(getattr(formats, name)) for name in names}


# The same text is used unescaped in HTML, in attributes and in text parts.
FORBIDDEN_CHARS = re.compile(r'[<>&"\r\n]')
PLURAL_SUFFIX = "_many"
SECTIONS = ("common", "plural", "stock", "footer")


@dataclass(frozen=True, slots=True)
class Translations:
    """The texts of one language. `kinds` holds texts by kind; `plurals` the singular and the plural of each noun."""

    locale: str
    common: Mapping[str, str]
    kinds: Mapping[str, Mapping[str, str]]
    plurals: Mapping[str, tuple[str, str]]
    stock_phrases: Mapping[str, str]
    footers: Mapping[str, Mapping[str, str]]
    formats: Formats

    def messages(self, kind: str) -> Mapping[str, str]:
        """All texts for one kind by name; the kind's own, and those of its footer, override the common ones.

        A text and its counterpart ending in `_many` become one text that chooses by the email's `total`.
        """
        texts = {**self.common, **self.footers.get(kind, {}), **self.kinds[kind]}
        for name in [name for name in texts if f"{name}{PLURAL_SUFFIX}" in texts]:
            many = texts.pop(name + PLURAL_SUFFIX)
            texts[name] = f"{{% if total > 1 %}}{many}{{% else %}}{texts[name]}{{% endif %}}"
        return texts

    def plural(self, noun: str, number: int) -> str:
        """A count with its noun: `1 day`, `2 days`."""
        one, many = self.plurals[noun]
        return (one if self.formats.is_singular(number) else many).format(n=self.formats.number(number))

    def translate(self, text: str) -> str:
        """A fixed English phrase of the producers in this language; any other text unchanged."""
        return self.stock_phrases.get(text, text)


def load_translations(locale: str) -> Translations:
    """Load the texts of one language. Raises ValueError for a text that could break an email."""
    file = files(__package__) / "translations" / f"{locale}.toml"
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    kinds = {name: texts for name, texts in content.items() if isinstance(texts, dict) and name not in SECTIONS}
    for texts in (content["common"], content["stock"], *content["footer"].values(), *kinds.values()):
        for name, text in texts.items():
            if FORBIDDEN_CHARS.search(text):
                raise ValueError(
                    f"translations/{locale}.toml: {name!r} contains markup, a quotation mark or a line break"
                )
    english, formats = Formats("en"), Formats(content["language"])
    return Translations(
        locale=content["language"],
        common=content["common"],
        kinds=kinds,
        plurals={noun: (one, many) for noun, (one, many) in content["plural"].items()},
        stock_phrases={**{english.weekday(day): formats.weekday(day) for day in range(1, 8)}, **content["stock"]},
        footers=content["footer"],
        formats=formats,
    )
