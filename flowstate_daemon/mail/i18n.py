"""The words of one language, read from `translations/<locale>.toml`.

`press` puts them into templates at start: a template says `[[ intro ]]`, and what stands there afterwards is part of
the template, so that words may speak of fields, and a missing word is found at start instead of in somebody's mail.
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

CACHE_SIZE = 1_024  # answers of each function
HOUR = 60
MAX_RATING = 5  # of ratings


class Formats:
    """One language's way to write things."""

    def __init__(self, locale: str) -> None:
        self.locale = locale
        self._plural = Locale.parse(locale).plural_form
        self._weekdays = get_day_names("wide", "stand-alone", locale)

    def is_singular(self, number: int) -> bool:
        """Whether so many things are named in the singular: in French, none is."""
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
        """A day with its weekday, as it stands on a line of its own."""
        text = format_date(day, "full", locale=self.locale)
        return text[:1].upper() + text[1:]

    def date_range(self, first: date, last: date | None) -> str:
        """From one day to another; the first alone where that is no span of time."""
        if last is None or last <= first:
            return format_date(first, "long", locale=self.locale)
        return format_interval(first, last, "yMMMMd", locale=self.locale)

    def duration(self, minutes: int) -> str:
        """A length of time in hours and minutes."""
        hours, rest = divmod(minutes, HOUR)
        parts = [("hour", hours)] if hours else []
        parts += [("minute", rest)] if rest or not hours else []
        text = [format_unit(many, f"duration-{unit}", "short", locale=self.locale) for unit, many in parts]
        return format_list(text, style="unit-narrow", locale=self.locale)


def template_functions(formats: Formats) -> Mapping[str, Callable[..., str]]:
    """What templates may call, by name; each remembers its latest answers."""
    names = ("number", "percent", "rating", "weekday", "day", "days", "length")
    return {name: lru_cache(CACHE_SIZE)(getattr(formats, name)) for name in names}


FORBIDDEN_CHARS = re.compile(r'[<>&"\r\n]')  # words stand in HTML, in its attributes and in text parts, as they are
PLURAL_SUFFIX = "_many"
SECTIONS = ("common", "plural", "stock")


@dataclass(frozen=True, slots=True)
class Translations:
    """One language. `kinds` are its words by kind of mail; `plurals` hold the forms for one and for many."""

    locale: str
    common: Mapping[str, str]
    kinds: Mapping[str, Mapping[str, str]]
    plurals: Mapping[str, tuple[str, str]]
    stock_phrases: Mapping[str, str]
    formats: Formats

    def messages(self, kind: str) -> Mapping[str, str]:
        """All words for one kind of mail by name, its own before those of all kinds.

        A word and its twin ending in `_many` become one, between which a mail's `total` chooses.
        """
        text = {**self.common, **self.kinds[kind]}
        for name in [name for name in text if f"{name}{PLURAL_SUFFIX}" in text]:
            text[name] = f"{{% if total > 1 %}}{text.pop(name + PLURAL_SUFFIX)}{{% else %}}{text[name]}{{% endif %}}"
        return text

    def plural(self, thing: str, number: int) -> str:
        """A number of things: `1 day`, `2 days`; each language has its own idea of what is one."""
        one, many = self.plurals[thing]
        return (one if self.formats.is_singular(number) else many).format(n=self.formats.number(number))

    def translate(self, text: str) -> str:
        """A producer's stock phrase in this language; any other text as it is."""
        return self.stock_phrases.get(text, text)


def load_translations(locale: str) -> Translations:
    """Read the words of one language. Raises ValueError for words that could break a mail."""
    text = (files(__package__) / "translations" / f"{locale}.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    kinds = {name: words for name, words in content.items() if isinstance(words, dict) and name not in SECTIONS}
    for words in (content["common"], content["stock"], *kinds.values()):
        for name, word in words.items():
            if FORBIDDEN_CHARS.search(word):
                raise ValueError(f"translations/{locale}.toml: {name!r} holds markup, a quotation mark or a line break")
    english, formats = Formats("en"), Formats(content["language"])
    return Translations(
        locale=content["language"],
        common=content["common"],
        kinds=kinds,
        plurals={thing: (one, many) for thing, (one, many) in content["plural"].items()},
        stock_phrases={**{english.weekday(day): formats.weekday(day) for day in range(1, 8)}, **content["stock"]},
        formats=formats,
    )
