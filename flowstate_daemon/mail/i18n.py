"""One language: its formats of numbers and dates, and the texts of emails from `texts/<language>.toml`.

`templates` inserts the texts into the templates at start (`[[ intro ]]`), so a text may itself contain fields, and a
missing text stops the start instead of breaking an email.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from functools import cache, lru_cache
from typing import Any

from babel import Locale
from babel.dates import format_date, format_interval, format_time, get_day_names
from babel.lists import format_list
from babel.numbers import format_decimal, format_percent
from babel.units import format_unit

from flowstate_daemon.mail.code_lifetime import parse_lifetime
from flowstate_daemon.mail.kind_files import SourceFile

CACHE_SIZE = 1_024  # results of each function
HOUR = 60  # minutes
MINUTE_S = 60
MAX_RATING = 5
DAYS_OF_WEEK = range(1, 8)
# The first of a month is an ordinal number in some languages; CLDR has no pattern for it.
FIRST_OF_MONTH = {"fr": "1er"}
SHORT_MONTH = re.compile(r"(?<!M)MMM(?!M)")
FIRST_DAY = re.compile(r"(?<!\d)1(?=\s[^\W\d_]|\s?\u2013)")

TEMPLATE_FUNCTIONS = (
    *("number", "percent", "rating", "weekday", "day", "long_date", "date_range", "time_of_day"),
    *("duration", "lifetime", "plural_category"),
)


class Formats:
    """Formats numbers, dates and durations in one language. `durations` are patterns that replace those of CLDR."""

    def __init__(self, locale: str, durations: Mapping[str, str] | None = None) -> None:
        self.locale = locale
        self._durations = durations or {}
        self._plural = Locale.parse(locale).plural_form
        self._weekdays = get_day_names("wide", "stand-alone", locale)
        # What templates may call, by name. All emails of the language share the cached results.
        self.functions: Mapping[str, Callable[..., str]] = {
            name: lru_cache(CACHE_SIZE)(getattr(self, name)) for name in TEMPLATE_FUNCTIONS
        }

    def plural_category(self, number: int) -> str:
        """The CLDR plural category of a count: in English `one` or `other`; in French, 0 is `one` as well."""
        return str(self._plural(number))

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
        text = self._ordinal(format_date(day, "full", locale=self.locale))
        return text[:1].upper() + text[1:]

    def long_date(self, day: date) -> str:
        """A date without its weekday."""
        return self._ordinal(format_date(day, "long", locale=self.locale))

    def date_range(self, first: date, last: date | None) -> str:
        """From one day to another; only the first if the last is missing or not later."""
        if last is None or last <= first:
            return self.long_date(first)
        return self._ordinal(self._interval(first, last))

    def _interval(self, first: date, last: date) -> str:
        """With the whole names of months, as a date alone has them: many languages have no such pattern in CLDR."""
        known, days = Locale.parse(self.locale).interval_formats, (first, last)
        differs = "y" if first.year != last.year else "M" if first.month != last.month else "d"
        patterns = known.get("yMMMd", {}).get(differs, ())
        if "yMMMMd" in known or len(patterns) != len(days):
            return format_interval(first, last, "yMMMMd", locale=self.locale)
        return "".join(
            format_date(day, SHORT_MONTH.sub("MMMM", pattern), locale=self.locale)
            for day, pattern in zip(days, patterns, strict=True)
        )

    def time_of_day(self, at: time) -> str:
        return format_time(at, "short", locale=self.locale)

    def duration(self, minutes: int) -> str:
        """A duration in hours and minutes."""
        hours, rest = divmod(minutes, HOUR)
        name = "minutes" if not hours else "hours_minutes" if rest else "hours"
        if pattern := self._durations.get(name):
            padded = f"{rest:02}" if hours else str(rest)
            return pattern.replace("{h}", self.number(hours)).replace("{mm}", padded).replace("{m}", str(rest))
        return self._units(minutes, "short", "unit-narrow")

    def lifetime(self, text: str | None) -> str:
        """How long a code is valid, from the producer's English text, in words of this language."""
        return self._units(parse_lifetime(text) // MINUTE_S, "long", "unit")

    def _units(self, minutes: int, length: Any, style: Any) -> str:
        hours, rest = divmod(minutes, HOUR)
        parts = [("hour", hours)] if hours else []
        parts += [("minute", rest)] if rest or not hours else []
        texts = [format_unit(count, f"duration-{unit}", length, locale=self.locale) for unit, count in parts]
        return format_list(texts, style=style, locale=self.locale)

    def _ordinal(self, text: str) -> str:
        first = FIRST_OF_MONTH.get(self.locale)
        return text if first is None else FIRST_DAY.sub(first, text)


# The same text is used unescaped in HTML, in attributes and in text parts.
FORBIDDEN_CHARS = re.compile(r'[<>&"\r\n]')
TEXT_NAME = re.compile(r"[a-z][a-z0-9_]*")
EXACT_FORM = re.compile(r"=\d{1,4}")
JINJA_CONSTANTS = frozenset({"none", "true", "false"})  # Jinja would print these instead of the text
DURATION_NAMES = frozenset({"hours_minutes", "hours", "minutes"})
MANY = 200  # a language needs the plural forms of all whole numbers up to this one
Forms = Mapping[str, str]


@cache
def needed_forms(locale: str) -> tuple[str, ...]:
    """The CLDR plural categories of whole numbers: `one` and `other` in English, `one`, `few` and `many` in Polish."""
    plural_form = Locale.parse(locale).plural_form
    return tuple(dict.fromkeys(str(plural_form(number)) for number in range(1, MANY)))


@dataclass(frozen=True, slots=True)
class TextFile:
    """One `texts/<language>.toml`.

    `names` and `nouns` are those of all its texts and plurals, also of those that have a problem.
    """

    names: frozenset[str] = frozenset()
    nouns: frozenset[str] = frozenset()
    messages: Mapping[str, str] = field(default_factory=dict)
    plurals: Mapping[str, Forms] = field(default_factory=dict)
    phrases: Mapping[str, str | Forms] = field(default_factory=dict)
    durations: Mapping[str, str] = field(default_factory=dict)


def parse_text_file(file: SourceFile, locale: str, problems: list[str]) -> TextFile:
    """The texts of one file without those that have a problem."""
    content = dict(file.parse_toml(problems) or {})
    sections = {name: content.pop(name) for name in ("plural", "phrases", "duration") if name in content}
    found = _TextChecks(file, needed_forms(locale), problems)
    plural = sections.get("plural")
    return TextFile(
        names=frozenset(content),
        nouns=frozenset(plural if isinstance(plural, dict) else ()),
        messages=dict(found.messages(content)),
        plurals=dict(found.plurals("plural", sections.get("plural", {}))),
        phrases=dict(found.phrases(sections.get("phrases", {}))),
        durations=dict(found.durations(sections.get("duration", {}))),
    )


class _TextChecks:
    """Checks the texts of one file one by one, so that all problems are found."""

    def __init__(self, file: SourceFile, forms: tuple[str, ...], problems: list[str]) -> None:
        self._file = file
        self._forms = forms
        self._problems = problems

    def messages(self, texts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for name, text in texts.items():
            if not TEXT_NAME.fullmatch(name) or name in JINJA_CONSTANTS:
                self._problem([name], "expected a name of lower-case letters, digits and _")
            elif self._is_text([name], text):
                yield name, text

    def plurals(self, table: str, nouns: Any) -> Iterator[tuple[str, Forms]]:
        for noun, forms in self._items(table, nouns):
            if not isinstance(forms, dict):
                self._problem([table, noun], 'expected the forms of the language, such as { one = "…", other = "…" }')
            elif self._are_forms([table, noun], forms):
                yield noun, forms

    def phrases(self, phrases: Any) -> Iterator[tuple[str, str | Forms]]:
        for phrase, text in self._items("phrases", phrases):
            if isinstance(text, dict):
                yield from self.plurals("phrases", {phrase: text})
            elif self._is_text(["phrases", phrase], text):
                yield phrase, text

    def durations(self, patterns: Any) -> Iterator[tuple[str, str]]:
        for name, text in self._items("duration", patterns):
            if name not in DURATION_NAMES:
                self._problem(["duration", name], f"expected one of {', '.join(sorted(DURATION_NAMES))}")
            elif self._is_text(["duration", name], text):
                yield name, text

    def _items(self, table: str, content: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(content, dict):
            yield from content.items()
        else:
            self._problem([table], "expected a table")

    def _are_forms(self, keys: list[str], forms: Mapping[str, Any]) -> bool:
        known = {*self._forms, "other"}
        strange = [form for form in forms if form not in known and not EXACT_FORM.fullmatch(form)]
        missing = [form for form in self._forms if form not in forms]
        for form in strange:
            self._problem([*keys, form], f"{form} is no plural form of this language: {', '.join(sorted(known))}")
        if missing:
            self._problem(keys, f"the plural form {' and '.join(missing)} is missing")
        wrong = [form for form in forms if not self._is_text([*keys, form], forms[form])]
        return not (strange or missing or wrong)

    def _is_text(self, keys: list[str], text: Any) -> bool:
        if not isinstance(text, str):
            self._problem(keys, "expected text")
        elif FORBIDDEN_CHARS.search(text):
            self._problem(keys, 'contains markup, a quotation mark or a line break, one of < > & "')
        else:
            return True
        return False

    def _problem(self, keys: list[str], message: str) -> None:
        self._problems.append(self._file.problem_at(keys, message))


class Texts:
    """The texts of one kind in one language, the common ones included."""

    def __init__(self, locale: str, common: TextFile, own: TextFile, formats: Formats) -> None:
        self.locale = locale
        self.formats = formats
        self.messages = {**common.messages, **own.messages}
        self.own_names = frozenset(own.messages)
        self.plurals = {**common.plurals, **own.plurals}
        phrases = {**common.phrases, **own.phrases}
        self._phrases = {phrase: text for phrase, text in phrases.items() if isinstance(text, str)}
        self._counted = [(_pattern(phrase), forms) for phrase, forms in phrases.items() if not isinstance(forms, str)]
        english = get_day_names("wide", "stand-alone", "en")
        for day in DAYS_OF_WEEK:
            self._phrases.setdefault(str(english[day - 1]), formats.weekday(day))
        self.cached_plural = lru_cache(CACHE_SIZE)(self.plural)
        self.cached_phrase = lru_cache(CACHE_SIZE)(self.phrase)

    def resolve(self, variants: Mapping[str, str]) -> dict[str, str]:
        """The texts by name: one with variants becomes a text that chooses by their conditions.

        Of `subject`, `subject_many` is the variant `many`: it is used if the condition of that name holds.
        """
        texts = dict(self.messages)
        for name in self.own_names:
            found = {variant: f"{name}_{variant}" for variant in variants if f"{name}_{variant}" in self.messages}
            if found:
                chain = "".join(
                    f"{{% {'elif' if number else 'if'} {variants[variant]} %}}{texts.pop(other)}"
                    for number, (variant, other) in enumerate(found.items())
                )
                texts[name] = f"{chain}{{% else %}}{self.messages[name]}{{% endif +%}}"
        return texts

    def plural(self, noun: str, number: int) -> str:
        """A count with its noun: `1 day`, `2 days`."""
        return self._counted_text(self.plurals[noun], number)

    def phrase(self, text: str) -> str:
        """A fixed English phrase of the producers in this language; any other text unchanged."""
        found = self._phrases.get(text)
        if found is not None or not self._counted:
            return text if found is None else found
        for pattern, forms in self._counted:
            if match := pattern.fullmatch(text):
                return self._counted_text(forms, int(match[1]))
        return text

    def _counted_text(self, forms: Forms, number: int) -> str:
        form = forms.get(f"={number}") or forms.get(self.formats.plural_category(number)) or forms["other"]
        return form.replace("{n}", self.formats.functions["number"](number))


def _pattern(phrase: str) -> re.Pattern[str]:
    before, _, after = phrase.partition("{n}")
    return re.compile(rf"{re.escape(before)}(\d{{1,9}}){re.escape(after)}")
