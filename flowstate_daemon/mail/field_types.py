"""The types of fields in an email's context, with validation and cleaning of their values.

The fields of `kind.toml` have these types: msgspec checks the JSON type, then the type's Cleaner checks and cleans the
value. Dirt never refuses an email: text is cleaned and cut, and an optional value that is wrong is dropped. Only a
required value may refuse it. An error names the field and the expected value, and never contains the actual value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.redaction import REDACTED
from flowstate_daemon.base.text import is_harmless_line, one_line, several_lines

MAX_TEXT_LENGTH = 64 * 1024  # characters; no email shows that many, and the rest is not read
MAX_NUMBER = 1_000_000_000
MAX_URL_LENGTH = 2_048  # characters; mail programs do not open longer URLs
TITLE_PLACEHOLDER = "…"  # an email is sent even if a title in the application is empty

CODE = re.compile(r"[0-9A-Za-z]{4,10}", re.ASCII)
DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
# No login part: a link such as https://app.example@evil.example looks like one site and opens another.
LINK = re.compile(r"https?://[^\s/?#@\\<>\"'`]+(?:[/?#][^\s<>]*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Cleaner:
    """How the values of one type of field are cleaned. `clean` raises ValueError with what it expected."""

    clean: Callable[[Any], Any]


def clean_title(text: str) -> str:
    """A title in one line. Line breaks, which people paste into titles, become spaces."""
    return one_line(text) or TITLE_PLACEHOLDER


def clean_code(text: str) -> str:
    if text == REDACTED:
        raise ValueError("a code; this one was removed when the job ended, so ask for a new email")
    if not CODE.fullmatch(text):
        raise ValueError("4 to 10 digits or letters")
    return text


def clean_url(text: str) -> str:
    """A URL for a link or button: http or https only, because other schemes may execute code."""
    url = text.strip()
    if len(url) > MAX_URL_LENGTH:
        raise ValueError(f"an address of at most {MAX_URL_LENGTH} characters")
    if not LINK.fullmatch(url) or not is_harmless_line(url):
        raise ValueError("an http or https address")
    return url


def to_int(number: float) -> int:
    if number != int(number):
        raise ValueError("`int`, got `float`")
    return int(number)


def round_half_up(number: float) -> int:
    """Half goes up, as in JavaScript, so that the email shows the same number as the application."""
    return math.floor(number + 0.5)


def parse_date(text: str) -> date:
    """A calendar date, without time and time zone."""
    try:
        if DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError("a day as YYYY-MM-DD")


def positive_or_zero(number: float) -> int:
    """An optional number: out of range becomes 0, which is not shown."""
    return int(number) if 0 <= number <= MAX_NUMBER else 0


Number: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)] | Annotated[float, Meta(ge=0, le=MAX_NUMBER)]
Line: TypeAlias = Annotated[str, Cleaner(one_line)]
Title: TypeAlias = Annotated[str, Cleaner(clean_title)]
Lines: TypeAlias = Annotated[str, Cleaner(several_lines)]
Code: TypeAlias = Annotated[str, Cleaner(clean_code)]
Url: TypeAlias = Annotated[str, Cleaner(clean_url)]
Count: TypeAlias = Annotated[Number, Cleaner(to_int)]
Percent: TypeAlias = Annotated[Number, Cleaner(round_half_up)]
OptionalCount: TypeAlias = Annotated[int | float, Cleaner(positive_or_zero)]
Day: TypeAlias = Annotated[str, Cleaner(parse_date)]
Weekday: TypeAlias = Annotated[int, Meta(ge=1, le=7), Cleaner(int)]  # ISO: 1 is Monday
Rating: TypeAlias = Annotated[Annotated[int, Meta(ge=1, le=5)] | Annotated[float, Meta(ge=1, le=5)], Cleaner(float)]


@dataclass(frozen=True, slots=True)
class FieldRule:
    """How one field is validated and cleaned. `member` is its name in JSON, `path` its path in the job's data."""

    name: str
    member: str
    path: str
    hint: Any
    form: Cleaner
    optional: bool
    default: Any = None

    def clean(self, value: Any) -> Any:
        """The cleaned value; the default for an optional one that is missing or wrong. Raises InvalidDataError."""
        if isinstance(value, str):
            value = value[:MAX_TEXT_LENGTH]
        if self.optional and (value is None or (isinstance(value, str) and not value.strip())):
            return self.default
        try:
            return self.form.clean(value)
        except ValueError as refusal:
            if self.optional:
                return self.default
            raise self._refusal(f"Expected {refusal}") from None

    def convert(self, members: Mapping[str, Any]) -> Any:
        """The value out of a JSON object in which some members have wrong types. Raises InvalidDataError."""
        if self.member not in members and not self.optional:
            raise InvalidDataError(
                f"Object missing required field `{self.member}` - at `{self.path.rpartition('.')[0]}`"
            )
        try:
            return msgspec.convert(members.get(self.member), self.hint)
        except msgspec.ValidationError as refusal:
            if self.optional:
                return None  # `clean` makes it the default
            raise self._refusal(str(refusal)) from None

    def _refusal(self, reason: str) -> InvalidDataError:
        return InvalidDataError(f"{reason} - at `{self.path}`")


@dataclass(frozen=True, slots=True)
class ListRule:
    """How a list of structs is validated and cleaned. A row that is wrong is dropped."""

    name: str
    member: str
    row: type[msgspec.Struct]
    max_rows: int
    rules: tuple[FieldRule, ...]

    def clean(self, value: Any) -> tuple[msgspec.Struct, ...]:
        """The cleaned rows; null means no rows."""
        rows = (self._row(rule.clean(getattr(row, rule.name)) for rule in self.rules) for row in value or ())
        return tuple([row for row in rows if row is not None])

    def convert(self, members: Mapping[str, Any]) -> tuple[msgspec.Struct, ...]:
        """The rows out of a JSON object in which some members have wrong types; at most `max_rows`."""
        value = members.get(self.member)
        given = value[: self.max_rows] if isinstance(value, list) else []
        rows = (self._row(rule.convert(row) for rule in self.rules) for row in given if isinstance(row, dict))
        return tuple([row for row in rows if row is not None])

    def _row(self, values: Iterator[Any]) -> msgspec.Struct | None:
        try:
            return self.row(*values)
        except InvalidDataError:
            return None
